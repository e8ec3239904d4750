"""The judge's second answers are found by the ids of the rows that they are about, however a report comes to be made."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mlx_distill.errors import DataError
from mlx_distill.recipe.schema import EvaluateSpec, Recipe, SourceSpec
from mlx_distill.workflows.again import Again, second_answers
from tests.evaluation import doubts
from tests.students import write_lines


def asking(folder: Path, *records: dict[str, Any]) -> Recipe:
    path = write_lines(folder / "second.jsonl", list(records))
    return replace(doubts.recipe(), evaluate=EvaluateSpec(again=SourceSpec(kind="jsonl", path=str(path))))


def test_a_second_answer_belongs_to_the_row_of_its_id(tmp_path: Path) -> None:
    records = {"id": "a", "kind": "fire", "risk": 9}, {"id": 7, "kind": "flood"}, {"id": [1, "b"], "urgent": True}
    found = second_answers(asking(tmp_path, *records))
    assert found.answers == {"a": {"kind": "fire"}, "7": {"kind": "flood"}, '[1, "b"]': {"urgent": True}}
    assert list(found.records.values()) == list(records) and list(found.remarks()) == []


def test_of_two_with_one_id_the_first_counts_and_that_is_said(tmp_path: Path) -> None:
    found = second_answers(asking(tmp_path, {"id": "Jo", "kind": "fire"}, {"id": "Jo", "kind": "flood"}, {"id": "Jo", "risk": "?"}))
    assert found.answers == {"Jo": {"kind": "fire"}} and found.records == {"Jo": {"id": "Jo", "kind": "fire"}}
    assert list(found.remarks()) == ["2 second answers have the id of one before: of each row the first counts."]


def test_a_row_without_an_id_is_about_no_row(tmp_path: Path) -> None:
    found = second_answers(asking(tmp_path, {"kind": "fire"}, {"id": " ", "kind": "fire"}, {"id": None}, {"id": "a", "kind": "flood"}))
    assert found.answers == {"a": {"kind": "flood"}} and found.repeated == 0


def test_where_no_row_has_an_id_it_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(DataError) as error:
        second_answers(asking(tmp_path, {"kind": "fire"}, {"key": "a", "kind": "fire"}))
    assert error.value.message == "evaluate.again: there is no row with an id"
    assert "give the file a column 'id' with the ids of the rows" in (error.value.hint or "")
    assert error.value.file == str(tmp_path / "second.jsonl")


def test_the_id_may_stand_in_the_column_of_the_answers_ids_or_in_its_own(tmp_path: Path) -> None:
    found = second_answers(asking(tmp_path, {"article": "a", "id": "z", "kind": "fire"}, {"id": "b", "kind": "flood"}), "article")
    assert found.answers == {"a": {"kind": "fire"}, "b": {"kind": "flood"}}


def test_where_the_judge_was_asked_once_there_is_nothing() -> None:
    assert second_answers(doubts.recipe()) == Again()
