"""Sources: what is legal comes through unchanged, what is not is a bad row with its line, and what cannot be read at all a clear error."""

from __future__ import annotations

import csv
import json
import os
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mlx_distill.data.read import by_name, read
from mlx_distill.data.sources import SourceRow
from mlx_distill.errors import DataError, DistillError
from mlx_distill.recipe.schema import SourceSpec
from mlx_distill.records import BadRow

TEXTS = [
    "",
    " ",
    "a\0b",
    "😀 emoji",
    "مرحبا بالعالم",
    "e\u0301",
    "line\nbreak",
    "\r\n",
    'a "quote"',
    "a,b;c\td",
    "\u2028\u2029\x85",
    "x" * 1_500_000,
]


def rows(kind: str, path: Path, **settings: Any) -> list[SourceRow | BadRow]:
    return list(read(SourceSpec(kind=kind, path=str(path), **settings), path))


def good(found: list[SourceRow | BadRow]) -> list[dict[str, Any]]:
    return [row.record for row in found if isinstance(row, SourceRow)]


def bad(found: list[SourceRow | BadRow]) -> list[tuple[int | None, str]]:
    return [(row.line, row.reason) for row in found if isinstance(row, BadRow)]


def write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
    return path


def write_parquet(path: Path, table: dict[str, list[Any]]) -> Path:
    import pyarrow
    import pyarrow.parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.table(table), path, row_group_size=2)
    return path


# JSON Lines


def test_jsonl_gives_records_as_they_are_with_their_lines(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.jsonl", '{"id": 1, "labels": {"x": [1, 2.5, null]}}\n\n   \r\n{"id": "b"}\r\n{"no": "line break at the end"}'
    )
    assert rows("jsonl", path) == [
        SourceRow(1, {"id": 1, "labels": {"x": [1, 2.5, None]}}, str(path)),
        SourceRow(4, {"id": "b"}, str(path)),
        SourceRow(5, {"no": "line break at the end"}, str(path)),
    ]


def test_jsonl_takes_texts_of_any_content(tmp_path: Path) -> None:
    texts = [*TEXTS, "\ud800 a lone surrogate"]
    plain = "".join(json.dumps({"text": text}) + "\n" for text in texts)
    raw = "".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in TEXTS)
    assert [row["text"] for row in good(rows("jsonl", write(tmp_path / "plain.jsonl", plain)))] == texts
    assert [row["text"] for row in good(rows("jsonl", write(tmp_path / "raw.jsonl", raw)))] == TEXTS


def test_jsonl_accepts_a_byte_order_mark(tmp_path: Path) -> None:
    assert good(rows("jsonl", write(tmp_path / "a.jsonl", b'\xef\xbb\xbf{"id": 1}\n'))) == [{"id": 1}]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"id": 1, "text": "cut in the mid', "the line ends in the middle of a value"),
        (b'{"id": 1,', "the line ends in the middle of a value"),
        (b'{"id": 1} {"id": 2}', "Extra data, at character 11"),
        (b"{'id': 1}", "at character 2"),
        (b'{"text": "caf\xe9"}', "not UTF-8: byte 0xe9, the 14. of the line"),
        (b'{"text": "\xed\xa0\x80"}', "not UTF-8"),
        (b"[1, 2]", "not an object but a list"),
        (b'"text"', "not an object but a text"),
        (b"null", "not an object but null"),
        (b"3", "not an object but a number"),
        (b'{"score": NaN}', "NaN is no JSON; a value that is not known is null"),
        (b'{"score": -Infinity}', "-Infinity is no JSON"),
        (b'{"deep": ' + b"[" * 100_000, "nested too deeply"),
        (b'{"long": ' + b"1" * 6000 + b"}", "a whole number of more than 4,300 digits; as a text, in quotes, it can be read"),
        (b'{"text": "a\x01b"}', "Invalid control character"),
    ],
)
def test_a_bad_line_of_jsonl_costs_one_row_and_says_why(tmp_path: Path, line: bytes, reason: str) -> None:
    found = rows("jsonl", write(tmp_path / "a.jsonl", b'{"id": 0}\n' + line + b'\n{"id": 2}\n'))
    assert good(found) == [{"id": 0}, {"id": 2}]
    [(number, said)] = bad(found)
    assert number == 2
    assert reason in said


def test_jsonl_streams(tmp_path: Path) -> None:
    """The first row is there before the file's end is: a pipe that is not closed yet."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    may_end = threading.Event()

    def feed() -> None:
        with path.open("wb", buffering=0) as file:
            file.write(b'{"id": 1}\n' * 20_000)
            may_end.wait(10)

    writer = threading.Thread(target=feed, daemon=True)
    writer.start()
    found = read(SourceSpec(kind="jsonl", path=str(path)), path)
    assert next(found) == SourceRow(1, {"id": 1}, str(path))
    assert writer.is_alive()
    may_end.set()
    assert sum(1 for _ in found) == 19_999
    writer.join()


# CSV


def test_csv_gives_texts_by_column_with_the_line_where_each_record_begins(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", 'id,text\n1,"two\nlines, one cell"\n\n2,"a ""quoted"" word"\r\n3,\n')
    assert rows("csv", path) == [
        SourceRow(2, {"id": "1", "text": "two\nlines, one cell"}, str(path)),
        SourceRow(5, {"id": "2", "text": 'a "quoted" word'}, str(path)),
        SourceRow(6, {"id": "3", "text": ""}, str(path)),
    ]


def test_csv_takes_texts_of_any_content(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, quoting=csv.QUOTE_ALL).writerows([["text"], *([text] for text in TEXTS)])
    assert [row["text"] for row in good(rows("csv", path))] == TEXTS


def test_csv_reads_long_cells_whatever_limit_others_have_set(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "text\n" + "x" * 300_000 + "\n")
    before = csv.field_size_limit(10)
    try:
        assert len(good(rows("csv", path))[0]["text"]) == 300_000
    finally:
        csv.field_size_limit(before)


@pytest.mark.parametrize(
    ("name", "content", "delimiter"),
    [
        ("a.csv", "id,text\n1,x\n", None),
        ("a.tsv", "id\ttext\n1\tx\n", None),
        ("a.TSV", "id\ttext\n1\tx\n", None),
        ("a.csv", "id;text\n1;x\n", ";"),
        ("a.txt", "id\ttext\n1\tx\n", r"\t"),
        ("a.tsv", "id|text\n1|x\n", "|"),
        ("bom.csv", "\ufeffid,text\n1,x\n", None),
        ("mac.csv", "id,text\r1,x\r", None),
    ],
)
def test_csv_takes_the_delimiter_from_the_recipe_or_the_name(tmp_path: Path, name: str, content: str, delimiter: str | None) -> None:
    assert good(rows("csv", write(tmp_path / name, content), delimiter=delimiter)) == [{"id": "1", "text": "x"}]


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (b"1,x,more", "3 cells, and the header has 2 columns"),
        (b"1", "1 cell, and the header has 2 columns"),
        (b"1,caf\xe9", "not UTF-8: byte 0xe9, the 6. of the line"),
        (b"1,\xc3\xa9t\xe9", "not UTF-8: byte 0xe9, the 6. of the line"),
        (b'1,"said "hi" loudly"', "not CSV"),
    ],
)
def test_a_bad_record_of_csv_costs_one_row_and_says_why(tmp_path: Path, record: bytes, reason: str) -> None:
    found = rows("csv", write(tmp_path / "a.csv", b"id,text\n0,a\n" + record + b"\n2,b\n"))
    assert good(found) == [{"id": "0", "text": "a"}, {"id": "2", "text": "b"}]
    [(line, said)] = bad(found)
    assert line == 3
    assert reason in said


def test_bytes_that_are_not_utf8_are_found_on_their_line_within_a_record(tmp_path: Path) -> None:
    found = rows("csv", write(tmp_path / "a.csv", b'id,text\n1,"fine\ncaf\xe9"\n2,b\n'))
    assert bad(found) == [(2, "not UTF-8: byte 0xe9, the 4. of line 3")]
    assert good(found) == [{"id": "2", "text": "b"}]


def test_a_quote_that_is_never_closed_loses_no_line_in_silence(tmp_path: Path) -> None:
    found = rows("csv", write(tmp_path / "a.csv", 'id,text\n0,a\n1,"never closed\n2,b\n3,c\n'))
    assert good(found) == [{"id": "0", "text": "a"}]
    lost = "lost in the quote that is opened on line 3 and never closed"
    assert bad(found) == [(3, "a quote is opened and never closed"), (4, lost), (5, lost)]


def test_a_quote_closed_by_the_next_record_costs_the_lines_between(tmp_path: Path) -> None:
    found = rows("csv", write(tmp_path / "a.csv", 'id,text\n1,"never closed\n2,"b"\n3,"c"\n'))
    assert good(found) == [{"id": "3", "text": "c"}]
    [(line, reason)] = bad(found)
    assert line == 2
    assert reason.startswith("lines 2 to 3: not CSV")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"id,text,id,text,x\n1,a,2,b,c\n", "the header has 'id', 'text' more than once"),
        (b"id,,\n1,a,b\n", "a column without a name more than once"),
        (b"id,caf\xe9\n1,a\n", "the header is not UTF-8"),
        ("id,text\n1,a\n".encode("utf-16"), "the header is not UTF-8"),
        (b'id,"text\n1,a\n', "the header cannot be read"),
        (b"id;text\n1;a\n", "the header is a single column, 'id;text'"),
        (b"\n\n", "the file is empty: not even a header"),
        (b"\xef\xbb\xbf", "the file is empty: not even a header"),
        (b"", "the file is empty"),
    ],
)
def test_a_csv_without_a_usable_header_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = write(tmp_path / "a.csv", content)
    with pytest.raises(DataError) as caught:
        rows("csv", path)
    assert message in caught.value.message
    assert caught.value.file == str(path)


@pytest.mark.parametrize(("delimiter", "said"), [(";", '";"'), ("\t", r'"\t"')])
def test_a_header_of_one_column_says_how_to_name_the_delimiter_in_both_places(tmp_path: Path, delimiter: str, said: str) -> None:
    path = write(tmp_path / "a.csv", f"id{delimiter}text\n1{delimiter}a\n")
    with pytest.raises(DataError) as caught:
        rows("csv", path)
    assert caught.value.hint == f"say what separates columns: --delimiter {said} on the command line, delimiter: {said} in the recipe"
    assert good(rows("csv", path, delimiter=said.strip('"'))) == [{"id": "1", "text": "a"}], "as a shell hands it on"


def test_a_header_alone_gives_no_rows(tmp_path: Path) -> None:
    assert rows("csv", write(tmp_path / "a.csv", "id,text\n")) == []


@pytest.mark.parametrize("delimiter", ["ab", ""])
def test_a_delimiter_is_one_character(tmp_path: Path, delimiter: str) -> None:
    path = write(tmp_path / "a.csv", "id,text\n1,a\n")
    with pytest.raises(DataError, match="delimiter is one character"):
        rows("csv", path, delimiter=delimiter)


# Parquet


def test_parquet_gives_nested_columns_as_dicts_and_lists_over_row_groups(tmp_path: Path) -> None:
    table: dict[str, list[Any]] = {"id": ["a", "b", "c"], "labels": [{"x": 1, "tags": ["u"]}, None, {"x": 3, "tags": []}]}
    path = write_parquet(tmp_path / "a.parquet", table)
    assert rows("parquet", path) == [
        SourceRow(1, {"id": "a", "labels": {"x": 1, "tags": ["u"]}}, str(path)),
        SourceRow(2, {"id": "b", "labels": None}, str(path)),
        SourceRow(3, {"id": "c", "labels": {"x": 3, "tags": []}}, str(path)),
    ]


def test_parquet_takes_texts_of_any_content(tmp_path: Path) -> None:
    assert [row["text"] for row in good(rows("parquet", write_parquet(tmp_path / "a.parquet", {"text": TEXTS * 12})))] == TEXTS * 12


def test_a_text_of_parquet_that_is_not_utf8_costs_one_row(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    broken = pyarrow.array([b"a", b"caf\xe9", b"c"]).view(pyarrow.string())
    pyarrow.parquet.write_table(pyarrow.table({"text": broken}), tmp_path / "a.parquet")
    found = rows("parquet", tmp_path / "a.parquet")
    assert good(found) == [{"text": "a"}, {"text": "c"}]
    [(line, reason)] = bad(found)
    assert line == 2
    assert "utf-8" in reason


@pytest.mark.parametrize(
    "damage", [lambda data: b"id,text\n1,a\n" * 9, lambda data: data[: len(data) // 2], lambda data: data[:8] + b"\0" * 40 + data[48:]]
)
def test_a_file_that_is_no_parquet_or_a_damaged_one_is_refused(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    path = write_parquet(tmp_path / "a.parquet", {"id": ["a", "b", "c"]})
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match="no Parquet file, or a damaged one") as caught:
        rows("parquet", path)
    assert caught.value.file == str(path)


def test_parquet_with_the_same_column_twice_is_refused(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(
        pyarrow.Table.from_arrays([pyarrow.array([1]), pyarrow.array([2])], names=["id", "id"]), tmp_path / "a.parquet"
    )
    with pytest.raises(DataError, match="'id' stands there more than once"):
        rows("parquet", tmp_path / "a.parquet")


# Hugging Face datasets, from folders


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The library as it is without a network, with a cache of our own."""
    import datasets
    import huggingface_hub.constants

    cache = tmp_path / "cache"
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", cache)
    return cache


RECORDS = [{"id": "a", "labels": {"x": 1}}, {"id": "b", "labels": {"x": 2}}]


def test_hf_reads_a_folder_of_data_files_by_split(tmp_path: Path, offline: Path) -> None:
    folder = tmp_path / "folder"
    write(folder / "train.jsonl", "".join(json.dumps(record) + "\n" for record in RECORDS))
    write(folder / "test.jsonl", '{"id": "c", "labels": {"x": 3}}\n')
    assert rows("hf", folder) == [SourceRow(1, RECORDS[0]), SourceRow(2, RECORDS[1])]
    assert good(rows("hf", folder, split="test")) == [{"id": "c", "labels": {"x": 3}}]
    with pytest.raises(DataError, match=r"nope.*'train', 'test'"):
        rows("hf", folder, split="nope")


def test_hf_reads_what_save_to_disk_wrote(tmp_path: Path, offline: Path) -> None:
    import datasets

    dataset = datasets.Dataset.from_list(RECORDS)
    dataset.with_format("numpy").save_to_disk(tmp_path / "one")
    datasets.DatasetDict({"train": dataset, "dev": dataset.select([1])}).save_to_disk(tmp_path / "two")
    assert json.dumps(good(rows("hf", tmp_path / "one"))) == json.dumps(RECORDS)  # plain Python, whatever format was saved
    assert good(rows("hf", tmp_path / "two")) == RECORDS
    assert good(rows("hf", tmp_path / "two", split="dev")) == RECORDS[1:]
    with pytest.raises(DataError, match="no split 'test'") as caught:
        rows("hf", tmp_path / "two", split="test")
    assert caught.value.hint == "set split: to one of dev, train"
    with pytest.raises(DataError, match="has no splits, and split asks for 'test'"):
        rows("hf", tmp_path / "one", split="test")


def test_hf_reads_a_dataset_of_the_hub_from_its_cache(tmp_path: Path, offline: Path) -> None:
    """As the library leaves it after a download: OWNER___NAME/configuration/version/hash."""
    import datasets

    built = datasets.Dataset.from_list(RECORDS)
    home = offline / "owner___name" / "default" / "0.0.0" / "abc123"
    home.mkdir(parents=True)
    built.save_to_disk(tmp_path / "built")
    (tmp_path / "built" / "data-00000-of-00001.arrow").rename(home / "name-train.arrow")
    info = datasets.DatasetInfo(
        features=built.features, builder_name="json", dataset_name="name", config_name="default", version="0.0.0",
        splits={"train": {"name": "train", "num_bytes": 1, "num_examples": 2, "dataset_name": "name"}},
    )  # fmt: skip
    info.write_to_directory(str(home))
    path = tmp_path / "owner" / "name"
    assert good(list(read(SourceSpec(kind="hf", path="owner/name"), path))) == RECORDS


@pytest.mark.parametrize("name", ["owner/name", "name"])
def test_a_hub_id_that_is_not_in_the_cache_says_how_to_fetch_it(tmp_path: Path, offline: Path, name: str) -> None:
    with pytest.raises(DataError) as caught:
        read(SourceSpec(kind="hf", path=name, revision="abc"), tmp_path / name)
    assert caught.value.hint is not None
    assert f"datasets.load_dataset('{name}', revision='abc')" in caught.value.hint
    assert "save_to_disk" in caught.value.hint
    assert name in caught.value.message


@pytest.mark.parametrize("name", ["../data/rows", "/nowhere/at/all", "a/b/c", "./rows"])
def test_a_path_that_is_neither_a_folder_nor_a_hub_id_is_refused_at_once(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match="no hub id"):
        read(SourceSpec(kind="hf", path=name), tmp_path / name)


def test_hf_refuses_files_revisions_of_folders_and_folders_without_data(tmp_path: Path, offline: Path) -> None:
    file = write(tmp_path / "a.csv", "id\n1\n")
    folder = tmp_path / "empty"
    folder.mkdir()
    with pytest.raises(DataError, match="this is a file"):
        rows("hf", file)
    with pytest.raises(DataError, match="a local folder has no revision 'main'"):
        rows("hf", folder, revision="main")
    with pytest.raises(DataError, match="no dataset in this folder"):
        rows("hf", folder)


def test_a_damaged_file_in_a_folder_of_hf_is_our_error_not_the_librarys(tmp_path: Path, offline: Path) -> None:
    write(tmp_path / "folder" / "train.jsonl", '{"id": 1}\n{"id": "cut')
    with pytest.raises(DataError):
        rows("hf", tmp_path / "folder")


# All that read files


MAKE: dict[str, Callable[[Path, str], Path]] = {
    "jsonl": lambda path, id: write(path.with_suffix(".jsonl"), json.dumps({"id": id}) + "\n"),
    "csv": lambda path, id: write(path.with_suffix(".csv"), f"id\n{id}\n"),
    "parquet": lambda path, id: write_parquet(path.with_suffix(".parquet"), {"id": [id]}),
}
every_kind = pytest.mark.parametrize("kind", list(MAKE))


@every_kind
def test_a_folder_is_read_file_by_file_in_the_order_of_their_names(tmp_path: Path, kind: str) -> None:
    files = [MAKE[kind](tmp_path / "data" / name, id) for name, id in (("b", "2"), ("a", "1"), ("c", "3"))]
    write(tmp_path / "data" / "README.md", "not data")
    write(tmp_path / "data" / f".hidden.{kind}", "")
    found = rows(kind, tmp_path / "data")
    assert [record["id"] for record in good(found)] == ["1", "2", "3"]
    assert {row.file for row in found if isinstance(row, SourceRow)} == set(map(str, files))


@pytest.mark.parametrize(("kind", "content"), [("jsonl", '{"id": 1}\n{"id": \n'), ("csv", "id\n1\n1,2\n")])
def test_a_bad_row_of_a_folder_names_its_file(tmp_path: Path, kind: str, content: str) -> None:
    write(tmp_path / f"part-2.{kind}", content)
    write(tmp_path / f"part-1.{kind}", content.replace("\n1,2", "").replace('{"id": \n', ""))
    files = {type(row): row.file for row in rows(kind, tmp_path)}
    assert files[BadRow] == files[SourceRow] == str(tmp_path / f"part-2.{kind}")


@every_kind
def test_a_missing_file_is_an_error_that_shows_what_is_there(tmp_path: Path, kind: str) -> None:
    there = MAKE[kind](tmp_path / "labels", "1")
    with pytest.raises(DataError) as caught:
        read(SourceSpec(kind=kind, path="label"), tmp_path / "label")
    assert str(tmp_path / "label") in caught.value.message
    assert caught.value.hint is not None
    assert there.name in caught.value.hint
    with pytest.raises(DataError, match="there is no file or folder"):
        read(SourceSpec(kind=kind, path="x"), tmp_path / "no" / "folder" / "x")


@every_kind
def test_an_empty_file_is_an_error_that_names_it_even_in_a_folder(tmp_path: Path, kind: str) -> None:
    full = MAKE[kind](tmp_path / "a", "1")
    empty = write(full.with_stem("b"), b"")
    for path in (empty, tmp_path):
        with pytest.raises(DataError, match="the file is empty") as caught:
            read(SourceSpec(kind=kind, path=str(path)), path)
        assert caught.value.file == str(empty)


@every_kind
def test_a_folder_without_such_files_is_an_error_that_shows_what_it_has(tmp_path: Path, kind: str) -> None:
    write(tmp_path / "notes.txt", "text")
    (tmp_path / f"folder.{kind}").mkdir()
    with pytest.raises(DataError, match=rf"the folder has no file \*\.{kind}") as caught:
        read(SourceSpec(kind=kind, path="."), tmp_path)
    assert caught.value.hint is not None
    assert "notes.txt" in caught.value.hint


@every_kind
def test_what_cannot_be_opened_is_an_error_that_names_it(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A socket: it has a name like a file's, and not even root may open it."""
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX) as unix:
        unix.bind("socket")
        with pytest.raises(DataError, match="cannot be read") as caught:
            rows(kind, tmp_path / "socket")
    assert caught.value.file == str(tmp_path / "socket")


@every_kind
@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_the_right_to_read_is_an_error_that_says_so(tmp_path: Path, kind: str) -> None:
    path = MAKE[kind](tmp_path / "a", "1")
    path.chmod(0)
    with pytest.raises(DataError, match="may not be read"):
        rows(kind, path)


@every_kind
def test_a_file_that_is_given_by_itself_may_have_any_name(tmp_path: Path, kind: str) -> None:
    path = MAKE[kind](tmp_path / "a", "1").rename(tmp_path / "labels of May")
    assert good(rows(kind, path)) == [{"id": "1"}]


@every_kind
def test_a_reader_that_stops_early_leaves_no_file_open(tmp_path: Path, kind: str) -> None:
    path = MAKE[kind](tmp_path / "a", "1")
    before = open_files()
    found: Iterator[SourceRow | BadRow] = read(SourceSpec(kind=kind, path=str(path)), path)
    next(found)
    del found
    assert open_files() == before


def open_files() -> set[str]:
    """What this process has open, by name; empty where the system does not say."""
    folder = Path("/proc/self/fd")
    return {str(file.resolve()) for file in folder.iterdir()} - {str(folder.resolve())} if folder.is_dir() else set()


@every_kind
def test_a_files_name_tells_its_kind(tmp_path: Path, kind: str) -> None:
    path = MAKE[kind](tmp_path / "folder" / "a", "1")
    for given in (path, path.parent):
        spec = by_name(given)
        assert (spec.kind, spec.path) == (kind, str(given))
        assert good(list(read(spec, given))) == [{"id": "1"}]


def test_a_name_that_tells_no_kind_or_several_is_refused(tmp_path: Path) -> None:
    MAKE["csv"](tmp_path / "a", "1")
    MAKE["jsonl"](tmp_path / "a", "1")
    with pytest.raises(DataError, match="several kinds: csv, jsonl"):
        by_name(tmp_path)
    with pytest.raises(DataError, match=r"no kind of source reads a\.xlsx") as caught:
        by_name(tmp_path / "a.xlsx")
    known = "known are *.csv, *.jsonl, *.ndjson, *.tsv, packed too (.gz, .zst), and *.parquet; a folder of them is one source"
    assert caught.value.hint == f"{known}; of another name? infer reads it as what --format says it is"


def test_an_empty_folder_is_called_empty_and_one_of_other_files_says_what_is_read(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="the folder is empty"):
        by_name(tmp_path)
    write(tmp_path / "notes.txt", "a")
    with pytest.raises(DataError, match="no kind of source reads") as caught:
        by_name(tmp_path)
    assert "--format" not in str(caught.value.hint), "it changes nothing for a folder, whose files are chosen by their names"


def test_a_kind_that_is_not_there_is_refused_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(DistillError, match="no sources named 'jsonlines'"):
        read(SourceSpec(kind="jsonlines", path="x"), tmp_path)
