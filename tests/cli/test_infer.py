"""Many texts answered, on the command line: every format, resumed at will, nothing overwritten."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mlx_distill.files import exclusive
from tests.cli.conftest import Place
from tests.students import call, read_lines, write_lines

KEYS = {"rows", "done", "rejected", "skipped", "seconds", "rows_per_hour", "tokens", "peak_memory_bytes"}


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    """Of the columns, the template needs `text` alone."""
    return write_lines(tmp_path / "new.jsonl", [{"id": i, "text": f"The river at post {i}. " * (i % 5)} for i in range(20)])


def test_the_document_counts_everything(finished: Place, texts: Path, tmp_path: Path) -> None:
    with texts.open("a", encoding="utf-8") as file:
        file.write('{"id": "bad"}\n')
    called = call("infer", finished.run, texts, tmp_path / "out.jsonl", "--json")
    assert (called.code, called.err) == (0, ""), "rejects alone are no failure"
    document = called.document
    assert document.keys() >= KEYS
    assert document["tokens"].keys() == {"prefill", "decoded", "forced"}
    assert [document[name] for name in ("rows", "done", "rejected", "skipped")] == [21, 20, 1, 0]
    assert read_lines(tmp_path / "out.jsonl.rejects.jsonl") == [{"id": "bad", "line": 21, "reason": "no column 'text'; there is id"}]


def test_a_person_reads_how_many_and_where(finished: Place, texts: Path, tmp_path: Path) -> None:
    called = call("infer", finished.run, texts, tmp_path / "out.jsonl")
    assert called.out.startswith(f"{tmp_path / 'out.jsonl'}: 20 answered (")
    again = call("infer", finished.run, texts, tmp_path / "out.jsonl", "--resume")
    assert (again.code, again.out) == (0, f"{tmp_path / 'out.jsonl'}: 0 answered, 20 answered before\n")


def test_answers_do_not_depend_on_the_format(finished: Place, texts: Path, tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    rows = [{**row, "id": str(row["id"])} for row in read_lines(texts)]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "new.parquet")
    (tmp_path / "new.csv").write_text("id,text\n" + "".join(f"{row['id']},{row['text']}\n" for row in rows), encoding="utf-8")
    (tmp_path / "new.tsv").write_text("id\ttext\n" + "".join(f"{row['id']}\t{row['text']}\n" for row in rows), encoding="utf-8")
    found = set()
    for name in ("new.jsonl", "new.parquet", "new.csv", "new.tsv"):
        assert call("infer", finished.run, tmp_path / name, tmp_path / f"{name}.out.jsonl").code == 0
        found.add((tmp_path / f"{name}.out.jsonl").read_bytes())
    assert len(found) == 1


def test_a_semicolon_is_named_and_then_read(finished: Place, tmp_path: Path) -> None:
    (tmp_path / "new.csv").write_text("id;text\n1;De rivier, hoog\n", encoding="utf-8")
    refused = call("infer", finished.run, tmp_path / "new.csv", tmp_path / "out.jsonl")
    assert refused.code == 2
    assert "delimiter" in refused.err
    assert call("infer", finished.run, tmp_path / "new.csv", tmp_path / "out.jsonl", "--delimiter", ";", "--resume").code == 0
    assert [line["id"] for line in read_lines(tmp_path / "out.jsonl")] == ["1"]


def test_nothing_is_overwritten_without_resume(finished: Place, texts: Path, tmp_path: Path) -> None:
    (tmp_path / "out.jsonl").write_text("precious\n", encoding="utf-8")
    called = call("infer", finished.run, texts, tmp_path / "out.jsonl", "--json")
    assert called.code == 2
    assert called.document["error"]["message"] == "there are results already"
    assert "--resume" in called.document["error"]["hint"]
    assert (tmp_path / "out.jsonl").read_text(encoding="utf-8") == "precious\n"


@pytest.mark.parametrize(
    ("output", "said"),
    [
        ("new.jsonl", "the same file"),
        ("folder.jsonl", "OUTPUT is a folder"),
        ("out.csv", "not .csv files"),
        ("new.jsonl/o.jsonl", "a file"),
    ],
)
def test_an_output_that_cannot_be_is_refused_before_anything_is_done(
    finished: Place, texts: Path, tmp_path: Path, output: str, said: str
) -> None:
    (tmp_path / "folder.jsonl").mkdir()
    before = texts.read_bytes()
    called = call("infer", finished.run, texts, tmp_path / output, "--resume")
    assert called.code == 2
    assert said in called.err
    assert texts.read_bytes() == before


def test_an_output_in_use_is_refused(finished: Place, texts: Path, tmp_path: Path) -> None:
    with exclusive(tmp_path / "out.jsonl"):
        called = call("infer", finished.run, texts, tmp_path / "out.jsonl")
    assert called.code == 2
    assert f"in use by process {os.getpid()}" in called.err
    assert not (tmp_path / "out.jsonl").exists()


def test_a_run_in_use_is_refused(done: Place) -> None:
    holder = subprocess.Popen(
        [
            sys.executable, "-c",
            "import sys, pathlib; from mlx_distill.files import exclusive\n"
            "with exclusive(pathlib.Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()",
            str(done.run),
        ],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert holder.stdout is not None and holder.stdin is not None
    holder.stdout.readline()
    for words in (["run", done.recipe, "--out", done.run], ["train", done.recipe, "--out", done.run, "--resume"], ["evaluate", done.run]):
        called = call(*words)
        assert called.code == 2
        assert f"in use by process {holder.pid}" in called.err
    holder.kill()
    holder.communicate()
    assert call("run", done.recipe, "--out", done.run).code == 0, "the lock of a killed process holds nobody up"


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("nev.csv", None, "there is no such file"),
        ("empty.csv", "", "the file is empty"),
        ("new.xlsx", "x", "*.jsonl"),
        ("new.parquet", "x", "no Parquet file"),
    ],
)
def test_an_input_that_cannot_be_read_is_named(finished: Place, tmp_path: Path, name: str, content: str | None, said: str) -> None:
    if content is not None:
        (tmp_path / name).write_text(content, encoding="utf-8")
    called = call("infer", finished.run, tmp_path / name, tmp_path / "out.jsonl", "--json")
    assert called.code == 2
    error = called.document["error"]
    assert error["file"] == str(tmp_path / name)
    assert said in f"{error['message']} {error['hint']}"


def test_an_empty_jsonl_is_no_rows_and_no_error(finished: Place, tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").touch()
    called = call("infer", finished.run, tmp_path / "empty.jsonl", tmp_path / "out.jsonl", "--json")
    assert called.code in (0, 2)
    assert "Traceback" not in called.err


def test_a_torn_result_is_dropped_and_made_again(finished: Place, texts: Path, tmp_path: Path) -> None:
    call("infer", finished.run, texts, tmp_path / "whole.jsonl")
    whole = (tmp_path / "whole.jsonl").read_bytes()
    (tmp_path / "torn.jsonl").write_bytes(whole[: len(whole) // 2])
    called = call("infer", finished.run, texts, tmp_path / "torn.jsonl", "--resume", "--json")
    assert called.document["skipped"] == whole[: len(whole) // 2].count(b"\n")
    assert (tmp_path / "torn.jsonl").read_bytes() == whole
    assert [json.loads(line)["id"] for line in whole.splitlines()] == [str(i) for i in range(20)]
