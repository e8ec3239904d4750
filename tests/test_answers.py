"""What tests and scripts call the faults of a job's output: each of them is found."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mlx_distill.recipe.schema import FieldSpec, TaskSpec
from tests.answers import answered, differences, faults, rejects_of, unmerged

TASK = TaskSpec(
    instructions="?",
    input="{text}",
    fields={
        "height": FieldSpec(kind="score", weight=1.0),
        "flood": FieldSpec(kind="flag"),
        "kind": FieldSpec(kind="choice", choices=("a", "b")),
    },
    tiers={"high": 5.0, "low": 0.0},
)


def result(id: str, **changes: Any) -> dict[str, Any]:
    answer = {"height": 7, "flood": True, "kind": "a", **changes.pop("answer", {})}
    line = {"id": id, "answer": answer, "confidence": dict.fromkeys(answer, 0.5), "overall": 7.0, "tier": "high"}
    return line | changes


def write(path: Path, *lines: dict[str, Any], end: str = "\n") -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text("\n".join(map(json.dumps, lines)) + end, encoding="utf-8")
    return path


def write_parquet(path: Path, *lines: dict[str, Any]) -> Path:
    import pyarrow
    import pyarrow.parquet

    path.parent.mkdir(exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(lines)), path)
    return path


def test_a_whole_output_has_no_fault_and_may_end_in_a_torn_line(tmp_path: Path) -> None:
    output = write(tmp_path / "a.jsonl", result("1"), result("2"), end='\n{"id": "3", "ans')
    write(rejects_of(output), {"id": None, "line": 4, "reason": "not JSON"})
    assert faults(output, TASK) == []
    assert answered(output) == 2


def test_a_parquet_job_has_its_results_in_two_places_and_both_are_looked_at(tmp_path: Path) -> None:
    output = write_parquet(tmp_path / "a.parquet", result("1"))
    write(unmerged(output), result("2"), result("2"))
    assert answered(output) == 3
    assert faults(output, TASK) == ["a.parquet.part.jsonl: 2 stands there 2 times"]
    output.write_bytes(output.read_bytes()[:-9])
    assert faults(output, TASK)[0].startswith("a.parquet: no whole Parquet file")


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        (result("1", answer={"height": 11}), "height is 11"),
        (result("1", answer={"height": 7.5}), "height is 7.5"),
        (result("1", answer={"flood": "true"}), "flood is 'true'"),
        (result("1", answer={"kind": "c"}), "kind is 'c'"),
        (result("1", answer={"more": 1}), "answers ['height', 'flood', 'kind', 'more']"),
        (result("1", confidence={"height": 1.2}), "confidences {'height': 1.2}"),
        (result("1", tier="higher"), "tier higher at 7.0"),
        (result("1", overall=3.0), "tier high at 3.0"),
    ],
)
def test_an_illegal_answer_is_a_fault(tmp_path: Path, line: dict[str, Any], fault: str) -> None:
    assert faults(write(tmp_path / "a.jsonl", line), TASK) == [f"a.jsonl: 1: {fault}"]


def test_a_row_or_a_reject_that_stands_there_twice_is_a_fault(tmp_path: Path) -> None:
    output = write(tmp_path / "a.jsonl", result("1"), result("2"), result("1"))
    write(rejects_of(output), *[{"id": None, "line": 4, "reason": "not JSON"}] * 2)
    assert faults(output, TASK) == ["a.jsonl: 1 stands there 2 times", "a.jsonl.rejects.jsonl: line 4 stands there more than once"]


def test_a_line_that_is_torn_and_not_the_last_is_a_fault(tmp_path: Path) -> None:
    output = tmp_path / "a.jsonl"
    output.write_text('{"id": "1", "ans\n' + json.dumps(result("2")) + "\n")
    [fault] = faults(output, TASK)
    assert fault.startswith("a.jsonl: ")


def test_jobs_differ_by_what_is_lost_made_up_or_answered_otherwise_not_by_order_or_last_digits(tmp_path: Path) -> None:
    one, two = tmp_path / "one" / "a.jsonl", tmp_path / "two" / "a.jsonl"
    close = result("2", confidence={"height": 0.5008, "flood": 0.5, "kind": 0.5})
    write(one, result("1"), result("2"))
    write(two, close, result("1"))
    assert differences(one, two) == []
    write(two, result("1", answer={"kind": "b"}), result("3"), result("2", confidence={"height": 0.52, "flood": 0.5, "kind": 0.5}))
    write(rejects_of(one), {"id": "x", "line": 1, "reason": "no"})
    write(rejects_of(two), {"id": "x", "line": 2, "reason": "no"})
    found = "; ".join(differences(one, two))
    for said in (
        "3 is lost",
        "1 is answered",
        "2 has the confidences",
        '"line": 2, "reason": "no"} is lost',
        '"line": 1, "reason": "no"} has come',
    ):
        assert said in found
