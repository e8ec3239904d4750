"""What a student is not sure enough of is marked, handed back with its columns, or answered by another; no kill loses or doubles a row."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mlx_distill.backends.base import Student
from mlx_distill.backends.choose import choose
from mlx_distill.data.examples import Reader
from mlx_distill.data.read import by_name, read
from mlx_distill.errors import OutputError
from mlx_distill.inference.engine import Engine
from mlx_distill.inference.job import Asked, Done, Wanted, run
from mlx_distill.inference.output import Places, refuse
from mlx_distill.inference.tally import Tally
from mlx_distill.observe.progress import Progress
from mlx_distill.recipe.schema import FieldSpec, TaskSpec
from mlx_distill.records import Example, Prediction
from mlx_distill.task.confidence import Confidence, FieldMap, Threshold
from mlx_distill.task.prompt import load_tokenizer
from tests.students import read_lines, tiny_base, write_lines

TASK = TaskSpec(
    input="{text}",
    fields={"flag": FieldSpec(kind="flag"), "kind": FieldSpec(kind="choice", choices=("a", "ab", "abc"))},
)
ROWS = [{"id": f"r{i}", "text": "the river rose " * (i % 5) + str(i), "place": f"village {i}", "level": i / 4} for i in range(24)]
Make = Callable[[Confidence | None], Engine]


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> tuple[Student, Any]:
    base = tiny_base(tmp_path_factory.mktemp("deferral"))
    return choose("mlx").open(base), load_tokenizer(base)


@pytest.fixture
def engine(opened: tuple[Student, Any]) -> Make:
    student, tokenizer = opened
    return lambda confidence: Engine(student, TASK, tokenizer, answer="json", max_tokens=120, whole=False, confidence=confidence)


def answers(engine: Engine) -> dict[str, Prediction]:
    rows = [Example(row["id"], row, row["text"]) for row in ROWS]
    return {str(found.id): found for found in engine.answers(rows) if isinstance(found, Prediction)}


@pytest.fixture
def confidence(engine: Make) -> Confidence:
    """A threshold with half of the rows below it, over confidences that a map has bent."""
    maps = {"flag": FieldMap(temperature=1.7)}
    threshold = Threshold(of="answer", within=1.0, max_error=0.1, level=0.9, value=0.0)
    sure = sorted(found.sure or 0.0 for found in answers(engine(Confidence(fields=maps, threshold=threshold))).values())
    return Confidence(fields=maps, threshold=dataclasses.replace(threshold, value=(sure[11] + sure[12]) / 2))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_lines(tmp_path / "in.jsonl", ROWS)


def go(source: Path, places: Places, engine: Engine, name: str = "small", **wanted: Any) -> Done:
    rows = Reader(TASK, None, empty=False).examples(read(by_name(source), source))
    with Progress(quiet=True).step("infer") as bar:
        return run([Asked(name, engine, TASK.fields, rows)], places, Tally({name: []}, None), bar, Wanted(**wanted))


def test_the_engine_s_confidences_are_the_calibrated_ones_and_the_answers_stay(engine: Make, confidence: Confidence) -> None:
    plain, calibrated = answers(engine(None)), answers(engine(confidence))
    for name, found in calibrated.items():
        assert found.answer == plain[name].answer
        assert found.confidence["flag"] < plain[name].confidence["flag"]
        assert found.confidence["kind"] == pytest.approx(plain[name].confidence["kind"], abs=1e-6)
        assert found.sure == pytest.approx(found.confidence["flag"] * found.confidence["kind"])
    assert sum(found.defer for found in calibrated.values()) == 12


def test_deferred_rows_are_marked_and_stand_apart_with_their_columns(
    source: Path, tmp_path: Path, engine: Make, confidence: Confidence
) -> None:
    places = Places(tmp_path / "out.jsonl", tmp_path / "judge.jsonl")
    done = go(source, places, engine(confidence))
    results, apart = read_lines(places.output), read_lines(tmp_path / "judge.jsonl")
    marked = {line["id"] for line in results if "defer" in line}
    assert (len(results), done.done, done.deferred) == (24, 24, 12)
    assert {line["id"] for line in apart} == marked and len(apart) == 12
    rows, said = {row["id"]: row for row in ROWS}, {line["id"]: line for line in results}
    for line in apart:
        thought = line.pop("student")
        assert line == rows[line["id"]]
        assert thought["answer"] == said[line["id"]]["answer"] and thought["sure"] < (confidence.threshold.value or 0)  # type: ignore[union-attr]


def test_without_a_place_for_them_no_file_is_made(source: Path, tmp_path: Path, engine: Make, confidence: Confidence) -> None:
    go(source, Places(tmp_path / "out.jsonl"), engine(confidence))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.jsonl", "out.jsonl"]


def test_a_kill_between_the_two_files_neither_loses_nor_doubles_a_row(
    source: Path, tmp_path: Path, engine: Make, confidence: Confidence
) -> None:
    """The row was handed back, and its result was not written yet: every place where the process may have ended."""
    places = Places(tmp_path / "out.jsonl", tmp_path / "judge.jsonl")
    go(source, places, engine(confidence))
    whole = [sorted(path.read_text("utf-8").splitlines()) for path in (places.output, places.deferred)]
    lines = places.output.read_text("utf-8").splitlines(keepends=True)
    apart = {json.loads(line)["id"]: line for line in places.deferred.read_text("utf-8").splitlines(keepends=True)}
    for cut in range(0, len(lines), 3):
        kept = [json.loads(line)["id"] for line in lines[: cut + 1]]  # of the last one the result was lost
        places.output.write_text("".join(lines[:cut]) + lines[cut][:7], encoding="utf-8")
        places.deferred.write_text("".join(apart[name] for name in kept if name in apart), encoding="utf-8")
        go(source, places, engine(confidence))
        assert [len(path.read_text("utf-8").splitlines()) for path in (places.output, places.deferred)] == [24, 12]
        found = [
            sorted(json.loads(line)["id"] for line in path.read_text("utf-8").splitlines()) for path in (places.output, places.deferred)
        ]
        assert found == [sorted(json.loads(line)["id"] for line in side) for side in whole]


def test_of_a_cascade_the_first_writes_what_it_keeps_and_the_last_answers_the_rest(
    source: Path, tmp_path: Path, engine: Make, confidence: Confidence
) -> None:
    places = Places(tmp_path / "out.jsonl")
    first = go(source, places, engine(confidence), instead=True, by="small")
    assert (first.done, first.deferred) == (12, 12)
    assert {line["by"] for line in read_lines(places.output)} == {"small"} and len(read_lines(places.output)) == 12
    assert go(source, places, engine(confidence), instead=True, by="small").skipped == 24  # broken off between the stages: nothing anew
    last = go(places.waiting, places, engine(None), "large", by="large")
    assert (last.done, last.deferred, last.rows) == (12, 0, 12)
    results = read_lines(places.output)
    assert sorted(line["id"] for line in results) == sorted(row["id"] for row in ROWS)
    assert [line["by"] for line in results] == ["small"] * 12 + ["large"] * 12


def test_columns_that_json_lacks_are_handed_back_as_text(tmp_path: Path, engine: Make, confidence: Confidence) -> None:
    import datetime

    from mlx_distill.inference.output import deferred_line

    record = {"id": 7, "text": "x", "day": datetime.date(2026, 1, 2), "share": float("nan"), "student": "mine", "more": {"b": b"raw"}}
    line = deferred_line(Example("7", record, "x"), Prediction("7", {"flag": True}, {"flag": 0.5}, sure=0.5), {"id": "7", "answer": {}})
    assert json.loads(json.dumps(line, allow_nan=False)) == {
        "id": "7", "text": "x", "day": "2026-01-02", "share": None, "student": "mine", "more": {"b": "b'raw'"},
        "student_": {"answer": {}, "sure": 0.5},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("in.jsonl", "cannot go where INPUT lies"),
        ("out.jsonl", "cannot go where INPUT lies"),
        ("out.jsonl.rejects.jsonl", "cannot go where INPUT lies"),
        ("judge.csv", "written as JSON lines"),
        (".", "is a folder"),
    ],
)
def test_a_place_for_deferred_rows_that_cannot_be_one_is_refused(source: Path, tmp_path: Path, name: str, says: str) -> None:
    with pytest.raises(OutputError, match=says):
        refuse(source, tmp_path / "out.jsonl", resume=False, apart=tmp_path / name)


def test_deferred_rows_of_before_are_not_written_over(source: Path, tmp_path: Path) -> None:
    write_lines(tmp_path / "judge.jsonl", [{"id": "r1"}])
    with pytest.raises(OutputError, match="results already"):
        refuse(source, tmp_path / "out.jsonl", resume=False, apart=tmp_path / "judge.jsonl")
