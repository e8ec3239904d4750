"""Which slice a row is in: columns, labels, what every row has, expressions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mlx_distill.errors import DataError, RecipeError
from mlx_distill.evaluation.judge import Judged, judge
from mlx_distill.evaluation.slices import problems, require, values
from mlx_distill.recipe.schema import FieldSpec, TaskSpec
from mlx_distill.records import Example

TASK = TaskSpec(
    input="{text}", fields={"urgent": FieldSpec(kind="flag"), "risk": FieldSpec(kind="score", weight=1)}, tiers={"high": 5, "low": 0}
)


def rows(*records: dict[str, Any], **same: Any) -> list[Judged]:
    reference = same.pop("reference", {})
    return [Judged(id=str(i), split="test", reference=reference, answer=None, record=record, **same) for i, record in enumerate(records)]


def test_a_column_is_as_it_stands_and_missing_is_empty() -> None:
    made = rows(
        {"lang": "el"}, {"lang": None}, {}, {"lang": 3}, {"lang": True}, {"lang": 2.0}, {"lang": float("nan")}, {"lang": ["a", "b"]}
    )
    assert values("lang", made) == ["el", "", "", "3", "true", "2", "", "a, b"]


def test_a_column_may_be_nested_or_have_any_name() -> None:
    made = rows({"meta": {"source": "bbc"}, "published date": "1999", "a >= b": "x", "class": "0"})
    assert values("meta.source", made) == ["bbc"]
    assert values("published date", made) == ["1999"]
    assert values("a >= b", made) == ["x"]
    assert values("class", made) == ["0"]
    assert values("column('published date')", made) == ["1999"]
    assert values("column('published date') > 1990 and meta.source == 'bbc'", made) == ["yes"]


def test_the_judges_label_stands_before_a_column_of_that_name() -> None:
    made = rows({"urgent": "ja"}, {"urgent": "nein"}, reference={"urgent": True})
    assert values("urgent", made) == ["true", "true"]
    assert values("not urgent", made) == ["no", "no"]


def test_a_field_without_any_label_here_is_known_all_the_same() -> None:
    assert values("urgent", rows({}), ["urgent"]) == [""]
    with pytest.raises(RecipeError, match="there is a slice by 'urgent'"):
        values("urgent", rows({}))


def test_tier_and_overall_are_the_judges() -> None:
    made = rows({"tier": "column"}, reference_tier="high", tier="low", reference_overall=7.25, overall=1.0)
    assert values("tier", made) == ["high"]
    assert values("overall > 7", made) == ["yes"]
    assert values("tier", rows({"tier": "column"})) == ["column"]


def test_length_is_in_quartiles_whose_names_tell_their_ranges() -> None:
    made = [Judged(id=str(n), split="test", reference={}, answer=None, text="x" * n) for n in (1, 2, 3, 4, 5, 6, 7, 80)]
    expected = ["Q1: 1 to 2"] * 2 + ["Q2: 3 to 4"] * 2 + ["Q3: 5 to 6"] * 2 + ["Q4: 7 to 80"] * 2
    assert values("length", made) == expected
    assert values("quartile(length)", made) == expected
    assert values("length > 6", made) == ["no"] * 6 + ["yes"] * 2


def test_a_column_called_length_is_a_column() -> None:
    assert values("length", rows({"length": "long"}, {"length": "short"})) == ["long", "short"]


def test_quartiles_are_over_all_rows_and_a_row_without_a_number_is_in_none() -> None:
    made = rows(*({"views": str(n)} for n in (10, 20, 30, 40)), {"views": ""}, {})
    assert values("quartile(views)", made) == ["Q1: 10 to 10", "Q2: 20 to 20", "Q3: 30 to 30", "Q4: 40 to 40", "", ""]
    assert values("quartile(views / 4)", made)[:2] == ["Q1: 2.5 to 2.5", "Q2: 5 to 5"]


def test_truth_is_yes_or_no_and_unknown_is_neither() -> None:
    assert values("year >= 2020", rows({"year": "2021"}, {"year": 1999}, {"year": ""}, {})) == ["yes", "no", "", ""]
    assert values("'fire' in text", rows({}, text="a fire")) == ["yes"]


def test_the_report_is_sliced_by_them() -> None:
    made = rows({"year": 2021}, {"year": 1999}, reference={"urgent": True})
    entries = judge(made, TASK.fields, bootstrap=100, slices={"new": values("year >= 2020", made, TASK.fields)})["slices"]["new"]
    assert {entry["value"]: entry["n"] for entry in entries} == {"yes": 1, "no": 1}


def test_no_rows_have_no_slices() -> None:
    assert values("no such column", []) == []


def test_a_name_that_nothing_has_is_refused_with_the_nearest() -> None:
    with pytest.raises(RecipeError) as error:
        values("lnguage == 'el'", rows({"language": "el"}))
    assert error.value.message == "the slice \"lnguage == 'el'\" names 'lnguage', and there is no such column or field"
    assert error.value.hint == "did you mean language?"


EXAMPLES = [Example("1", {"language": "el", "text": "x", "meta": {"year": 1}}, "x"), Example("2", {"source": "bbc"}, "x")]


@pytest.mark.parametrize("slice_", ["language", "source", "urgent", "tier", "overall", "length", "text", "meta.year > 0", "quartile(risk)"])
def test_what_rows_have_is_no_problem(slice_: str) -> None:
    assert problems(slice_, EXAMPLES, TASK) is None


@pytest.mark.parametrize(
    ("slice_", "said", "way"),
    [
        ("langauge", "there is a slice by 'langauge', and there is no such column", "did you mean language?"),
        ("zzz > 1", "the slice 'zzz > 1' names 'zzz'", "there is language, text, meta, urgent, risk, length, overall, tier"),
        ("1 == 1", "names no column, so all rows are in one", "there is language"),
        ("language = 'el'", "character 10", "equal is written =="),
    ],
)
def test_what_they_do_not_have_is_said_before_the_training(slice_: str, said: str, way: str) -> None:
    error = problems(slice_, EXAMPLES, TASK)
    assert error is not None and said in error.message and (error.hint or "").startswith(way)
    with pytest.raises(DataError) as refused:
        require(["language", slice_], EXAMPLES, TASK, Path("rows.csv"))
    assert (refused.value.file, said in refused.value.message) == ("rows.csv", True)


def test_without_tiers_or_weights_there_is_no_tier_and_no_overall() -> None:
    plain = TaskSpec(input="{text}", fields={"urgent": FieldSpec(kind="flag")})
    assert problems("tier", EXAMPLES, plain) is not None
    assert problems("overall > 1", EXAMPLES, plain) is not None
    require([], EXAMPLES, plain, Path("rows.csv"))
