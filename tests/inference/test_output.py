"""Results as lines and as Parquet: the same results, in one valid file, whatever was killed when."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from mlx_distill.errors import DataError, OutputError
from mlx_distill.inference import parquet
from mlx_distill.inference.journal import Journal, lines_of
from mlx_distill.inference.output import Places, reject_key, reject_line, result_key, result_line
from mlx_distill.recipe.schema import FieldSpec
from mlx_distill.records import BadRow, Prediction

FIELDS = {
    "score": FieldSpec(kind="score", weight=1.0),
    "half": FieldSpec(kind="score", step=0.5),
    "mean": FieldSpec(kind="score", estimate="mean"),
    "flag": FieldSpec(kind="flag"),
    "kind": FieldSpec(kind="choice", choices=("a", "ab")),
    "why": FieldSpec(kind="text"),
    "marks": FieldSpec(kind="list"),
}
ANSWER = {"score": 7, "half": 2.5, "mean": 6.28, "flag": True, "kind": "ab", "why": "wet\n\0🌊", "marks": ["high", "wet"]}


def prediction(name: str, **changes: Any) -> Prediction:
    settings: dict[str, Any] = {"answer": ANSWER, "confidence": dict.fromkeys(ANSWER, 0.5), "overall": 7.0, "tier": "high"}
    return Prediction(name, **{**settings, **changes})


def write(places: Places, *names: str) -> None:
    with Journal(places.lines) as lines:
        for name in names:
            lines.write(result_line(prediction(name)))


@pytest.fixture
def places(tmp_path: Path) -> Places:
    return Places(tmp_path / "out.parquet")


@pytest.fixture
def columns() -> Any:
    return parquet.schema([FIELDS], distributions=False)


def ids(places: Places) -> list[str]:
    return pyarrow.parquet.read_table(places.output)["id"].to_pylist()


def test_columns_are_typed_and_what_is_absent_is_null(places: Places, columns: Any) -> None:
    with Journal(places.lines) as lines:
        lines.write(result_line(prediction("a", trimmed=True)))
        lines.write(result_line(prediction("b", answer={"flag": False}, confidence={"flag": 1.0}, overall=None, tier=None), "floods"))
    parquet.merge(places.output, places.lines, columns)
    first, second = pyarrow.parquet.read_table(places.output).to_pylist()
    assert first == {
        "id": "a", "task": None, "answer": ANSWER, "confidence": dict.fromkeys(ANSWER, 0.5), "overall": 7.0, "tier": "high", "trimmed": True
    }  # fmt: skip
    assert second["task"] == "floods" and second["answer"] == dict.fromkeys(ANSWER) | {"flag": False}
    assert (second["overall"], second["tier"], second["trimmed"]) == (None, None, None)
    types = {field.name: str(field.type) for field in pyarrow.parquet.read_schema(places.output).field("answer").type}
    assert types == {
        "score": "int64", "half": "double", "mean": "double", "flag": "bool", "kind": "string", "why": "string",
        "marks": "list<element: string>",
    }  # fmt: skip


def test_new_lines_go_behind_the_results_of_before(places: Places, columns: Any) -> None:
    write(places, "a", "b")
    parquet.merge(places.output, places.lines, columns)
    places.lines.unlink()
    write(places, "c")
    assert [line["id"] for line in places.results()] == ["a", "b", "c"]
    parquet.merge(places.output, places.lines, columns)
    assert ids(places) == ["a", "b", "c"]


def test_lines_that_are_merged_already_are_no_results_of_their_own(places: Places, columns: Any) -> None:
    """A kill between the merge and the removal of the lines."""
    write(places, "a", "b")
    parquet.merge(places.output, places.lines, columns)
    places.settle()
    assert not places.lines.exists() and [line["id"] for line in places.results()] == ["a", "b"]
    write(places, "c")
    places.settle()
    assert [line["id"] for line in places.results()] == ["a", "b", "c"], "new ones stay"


def test_a_merge_that_fails_leaves_what_was_there(places: Places, columns: Any) -> None:
    write(places, "a")
    parquet.merge(places.output, places.lines, columns)
    before = places.output.read_bytes()
    places.lines.write_text('{"id": "b", "answer": {"score": "many"}}\n')
    with pytest.raises(pyarrow.ArrowException):
        parquet.merge(places.output, places.lines, columns)
    assert places.output.read_bytes() == before
    assert [path.name for path in places.output.parent.iterdir() if path.name.startswith(".")] == []


def test_no_results_are_a_valid_file_too(places: Places, columns: Any) -> None:
    parquet.merge(places.output, places.lines, columns)
    assert ids(places) == [] and places.is_empty()


def test_ids_and_texts_of_any_content_are_kept(places: Places, columns: Any) -> None:
    names = ["nul\0", "🌊", "\ud800", "a\nb", "x" * 100_000]
    write(places, *names)
    parquet.merge(places.output, places.lines, columns)
    assert ids(places) == ["nul\0", "🌊", "\\ud800", "a\nb", "x" * 100_000]
    assert [result_key(line) for line in places.results()][:5] == [result_key({"id": name}) for name in names], "they are known again"


def test_more_results_than_fit_one_row_group(places: Places, columns: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet, "ROWS", 3)
    write(places, *map(str, range(10)))
    parquet.merge(places.output, places.lines, columns)
    assert ids(places) == [str(i) for i in range(10)]
    assert pyarrow.parquet.read_metadata(places.output).num_row_groups == 4


def test_a_foreign_file_is_not_taken_for_results(places: Places) -> None:
    pyarrow.parquet.write_table(pyarrow.table({"id": [1]}), places.output)
    with pytest.raises(OutputError, match="no results"):
        list(places.results())
    places.output.write_bytes(b"PAR1 and then nothing")
    with pytest.raises(OutputError, match="damaged"):
        list(places.results())


def test_one_field_of_two_types_cannot_be_a_column() -> None:
    other = {"score": FieldSpec(kind="choice", choices=("low", "high"))}
    with pytest.raises(DataError, match="score in different types, int64 and string") as found:
        parquet.schema([FIELDS, other], distributions=False)
    assert ".jsonl" in str(found.value.hint)
    assert len(parquet.schema([FIELDS, {"more": FieldSpec(kind="flag")}], distributions=True).field("answer").type) == len(FIELDS) + 1


def test_a_torn_line_is_dropped_and_written_over(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    path.write_bytes(b'{"id": "a"}\n{"id": "b", "ans')
    assert [line["id"] for line in lines_of(path)] == ["a"]
    with Journal(path) as lines:
        lines.write({"id": "b"})
    assert [json.loads(line) for line in path.read_text().splitlines()] == [{"id": "a"}, {"id": "b"}]


def test_a_journal_that_nothing_was_written_to_is_no_file(tmp_path: Path) -> None:
    with Journal(tmp_path / "none.jsonl"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_rejects_are_the_same_where_place_and_row_are(tmp_path: Path) -> None:
    def key(bad: BadRow, task: str | None = None) -> str:
        return reject_key(reject_line(bad, tmp_path, task))

    assert key(BadRow("why", 3, "a", str(tmp_path / "x.csv"))) == key(BadRow("why else", 3, "a", str(tmp_path / "x.csv")))
    different = [
        BadRow("why", 3, "a"), BadRow("why", 4, "a"), BadRow("why", 3, "b"), BadRow("why", 3), BadRow("why else", 3),
        BadRow("why", 3, "a", str(tmp_path / "x.csv")), BadRow("why", 3, "a", str(tmp_path / "y.csv")),
    ]  # fmt: skip
    assert len({key(bad, task) for bad in different for task in (None, "floods", "nature")}) == 3 * len(different)
