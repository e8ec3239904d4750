"""Packed files, pipes and standard input: the same rows and lines as from a plain file; where one breaks off, everything before."""

from __future__ import annotations

import gzip
import io
import json
import os
import shutil
import subprocess
import sys
import threading
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mlx_distill.data.examples import load
from mlx_distill.data.read import by_name, formats, read, suffix
from mlx_distill.data.sources import STANDARD_INPUT, SourceRow
from mlx_distill.errors import DataError
from mlx_distill.recipe.schema import DataSpec, FieldSpec, SourceSpec, TaskSpec
from mlx_distill.records import BadRow

Found = list[SourceRow | BadRow]


def zstd(data: bytes) -> bytes:
    """One frame, as the command writes it."""
    import pyarrow

    sink = pyarrow.BufferOutputStream()
    with pyarrow.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(data)
    packed: bytes = sink.getvalue().to_pybytes()
    return packed


PACK: dict[str, Callable[[bytes], bytes]] = {".gz": gzip.compress, ".zst": zstd, ".zstd": zstd}
every_packing = pytest.mark.parametrize("packing", list(PACK))
TEXTS = ["", "a\0b", "😀", "مرحبا", "line\nbreak", "\r\n", 'a "quote"', "a,b;c\td", "\u2028\x85", "x" * 300_000]
JSONL = (
    b'{"id": 1}\n\n{"id": \n'
    + b'{"text": "caf\xe9"}\n'
    + b"".join(json.dumps({"text": text}).encode() + b"\n" for text in TEXTS)
    + b'{"id": 9}'
)
CSV = b'id,text\n1,"two\nlines"\n\n2,caf\xe9\n3,' + b"x" * 300_000 + b"\r\n4\n5,e"


def put(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def rows(path: Path, **settings: Any) -> Found:
    return list(read(by_name(path, **settings), path))


def placed(found: Found) -> list[tuple[int | None, object]]:
    """Rows without the name of their file."""
    return [(row.line, row.record if isinstance(row, SourceRow) else row.reason) for row in found]


def until_it_breaks(path: Path, **settings: Any) -> tuple[Found, DataError]:
    found: Found = []
    with pytest.raises(DataError) as caught:
        found.extend(read(by_name(path, **settings), path))
    return found, caught.value


# Packed


@every_packing
@pytest.mark.parametrize(
    ("name", "content"), [("a.jsonl", JSONL), ("a.ndjson", JSONL), ("a.csv", CSV), ("a.tsv", CSV.replace(b",", b"\t"))]
)
def test_a_packed_file_gives_what_the_plain_one_gives_bad_rows_and_lines_too(
    tmp_path: Path, packing: str, name: str, content: bytes
) -> None:
    plain = placed(rows(put(tmp_path / name, content)))
    assert len([row for row in plain if isinstance(row[1], str)]) == 2, "bad ones"
    packed = put(tmp_path / f"{name}{packing}", PACK[packing](content))
    found = rows(packed)
    assert placed(found) == plain
    assert {row.file for row in found} == {str(packed)}


@every_packing
def test_files_packed_one_after_another_are_one(tmp_path: Path, packing: str) -> None:
    parts = [PACK[packing](part) for part in (b'{"id": 1}\n{"id', b"", b'": 2}\n', b'{"id": 3}\n')]
    assert placed(rows(put(tmp_path / f"a.jsonl{packing}", b"".join(parts)))) == [(1, {"id": 1}), (2, {"id": 2}), (3, {"id": 3})]


def test_a_frame_to_be_skipped_as_pzstd_writes_it_is_skipped(tmp_path: Path) -> None:
    path = put(tmp_path / "a.jsonl.zst", b"\x50\x2a\x4d\x18\x04\0\0\0abcd" + zstd(b'{"id": 1}\n'))
    assert placed(rows(path)) == [(1, {"id": 1})]


def test_the_first_bytes_tell_what_a_file_is_packed_with_not_its_name(tmp_path: Path) -> None:
    assert placed(rows(put(tmp_path / "a.jsonl.gz", zstd(b'{"id": 1}\n')))) == [(1, {"id": 1})]
    assert placed(rows(put(tmp_path / "a.jsonl", gzip.compress(b'{"id": 1}\n')))) == [(1, {"id": 1})]


def test_a_name_that_promises_packing_is_held_to_it(tmp_path: Path) -> None:
    found, error = until_it_breaks(put(tmp_path / "a.csv.gz", b"id\n1\n"))
    assert found == []
    assert error.message == "called .gz, and it does not begin as gzip does"
    assert error.hint == "if it is not packed at all, call it a.csv; else copy it anew"


@every_packing
@pytest.mark.parametrize("name", ["a.jsonl", "a.csv"])
def test_a_packed_file_of_nothing_is_empty(tmp_path: Path, name: str, packing: str) -> None:
    for content in (b"", PACK[packing](b"")):
        path = put(tmp_path / f"{name}{packing}", content)
        with pytest.raises(DataError, match="the file is empty") as caught:
            rows(path)
        assert caught.value.file == str(path)


def lines(number: int, format: str) -> list[bytes]:
    """Of many lengths, and too unlike each other to be packed into a few bytes."""
    import random

    words = random.Random(0)
    texts = ["".join(words.choices("abcdefghij klmnop", k=words.randrange(200))) for _ in range(number)]
    return [f'{{"text": "{text}"}}\n'.encode() if format == "jsonl" else f'"{text}"\n'.encode() for text in texts]


@every_packing
@pytest.mark.parametrize("format", ["jsonl", "csv"])
def test_a_torn_file_gives_every_whole_line_before_the_tear_and_names_the_next(tmp_path: Path, format: str, packing: str) -> None:
    """Cut within a frame of its own, so that what is whole is known: all frames before."""
    head = [b"text\n"] if format == "csv" else []
    parts = [lines(n, format) for n in (400, 3, 1)]
    whole = PACK[packing](b"".join(head + parts[0])) + PACK[packing](b"".join(parts[1])[:-4]) + b""
    last = PACK[packing](b"".join(parts[2]) * 3)
    for cut in (1, 2, 9, len(last) // 2):
        found, error = until_it_breaks(put(tmp_path / f"a.{format}{packing}", whole + last[:cut]))
        assert len(found) == len(parts[0]) + 2, "the third line of the second frame lacks its end"
        assert all(isinstance(row, SourceRow) for row in found)
        assert error.line == len(head) + len(found) + 1
        assert error.message.startswith(f"the file ends in the middle of its {'gzip' if packing == '.gz' else 'zstd'} data")
        assert error.hint is not None
        assert f"-dc a.{format}{packing} > a.{format}" in error.hint


def test_a_torn_gzip_file_gives_all_that_the_gzip_command_gives(tmp_path: Path) -> None:
    packed = gzip.compress(b"".join(lines(4000, "jsonl")))
    for cut in (len(packed) - 1, len(packed) - 9, len(packed) // 2, len(packed) // 3):
        path = put(tmp_path / "a.jsonl.gz", packed[:cut])
        unpacked = subprocess.run(["gzip", "-dc", path], capture_output=True, check=False).stdout
        found, error = until_it_breaks(path)
        assert len(found) == unpacked.count(b"\n")
        assert error.line == len(found) + 1


def zstd_command(data: bytes) -> bytes:
    """It writes a checksum, which pyarrow leaves out."""
    return subprocess.run(["zstd", "-c"], input=data, capture_output=True, check=True).stdout


without_zstd = pytest.mark.skipif(shutil.which("zstd") is None, reason="there is no command zstd")


@pytest.mark.parametrize(("packing", "pack"), [(".gz", gzip.compress), pytest.param(".zst", zstd_command, marks=without_zstd)])
def test_damage_is_found_and_the_rows_before_are_said_to_be_in_doubt(tmp_path: Path, packing: str, pack: Callable[[bytes], bytes]) -> None:
    packed = bytearray(pack(b"".join(lines(4000, "jsonl"))))
    packed[len(packed) * 2 // 3] ^= 0x10
    _, error = until_it_breaks(put(tmp_path / f"a.jsonl{packing}", bytes(packed)))
    assert "damaged, here or before" in error.message
    assert error.hint is not None
    assert error.hint.startswith("what came before may be wrong")
    assert error.line is not None and error.line > 1


@every_packing
def test_what_is_not_packed_behind_what_is_is_found_after_every_row_before(tmp_path: Path, packing: str) -> None:
    whole = lines(1000, "jsonl")
    path = put(tmp_path / f"a.jsonl{packing}", PACK[packing](b"".join(whole)) + b'{"text": "appended by a text editor"}\n')
    found, error = until_it_breaks(path)
    assert len(found) == 1000
    assert error.line == 1001


def test_a_tear_within_a_record_of_several_lines_names_the_line_of_the_tear(tmp_path: Path) -> None:
    torn = gzip.compress(b'text\na\n"b\nc\n') + gzip.compress(b'd"\n')[:10]
    found, error = until_it_breaks(put(tmp_path / "a.csv.gz", torn))
    assert placed(found) == [(2, {"text": "a"})]
    assert error.line == 5


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    """40 MB of rows out of 200 KB; pyarrow's own buffers are not counted here."""
    path = put(tmp_path / "a.jsonl.gz", gzip.compress(b'{"text": "' + b"x" * 4000 + b'"}\n') * 10_000)
    sum(1 for _ in read(by_name(path), path))
    tracemalloc.start()
    assert sum(1 for _ in read(by_name(path), path)) == 10_000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**20


# Folders and recipes


def test_a_folder_may_mix_packed_and_plain_files_of_a_kind(tmp_path: Path) -> None:
    put(tmp_path / "a.jsonl", b'{"id": 1}\n')
    put(tmp_path / "b.jsonl.gz", gzip.compress(b'{"id": 2}\n'))
    put(tmp_path / "c.NDJSON.ZST", zstd(b'{"id": 3}\n'))
    put(tmp_path / "notes.gz", gzip.compress(b"not data"))
    put(tmp_path / ".e.csv", b"hidden")
    assert by_name(tmp_path).kind == "jsonl"
    assert placed(rows(tmp_path)) == [(1, {"id": 1}), (1, {"id": 2}), (1, {"id": 3})]


@every_packing
def test_a_file_beside_its_packed_self_is_not_read_twice(tmp_path: Path, packing: str) -> None:
    put(tmp_path / "a.csv", b"id\n1\n")
    put(tmp_path / f"a.csv{packing}", PACK[packing](b"id\n1\n"))
    with pytest.raises(DataError, match=rf"a\.csv and a\.csv{packing} are one file twice") as caught:
        rows(tmp_path)
    assert caught.value.hint == "remove one of them, or name one as the source"


def test_a_recipe_learns_from_packed_labels(tmp_path: Path) -> None:
    task = TaskSpec(instructions="?", input="{text}", fields={"wet": FieldSpec(kind="flag")})
    path = put(tmp_path / "a.csv.zst", zstd(b"text,wet\nrain,true\nsun,false\n"))
    found = load(task, DataSpec(source=SourceSpec(kind="csv", path="a.csv.zst")), path)
    assert [row.labels for row in found.rows] == [{"wet": True}, {"wet": False}]


@pytest.mark.parametrize(
    ("name", "kind"),
    [("a.jsonl.gz", "jsonl"), ("a.NDJSON.zst", "jsonl"), ("a.b.csv.zstd", "csv"), ("a.tsv.gz", "csv"), ("a.parquet", "parquet")],
)
def test_the_name_tells_the_kind_under_the_packing(tmp_path: Path, name: str, kind: str) -> None:
    assert by_name(tmp_path / name) == SourceSpec(kind=kind, path=str(tmp_path / name))
    assert suffix(tmp_path / name).removeprefix(".") in formats()


def test_packed_parquet_is_refused_with_the_way_out_in_a_folder_too(tmp_path: Path) -> None:
    put(tmp_path / "a.parquet", b"PAR1")
    packed = put(tmp_path / "b.parquet.gz", gzip.compress(b"PAR1"))
    for path in (packed, tmp_path):
        with pytest.raises(DataError, match="a Parquet file is read from its end, and not while it is unpacked") as caught:
            rows(path)
        assert caught.value.file == str(packed)
        assert caught.value.hint == "unpack it into b.parquet; what it holds is packed already"


# Pipes and standard input


class _Stream(io.RawIOBase):
    """Bytes that come one at a time and cannot be sought."""

    def __init__(self, data: bytes):
        self._data = io.BytesIO(data)

    def readable(self) -> bool:
        return True

    def readinto(self, into: Any) -> int:
        byte = self._data.read(1)
        into[: len(byte)] = byte
        return len(byte)


def stand_in(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BufferedReader(_Stream(data))))


@pytest.mark.parametrize("pack", [bytes, gzip.compress, zstd])
@pytest.mark.parametrize(("format", "content"), [("jsonl", JSONL), ("csv", CSV), ("tsv", CSV.replace(b",", b"\t"))])
def test_standard_input_gives_what_a_file_gives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, format: str, content: bytes, pack: Callable[[bytes], bytes]
) -> None:
    stand_in(monkeypatch, pack(content[:5000]))
    found = rows(STANDARD_INPUT, format=format)
    assert placed(found) == placed(rows(put(tmp_path / f"a.{format}", content[:5000])))
    assert {row.file for row in found} == {"<stdin>"}
    assert not sys.stdin.buffer.closed, "it is not ours to close"


def test_standard_input_is_the_process_s_own(tmp_path: Path) -> None:
    code = "from mlx_distill.data.read import *; p = STANDARD_INPUT; print([row.record for row in read(by_name(p, format='jsonl'), p)])"
    done = subprocess.run([sys.executable, "-c", code], input=b'{"id": 1}\n{"id": 2}\n', capture_output=True, check=True)
    assert done.stdout == b"[{'id': 1}, {'id': 2}]\n"


def test_what_is_wrong_with_standard_input_is_said_under_that_name(monkeypatch: pytest.MonkeyPatch) -> None:
    for data, format, said in (
        (b"", "jsonl", "<stdin>: the file is empty"),
        (b"id,id\n", "csv", "<stdin>:1: the header has 'id' more than once"),
        (gzip.compress(b'{"id": 1}\n')[:-9], "jsonl", "<stdin>:2: the file ends in the middle of its gzip data"),
    ):
        stand_in(monkeypatch, data)
        _, error = until_it_breaks(STANDARD_INPUT, format=format)
        assert str(error).startswith(said)


def test_standard_input_has_to_be_told_its_format() -> None:
    with pytest.raises(DataError, match="standard input has no name") as caught:
        by_name(STANDARD_INPUT)
    assert caught.value.hint == "say it: --format csv or jsonl or ndjson or tsv"
    with pytest.raises(DataError, match="there is no format 'cvs'") as caught:
        by_name(STANDARD_INPUT, format="cvs")
    assert caught.value.hint == "did you mean csv?"


def test_a_format_that_is_told_beats_the_name(tmp_path: Path) -> None:
    assert placed(rows(put(tmp_path / "export.txt", b"id\ttext\n1\ta,b\n"), format="tsv")) == [(2, {"id": "1", "text": "a,b"})]
    assert by_name(tmp_path / "a.csv", format="tsv", delimiter="|").delimiter == "|"


def test_parquet_through_a_pipe_is_refused_with_the_way_out(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, called in ((STANDARD_INPUT, "<stdin>"), (tmp_path / "pipe", str(tmp_path / "pipe"))):
        with pytest.raises(DataError, match="a Parquet file is read from its end, which a pipe does not have yet") as caught:
            rows(path, format="parquet")
        assert caught.value.file == called
        assert caught.value.hint == "write it to a file first (cat > texts.parquet), and name that"


def test_rows_of_a_packed_pipe_come_before_its_end(tmp_path: Path) -> None:
    path = tmp_path / "pipe.jsonl.gz"
    os.mkfifo(path)
    may_end = threading.Event()

    def feed() -> None:
        with path.open("wb", buffering=0) as file:
            file.write(gzip.compress(b'{"id": 1}\n' * 20_000))
            may_end.wait(10)

    writer = threading.Thread(target=feed, daemon=True)
    writer.start()
    found = read(by_name(path), path)
    assert next(found) == SourceRow(1, {"id": 1}, str(path))
    assert writer.is_alive()
    may_end.set()
    assert sum(1 for _ in found) == 19_999
    writer.join()
