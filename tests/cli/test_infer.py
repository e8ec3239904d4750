"""Many texts answered, on the command line: every format, resumed at will, nothing overwritten."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest

from mlx_distill.files import exclusive
from mlx_distill.inference.journal import Journal
from mlx_distill.records import BadRow, Prediction
from mlx_distill.workflows import staff
from tests.cli.conftest import Place
from tests.students import Called, call, read_lines, recipe, water, write_lines

KEYS = {"rows", "done", "rejected", "rejected_before", "skipped", "seconds", "warnings", "rows_per_hour", "tokens", "peak_memory_bytes"}


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    """Of the columns, the template needs `text` alone."""
    return write_lines(tmp_path / "new.jsonl", [{"id": i, "text": f"The river at post {i}. " * (1 + i % 5)} for i in range(20)])


def test_the_document_counts_everything(finished: Place, texts: Path, tmp_path: Path) -> None:
    with texts.open("a", encoding="utf-8") as file:
        file.write('{"id": "bad"}\n')
    called = call("infer", finished.run, texts, tmp_path / "out.jsonl", "--json")
    assert (called.code, called.err) == (0, ""), "rejects alone are no failure"
    document = called.document
    assert document.keys() >= KEYS
    assert document["tokens"].keys() >= {"prefill", "decoded", "forced"}
    assert [document[name] for name in ("rows", "done", "rejected", "skipped", "rejected_before")] == [21, 20, 1, 0, 0]
    assert document["warnings"] == []
    assert read_lines(tmp_path / "out.jsonl.rejects.jsonl") == [{"id": "bad", "line": 21, "reason": "no column 'text'; there is id"}]


def test_a_person_reads_how_many_and_where(finished: Place, texts: Path, tmp_path: Path) -> None:
    called = call("infer", finished.run, texts, tmp_path / "out.jsonl")
    assert called.out.startswith(f"{tmp_path / 'out.jsonl'}: 20 answered (")
    again = call("infer", finished.run, texts, tmp_path / "out.jsonl", "--resume")
    assert (again.code, again.out) == (0, f"{tmp_path / 'out.jsonl'}: 0 answered, 20 answered before\n")


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_finished_work_opens_no_student(finished: Place, texts: Path, tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    output = tmp_path / f"out.{suffix}"
    call("infer", finished.run, texts, output)
    with monkeypatch.context() as patch:
        patch.setattr(staff, "open_chosen", lambda *_, **__: pytest.fail("it was opened"))
        assert call("infer", finished.run, texts, output, "--resume", "--json").document["skipped"] == 20
    output.unlink()
    assert call("infer", finished.run, texts, output, "--resume", "--json").document["done"] == 20, "what was lost is answered again"


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
        found.add(b"".join(sorted((tmp_path / f"{name}.out.jsonl").read_bytes().splitlines(keepends=True))))
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
        ("out", "a file without a suffix"),
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
    shutil.copy(tmp_path / "whole.jsonl.job.json", tmp_path / "torn.jsonl.job.json")
    called = call("infer", finished.run, texts, tmp_path / "torn.jsonl", "--resume", "--json")
    kept = whole[: len(whole) // 2].count(b"\n")
    assert (called.document["skipped"], called.document["done"]) == (kept, 20 - kept)
    assert answers(tmp_path / "torn.jsonl") == answers(tmp_path / "whole.jsonl")


def answers(path: Path) -> dict[tuple[str | None, str], Any]:
    """By task and id; no result stands there twice."""
    lines = pyarrow.parquet.read_table(path).to_pylist() if path.suffix == ".parquet" else read_lines(path)
    found = {(line.get("task"), line["id"]): line["answer"] for line in lines}
    assert len(found) == len(lines)
    return found


@pytest.fixture(scope="session")
def second(finished: Place, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another student of the same base, of another task."""
    folder = tmp_path_factory.mktemp("second")
    fields = {"level": {"type": "score", "max": 4, "weight": 1.0}, "why": {"type": "text", "max_chars": 8}}
    write_lines(folder / "levels.jsonl", [{**row, "level": i % 5, "why": "rain"} for i, row in enumerate(water())])
    sections: dict[str, Any] = {
        "task": {"fields": fields, "tiers": {"up": 2, "down": 0}},
        "data": {"source": {"kind": "jsonl", "path": "levels.jsonl"}},
        "train": {"epochs": 1},
    }
    place = recipe(folder / "levels.yaml", name="levels", base={"model": str(checkpoint)}, **sections)
    assert call("train", place, "--out", folder / "levels").code == 0
    return folder / "levels"


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_several_students_answer_in_one_pass_as_each_does_alone(
    finished: Place, second: Path, texts: Path, tmp_path: Path, suffix: str
) -> None:
    with texts.open("a", encoding="utf-8") as file:
        file.write('{"id": "bad"}\n')
    called = call("infer", finished.run, second, texts, tmp_path / f"both.{suffix}", "--json")
    assert (called.code, called.document["rows"], called.document["done"], called.document["rejected"]) == (0, 21, 40, 2)
    assert called.document["students"] == ["floods", "levels"]
    both = answers(tmp_path / f"both.{suffix}")
    for run, name in ((finished.run, "floods"), (second, "levels")):
        call("infer", run, texts, tmp_path / f"{name}.{suffix}")
        alone = answers(tmp_path / f"{name}.{suffix}")
        mine = {(None, key): answer for (task, key), answer in both.items() if task == name}
        # in Parquet an answer has the other student's fields too, as null
        mine = {key: {field: value for field, value in answer.items() if field in alone[key]} for key, answer in mine.items()}
        assert mine == alone
    assert [line["task"] for line in read_lines(tmp_path / f"both.{suffix}.rejects.jsonl")] == ["floods", "levels"]
    again = call("infer", finished.run, second, texts, tmp_path / f"both.{suffix}", "--resume", "--json")
    assert (again.document["done"], again.document["skipped"], again.document["rejected_before"]) == (0, 42, 2)
    person = call("infer", finished.run, second, texts, tmp_path / f"again.{suffix}")
    assert person.out.startswith(f"{tmp_path / f'again.{suffix}'}: 40 answers, 1 row rejected (")
    assert f"1 rejected: {tmp_path / f'again.{suffix}.rejects.jsonl'}" in person.err
    person = call("infer", finished.run, second, texts, tmp_path / f"again.{suffix}", "--resume")
    assert person.out == f"{tmp_path / f'again.{suffix}'}: 0 answers, 40 answers before, 2 rejects before\n"


def test_students_that_cannot_answer_together_are_refused_with_both_names(
    finished: Place, second: Path, texts: Path, tmp_path: Path
) -> None:
    refused = call("infer", finished.run, second, finished.run, texts, tmp_path / "out.jsonl")
    assert refused.code == 2 and "both called floods" in refused.err
    other = Path(shutil.copytree(second, tmp_path / "other"))
    lock = other / "recipe.lock.yaml"
    lock.write_text(lock.read_text("utf-8").replace("key: ", "key: x"), encoding="utf-8")
    refused = call("infer", finished.run, other, texts, tmp_path / "out.jsonl")
    assert refused.code == 2 and "two bases" in refused.err and "floods has" in refused.err and "levels has x" in refused.err
    (other / "adapter" / "adapter_config.json").rename(other / "adapter" / "full_config.json")
    (other / "adapter" / "adapter_model.safetensors").rename(other / "adapter" / "model.safetensors")
    refused = call("infer", finished.run, other, texts, tmp_path / "out.jsonl")
    assert refused.code == 2 and "all weights of levels were trained" in refused.err
    assert not (tmp_path / "out.jsonl").exists() and not (tmp_path / "out.jsonl.job.json").exists()


def test_a_student_that_changed_is_noticed_and_refused(finished: Place, texts: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(finished.run, tmp_path / "run"))
    assert call("infer", run, texts, tmp_path / "out.jsonl").code == 0
    before = (tmp_path / "out.jsonl").read_bytes()
    moved = run.rename(tmp_path / "moved")
    assert call("infer", moved, texts, tmp_path / "out.jsonl", "--resume").code == 0, "where it lies does not matter"
    lock = (moved / "recipe.lock.yaml").read_text("utf-8")
    (moved / "recipe.lock.yaml").write_text(lock.replace("How high is the water?", "How low?"), encoding="utf-8")
    refused = call("infer", moved, texts, tmp_path / "out.jsonl", "--resume")
    assert refused.code == 2 and "task.instructions: How high is the water? -> How low?" in refused.err
    (moved / "recipe.lock.yaml").write_text(lock, encoding="utf-8")
    weights = (moved / "adapter" / "adapter_model.safetensors").read_bytes()
    (moved / "adapter" / "adapter_model.safetensors").write_bytes(weights[:-1] + bytes([weights[-1] ^ 1]))
    refused = call("infer", moved, texts, tmp_path / "out.jsonl", "--resume", "--json")
    assert refused.code == 2 and "adapter_sha256" in refused.document["error"]["message"]
    assert (tmp_path / "out.jsonl").read_bytes() == before


def test_an_input_that_changed_is_refused_and_one_that_grew_goes_on(finished: Place, texts: Path, tmp_path: Path) -> None:
    assert call("infer", finished.run, texts, tmp_path / "out.jsonl").code == 0
    with texts.open("a", encoding="utf-8") as file:
        file.write('{"id": "late", "text": "It rains."}\n')
    grown = call("infer", finished.run, texts, tmp_path / "out.jsonl", "--resume")
    assert grown.code == 0 and "new.jsonl has grown by" in grown.err and "1 answered, 20 answered before" in grown.out
    texts.write_text(texts.read_text("utf-8").replace("post 3", "post 4"), encoding="utf-8")
    refused = call("infer", finished.run, texts, tmp_path / "out.jsonl", "--resume")
    assert refused.code == 2 and "input: new.jsonl" in refused.err


@pytest.mark.parametrize("option", [("--distributions",), ("--samples", 3, "--temperature", 0.7)])
def test_an_option_that_changes_results_is_part_of_what_they_were_made_of(
    finished: Place, texts: Path, tmp_path: Path, option: tuple[object, ...]
) -> None:
    assert call("infer", finished.run, texts, tmp_path / "out.jsonl").code == 0
    refused = call("infer", finished.run, texts, tmp_path / "out.jsonl", "--resume", *option)
    assert refused.code == 2 and f"\n  {option[0]}: " in refused.err
    assert call("infer", finished.run, texts, tmp_path / "other.jsonl", *option).code == 0
    assert len(answers(tmp_path / "other.jsonl")) == 20


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--samples", 0), "at least one answer"),
        (("--samples", 3), "at temperature 0 would be one answer 3 times"),
        (("--samples", 3, "--temperature", -1), "a number from 0 on"),
        (("--samples", 3, "--temperature", "nan"), "a number from 0 on"),
        (("--temperature", 0.7), "--temperature 0.7 is for several samples"),
        (("--seed", 3), "--seed 3 is for several samples"),
        (("--max-rejects", -1), "0 stops at the first"),
        (("--format", "xls"), "there is no format 'xls'"),
    ],
)
def test_options_that_make_no_sense_are_refused_before_anything_is_done(
    finished: Place, texts: Path, tmp_path: Path, options: tuple[object, ...], said: str
) -> None:
    refused = call("infer", finished.run, texts, tmp_path / "out.jsonl", *options)
    assert refused.code == 2 and said in refused.err
    assert [path.name for path in tmp_path.iterdir()] == ["new.jsonl"]


def test_slots_refuse_samples_and_texts_may_be_left_out_where_the_task_has_them_last(second: Path, texts: Path, tmp_path: Path) -> None:
    assert call("infer", second, texts, tmp_path / "out.jsonl", "--no-text").code == 0
    assert {tuple(answer) for answer in answers(tmp_path / "out.jsonl").values()} == {("level",)}
    slots = Path(shutil.copytree(second, tmp_path / "slots"))
    lock = (slots / "recipe.lock.yaml").read_text("utf-8")
    (slots / "recipe.lock.yaml").write_text(lock.replace("answer: json", "answer: slots"), encoding="utf-8")
    refused = call("infer", slots, texts, tmp_path / "slots.jsonl", "--samples", 3, "--temperature", 0.5)
    assert refused.code == 2 and "samples could only blur them" in refused.err


def test_a_wrong_column_is_said_loudly_and_blocks_nothing(finished: Place, texts: Path, tmp_path: Path) -> None:
    write_lines(tmp_path / "wrong.jsonl", [{"id": i, "txt": "wet"} for i in range(7)])
    called = call("infer", finished.run, tmp_path / "wrong.jsonl", tmp_path / "out.jsonl", "--json")
    assert called.code == 0, "the document tells a script"
    said = (
        "not one row was answered. All 7 were rejected, for the same reason: 7 rows, the first line 1: no column 'text'; there is id, txt"
    )
    assert said in called.err and "{text}" in called.err
    assert called.document["warnings"] == [called.err.removeprefix("WARNING: ").strip()]
    finished_before = call("infer", finished.run, tmp_path / "wrong.jsonl", tmp_path / "out.jsonl", "--json", "--resume")
    assert "All 7 had been rejected before, see" in finished_before.document["warnings"][0]
    again = call("infer", finished.run, texts, tmp_path / "out.jsonl")
    assert again.code == 0 and "begun anew" in again.err and len(answers(tmp_path / "out.jsonl")) == 20
    assert not (tmp_path / "out.jsonl.rejects.jsonl").exists()


def test_why_rows_were_rejected_is_said_with_the_commonest_reason_first(finished: Place, texts: Path, tmp_path: Path) -> None:
    with texts.open("a", encoding="utf-8") as file:
        file.write('{"id": "a"}\n{not json\n{"id": "b"}\n{"id": "c", "text": " "}\n')
    called = call("infer", finished.run, texts, tmp_path / "out.jsonl")
    lines = called.err.splitlines()
    start = lines.index(f"4 rejected: {tmp_path / 'out.jsonl.rejects.jsonl'}")
    assert lines[start + 1] == "  2 rows, the first line 21: no column 'text'; there is id"
    assert {line[:11] for line in lines[start + 2 : start + 4]} == {"  line 22: ", "  line 24: "}


def test_rows_rejected_before_are_not_called_answered(finished: Place, texts: Path, tmp_path: Path) -> None:
    with texts.open("a", encoding="utf-8") as file:
        file.write('{"id": "a"}\n{"id": "b"}\n')
    call("infer", finished.run, texts, tmp_path / "out.jsonl")
    said = f"{tmp_path / 'out.jsonl'}: 0 answered, 20 answered before, 2 rejected before\n"
    assert call("infer", finished.run, texts, tmp_path / "out.jsonl", "--resume").out == said, "finished"
    with texts.open("a", encoding="utf-8") as file:
        file.write('{"id": "c"}\n')
    went_on = call("infer", finished.run, texts, tmp_path / "out.jsonl", "--resume")
    assert went_on.out == said.replace("20 answered before,", "20 answered before, 1 rejected,")
    again = call("infer", finished.run, texts, tmp_path / "out.jsonl", "--resume", "--json").document
    assert (again["skipped"], again["rejected_before"]) == (23, 3)


def test_an_input_without_rows_is_warned_of(finished: Place, tmp_path: Path) -> None:
    (tmp_path / "blank.jsonl").write_text("\n\n", encoding="utf-8")
    called = call("infer", finished.run, tmp_path / "blank.jsonl", tmp_path / "out.jsonl", "--json")
    assert called.code == 0
    assert called.document["warnings"] == ["not one row was answered: there is none in the input"]


def test_an_output_within_the_input_folder_is_refused(finished: Place, texts: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    texts.rename(tmp_path / "in" / "a.jsonl")
    refused = call("infer", finished.run, tmp_path / "in", tmp_path / "in" / "out.jsonl")
    assert refused.code == 2 and f"such as {tmp_path / 'out.jsonl'}" in refused.err
    assert [path.name for path in (tmp_path / "in").iterdir()] == ["a.jsonl"]


@pytest.mark.parametrize(
    ("places", "said"),
    [
        ((), "STUDENT, INPUT and OUTPUT are missing"),
        (("run",), "INPUT and OUTPUT are missing"),
        (("run", "in.csv"), "OUTPUT is missing"),
    ],
)
def test_what_is_missing_on_the_command_line_is_named(places: tuple[str, ...], said: str) -> None:
    called = call("infer", *places)
    assert called.code == 2 and said in called.err and "STUDENT... INPUT OUTPUT" in called.err


def test_ctrl_c_says_how_many_rows_are_answered_where_and_what_goes_on(
    finished: Place, texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken_off(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    output = tmp_path / "my out.parquet"
    with monkeypatch.context() as patch:
        patch.setattr(staff, "open_chosen", broken_off)
        early = call("infer", finished.run, texts, output, "--no-text")
    goes_on = f"mlx-distill infer {finished.run} {texts} '{output}' --no-text --resume"
    assert early.code == 130
    assert early.err.splitlines()[-1] == f"error: broken off; what had been answered is whole (this goes on: {goes_on})"
    write, left = Journal.write, [6]

    def sixth(self: Journal, line: Any) -> None:
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt
        write(self, line)

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "write", sixth)
        stopped = call("infer", finished.run, texts, output, "--no-text", "--resume")
    assert stopped.code == 130
    lines = f"{output}.part.jsonl"
    assert stopped.err.splitlines()[-1] == f"error: broken off; 5 rows are answered, in {lines} (this goes on: {goes_on})"
    assert len(read_lines(Path(lines))) == 5


def test_max_rejects_stops_and_resume_goes_on(finished: Place, texts: Path, tmp_path: Path) -> None:
    texts.write_text('{"id": "a"}\n{"id": "b"}\n' + texts.read_text("utf-8"), encoding="utf-8")
    stopped = call("infer", finished.run, texts, tmp_path / "out.jsonl", "--max-rejects", 1, "--json")
    assert stopped.code == 2
    error = stopped.document["error"]
    assert (error["kind"], error["file"], error["line"]) == ("DataError", str(texts), 2)
    assert "2 rows were rejected" in error["message"] and "no column 'text'" in error["message"] and "--resume" in error["hint"]
    assert len(read_lines(tmp_path / "out.jsonl.rejects.jsonl")) == 2
    resumed = call("infer", finished.run, texts, tmp_path / "out.jsonl", "--resume", "--json")
    assert (resumed.code, resumed.document["done"], resumed.document["skipped"]) == (0, 20, 2)


def test_standard_input_is_answered_and_resumed_by_id(
    finished: Place, texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def piped(*options: object) -> Called:
        with texts.open("rb") as file:
            monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(file.read())))
        return call("infer", finished.run, "-", tmp_path / "out.jsonl", *options)

    assert piped().code == 0
    call("infer", finished.run, texts, tmp_path / "file.jsonl")
    assert answers(tmp_path / "out.jsonl") == answers(tmp_path / "file.jsonl")
    with texts.open("a", encoding="utf-8") as file:
        file.write('{"id": "late", "text": "It rains."}\n')
    again = piped("--resume")
    assert again.code == 0 and "standard input is not compared" in again.err and "1 answered, 20 answered before" in again.out


def test_python_opens_a_student_and_iterates_over_its_answers(finished: Place, texts: Path, tmp_path: Path, cache: Path) -> None:
    from mlx_distill.workflows import open_student

    call("infer", finished.run, texts, tmp_path / "out.jsonl")
    student = open_student(finished.run, cache=cache)
    records = (record for record in [*read_lines(texts), {"id": "bad"}, {"id": "empty", "text": ""}])
    found = list(student.answers(records))
    assert {(None, row.id): row.answer for row in found if isinstance(row, Prediction)} == answers(tmp_path / "out.jsonl")
    assert [(row.id, row.line) for row in found if isinstance(row, BadRow)] == [("bad", 21), ("empty", 22)]
    assert all(len(row.probabilities["high"]) == 2 for row in found if isinstance(row, Prediction))
