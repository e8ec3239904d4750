"""predictions.jsonl read back: the same rows, and whatever is wrong with a file said with its line."""

import dataclasses
import json
from pathlib import Path

import pytest

from mlx_distill.errors import DataError
from mlx_distill.evaluation.elsewhere.stored import line_of, read_rows
from mlx_distill.evaluation.judge import Judged
from mlx_distill.recipe.schema import FieldSpec

FIELDS = {
    "kind": FieldSpec(kind="choice", choices=("fire", "flood")),
    "urgent": FieldSpec(kind="flag"),
    "risk": FieldSpec(kind="score"),
    "why": FieldSpec(kind="text"),
    "where": FieldSpec(kind="list"),
}
ROW = Judged(
    id="w1",
    split="test",
    reference={"kind": "fire", "urgent": True, "risk": 6.5, "why": "θέση", "where": ["Evia", "Athens"]},
    answer={"kind": "flood", "urgent": False, "risk": 6, "why": "", "where": []},
    confidence={"kind": 0.75, "urgent": 0.5},
    probabilities={"kind": [0.25, 0.75], "urgent": [0.5, 0.5]},
    raw={"kind": [0.2, 0.8], "urgent": [0.5, 0.5]},
    sure=0.4,
    defer=True,
    sets={"kind": ["fire", "flood"], "risk": [5, 8]},
    reference_overall=6.5,
    overall=6.0,
    reference_tier="high",
    tier="low",
    nll=3.25,
    nll_tokens=4.0,
)
REFUSED = Judged(id="w2", split="test", reference={"kind": "fire"}, answer=None, refused="too long")


def written(folder: Path, *lines: object) -> Path:
    path = folder / "predictions.jsonl"
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines), encoding="utf-8")
    return path


def test_what_is_written_is_read_back_as_the_same_rows(tmp_path):
    path = written(tmp_path, line_of(ROW), line_of(REFUSED))
    assert read_rows(path, FIELDS) == [ROW, REFUSED]


def test_without_calibration_there_is_no_raw_beside_the_probabilities(tmp_path):
    row = dataclasses.replace(ROW, raw={})
    assert set(line_of(row)["probabilities"]["kind"]) == {"raw"}
    assert read_rows(written(tmp_path, line_of(row)), FIELDS) == [row]


def test_a_field_that_nobody_calibrated_keeps_what_the_student_said(tmp_path):
    line = line_of(ROW)
    del line["probabilities"]["urgent"]["calibrated"]
    (row,) = read_rows(written(tmp_path, line), FIELDS)
    assert row.probabilities == {"kind": [0.25, 0.75], "urgent": [0.5, 0.5]}


def test_the_least_that_a_line_needs(tmp_path):
    (row,) = read_rows(written(tmp_path, "", {"id": 7, "reference": {"kind": "fire", "other": 1, "risk": None}, "answer": None}), FIELDS)
    assert row == Judged(id="7", split="test", reference={"kind": "fire"}, answer=None)


def test_one_id_may_stand_in_two_splits(tmp_path):
    lines = [line_of(ROW), line_of(dataclasses.replace(ROW, split="valid"))]
    assert [row.split for row in read_rows(written(tmp_path, *lines), FIELDS)] == ["test", "valid"]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "is no JSON object"),
        ("[1]", "is no JSON object"),
        ({"reference": {}, "answer": None}, "the row has no 'id'"),
        ({"id": "a", "answer": None}, "the row has no 'reference'"),
        ({"id": "a", "reference": {}}, "the row has no 'answer'"),
        ({"id": "a", "reference": [], "answer": None}, "row 'a': its reference is no {field: value}; got []"),
        ({"id": "a", "reference": {"kind": "hail"}, "answer": None}, "row 'a': reference.kind: 'hail' is none of its choices"),
        ({"id": "a", "reference": {"risk": 11}, "answer": {}}, "row 'a': reference.risk: 11 is outside 0 to 10"),
        ({"id": "a", "reference": {}, "answer": {"risk": "high"}}, "row 'a': answer.risk: 'high' is no number"),
        ({"id": "a", "reference": {}, "answer": {}, "overall": "high"}, "row 'a': overall is no number; got 'high'"),
        (
            {"id": "a", "reference": {}, "answer": {}, "probabilities": {"kind": {"raw": [1.0]}}},
            "probabilities.kind has 1 numbers, and the field 2 values",
        ),
        (line_of(ROW), "the test row 'w1' stands on line 1 already"),
    ],
)
def test_what_is_wrong_with_a_line_is_said_with_its_number(tmp_path, line, said):
    path = written(tmp_path, line_of(ROW), line)
    with pytest.raises(DataError) as error:
        read_rows(path, FIELDS)
    assert said in error.value.message
    assert (error.value.file, error.value.line) == (str(path), 2)


def test_a_file_that_is_not_there_says_what_makes_one(tmp_path):
    with pytest.raises(DataError, match="no answers can be read") as error:
        read_rows(tmp_path / "predictions.jsonl", FIELDS)
    assert "mlx-distill evaluate RUN" in (error.value.hint or "")
