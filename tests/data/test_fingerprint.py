"""What tells inputs apart: contents, not places; what grew is recognised by how it begins; rows are counted on the way."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import os
from pathlib import Path

import pytest

from mlx_distill.data import fingerprint as module
from mlx_distill.data.fingerprint import fingerprint
from mlx_distill.data.read import by_name, read
from mlx_distill.data.sources import STANDARD_INPUT

ODD = ['a "quoted" word', "two\nlines", 'a quote at the end"', '"', "\r\nline ends\r\n", "", ",", "plain"]


def csv_of(texts: list[str]) -> bytes:
    out = io.StringIO(newline="")
    csv.writer(out).writerows([["id", "text"], *([i, text] for i, text in enumerate(texts))])
    return out.getvalue().encode()


@pytest.mark.parametrize("chunk", [1, 3, 1 << 20])
@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", csv_of(ODD)),
        ("b.csv", csv_of(ODD).removesuffix(b"\r\n")),
        ("c.csv", b"id,text\n"),
        ("d.jsonl", b'{"a": 1}\n{"a": "\\n"}\n'),
        ("e.jsonl", b'{"a": 1}\n{"a": 2}'),
    ],
)
def test_rows_and_bytes_and_hash(name: str, content: bytes, chunk: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHUNK", chunk)
    path = tmp_path / name
    path.write_bytes(content)
    spec = by_name(path)
    (found,) = fingerprint(spec, path) or ()
    assert found.rows == len(list(read(spec, path)))
    assert (found.name, found.bytes, found.sha256) == (name, len(content), hashlib.sha256(content).hexdigest())


def test_parquet_tells_its_rows_and_a_packed_file_does_not(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.table({"text": ["a", "b", "c"]}), tmp_path / "a.parquet")
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(b'{"a": 1}\n'))
    rows = [fingerprint(by_name(path), path) for path in (tmp_path / "a.parquet", tmp_path / "a.jsonl.gz")]
    assert [found[0].rows for found in rows if found] == [3, None]


@pytest.mark.parametrize(
    ("before", "after", "grown"),
    [
        (b"{}\n{}\n", b"{}\n{}\n{}\n", True),
        (b"{}\n{}", b"{}\n{}\n{}\n", True),
        (b"{}\n{}", b"{}\n{}\r\n{}\r\n", True),
        (b"{}\n{}", b"{}\n{} \n", False),
        (b"{}\n{}\n", b"{}\n[]\n{}\n", False),
        (b"{}\n{}\n", b"{}\n", False),
        (b"{}\n{}\n", b"{}\n{}\n", False),
    ],
)
@pytest.mark.parametrize("chunk", [2, 1 << 20])
def test_what_grew_by_whole_rows_begins_as_before(
    before: bytes, after: bytes, grown: bool, chunk: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CHUNK", chunk)
    path = tmp_path / "rows.jsonl"
    path.write_bytes(after)
    (found,) = fingerprint(by_name(path), path, {"rows.jsonl": len(before)}) or ()
    assert (found.begins == hashlib.sha256(before).hexdigest()) == grown
    assert found.sha256 == hashlib.sha256(after).hexdigest()


def test_a_packed_file_begins_as_the_part_of_it_that_was_copied_first(tmp_path: Path) -> None:
    whole = gzip.compress(b'{"a": "some text"}\n' * 9)
    path = tmp_path / "rows.jsonl.gz"
    path.write_bytes(whole)
    (found,) = fingerprint(by_name(path), path, {path.name: 20}) or ()
    assert found.begins == hashlib.sha256(whole[:20]).hexdigest()


def test_a_folder_is_its_files_and_a_pipe_is_nothing(tmp_path: Path) -> None:
    for name in ("b.jsonl", "a.jsonl"):
        (tmp_path / name).write_text("{}\n")
    assert [file.name for file in fingerprint(by_name(tmp_path), tmp_path) or ()] == ["a.jsonl", "b.jsonl"]
    assert fingerprint(by_name(STANDARD_INPUT, format="jsonl"), STANDARD_INPUT) is None
    os.mkfifo(tmp_path / "pipe.jsonl")
    assert fingerprint(by_name(tmp_path / "pipe.jsonl"), tmp_path / "pipe.jsonl") is None
