"""The judge against itself, raters against each other, and the student's share of that."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest

from mlx_distill.evaluation.ceiling import again_of, ceiling, raters_of, remarks
from mlx_distill.evaluation.judge import Judged
from mlx_distill.recipe.schema import FieldSpec, TaskSpec
from mlx_distill.task import rubric

COIN = {"side": FieldSpec(kind="choice", choices=("heads", "tails"), raters=("a", "b", "c"))}
RISK = {"risk": FieldSpec(kind="score", raters=("one", "two", "three"))}
DRAWS = {"bootstrap": 200, "seed": 0}


def row(i: int, reference: Any, answer: Any, raters: Any = (), again: Any = None, name: str = "side") -> Judged:
    given = {} if not raters else {name: raters}
    first = {} if reference is None else {name: reference}
    second = {} if again is None else {name: again}
    return Judged(id=f"{i:03}", split="test", reference=first, answer={name: answer}, raters=given, again=second)


def figure(found: Any, metric: str, side: str) -> Any:
    return found["metrics" if "metrics" in found else "others"][metric][side]["value"]


def test_where_nobody_was_asked_twice_there_is_no_ceiling() -> None:
    assert ceiling([row(0, "heads", "heads")], COIN, **DRAWS) is None
    assert ceiling([row(0, "heads", "heads", raters=[None, None, None])], COIN, **DRAWS) is None


def test_the_students_share_of_the_judges_own_agreement() -> None:
    # asked again, the judge says the same in 8 of 10 rows, the student in 6 of them
    rows = [row(i, "heads", "heads" if i < 6 else "tails", again="heads" if i < 8 else "tails") for i in range(10)]
    found = ceiling(rows, {"side": FieldSpec(kind="choice", choices=("heads", "tails"))}, **DRAWS)
    assert found is not None and found["raters"] == {}
    assert found["again"]["n"] == 10
    assert [figure(found["again"], "accuracy.side", side) for side in ("judge", "student", "share")] == pytest.approx([0.8, 0.6, 0.75])
    share = found["again"]["metrics"]["accuracy.side"]["share"]
    assert share["low"] < 0.75 < share["high"] and share["n"] == 10
    assert set(found["again"]["metrics"]) == {"accuracy.side", "cohen_kappa.side", "macro_f1.side"}


def test_of_an_error_the_share_is_the_judges_over_the_students() -> None:
    rows = [row(i, 5, 5 + 2 * (i % 2), again=5 + i % 2, name="risk") for i in range(10)]
    found = ceiling(rows, {"risk": FieldSpec(kind="score")}, **DRAWS)
    assert found is not None
    assert [figure(found["again"], "mae.risk", side) for side in ("judge", "student", "share")] == pytest.approx([0.5, 1, 0.5])
    assert {"mae.risk", "kappa.risk", "spearman.risk", "icc.risk"} <= set(found["again"]["metrics"])


def test_of_a_judge_who_agrees_with_itself_by_chance_at_most_there_is_no_share() -> None:
    # asked again, the judge says the opposite: kappa is -1, and the student's 1 is no share of that
    rows = [row(i, side, side, again="tails" if side == "heads" else "heads") for i, side in enumerate(["heads", "tails"] * 5)]
    found = ceiling(rows, {"side": FieldSpec(kind="choice", choices=("heads", "tails"))}, **DRAWS)
    assert found is not None
    assert [figure(found["again"], "cohen_kappa.side", side) for side in ("judge", "student", "share")] == [-1, 1, None]


def test_a_row_without_a_second_overall_counts_for_neither_side() -> None:
    fields = {"a": FieldSpec(kind="score", weight=0.5), "b": FieldSpec(kind="score", weight=0.5)}
    task = TaskSpec(input="{t}", fields=fields, tiers={"all": 0})

    def made(i: int, overall: float, again: dict[str, int]) -> Judged:
        known = {"reference_overall": 5.0, "reference_tier": "all", "overall": overall, "tier": "all"}
        return Judged(id=str(i), split="test", reference={"a": 5, "b": 5}, answer={"a": 5, "b": 5}, again=again, **known)

    def rows_of(*rows: Judged) -> Any:
        found = ceiling(rows, fields, **DRAWS, rubric=lambda _, answer: rubric.assess(task, answer), tiers=["all"])
        return found and found["again"]

    half = made(1, 9.0, {"a": 6})
    assert "mae.a" in rows_of(half)["metrics"] and "overall_mae" not in rows_of(half)["metrics"]
    both = rows_of(half, made(2, 6.0, {"a": 5, "b": 9}))
    assert [figure(both, "overall_mae", side) for side in ("judge", "student")] == [2, 1]


def test_only_rows_and_fields_that_were_asked_again_count_for_either_side() -> None:
    fields = {"side": FieldSpec(kind="choice", choices=("heads", "tails")), "far": FieldSpec(kind="flag")}
    rows = [
        Judged(
            id="1", split="test", reference={"side": "heads", "far": True}, answer={"side": "heads", "far": True}, again={"side": "heads"}
        ),
        Judged(id="2", split="test", reference={"side": "heads", "far": True}, answer={"side": "tails", "far": False}),
    ]
    found = ceiling(rows, fields, **DRAWS)
    assert found is not None and found["again"]["n"] == 1
    assert figure(found["again"], "accuracy.side", "student") == 1
    assert "accuracy.far" not in found["again"]["metrics"]


def test_a_student_who_gave_no_answer_is_wrong_where_the_judge_was_asked_again() -> None:
    rows = [
        Judged(id=str(i), split="test", reference={"far": True}, answer=None if i else {"far": True}, again={"far": True}) for i in (0, 1)
    ]
    found = ceiling(rows, {"far": FieldSpec(kind="flag")}, **DRAWS)
    assert found is not None
    assert [figure(found["again"], "accuracy.far", side) for side in ("judge", "student")] == [1, 0.5]


def test_overall_and_tier_of_the_second_answer_are_the_rubrics() -> None:
    task = TaskSpec(input="{t}", fields={"risk": FieldSpec(kind="score", weight=1)}, tiers={"high": 5, "low": 0})

    def made(i: int, first: int, answer: int, second: int) -> Judged:
        (a, b), (c, d) = (rubric.assess(task, {"risk": value}) for value in (first, answer))
        known = {"reference_overall": a, "reference_tier": b, "overall": c, "tier": d}
        return Judged(id=str(i), split="test", reference={"risk": first}, answer={"risk": answer}, again={"risk": second}, **known)

    rows = [made(0, 7, 4, 6), made(1, 2, 2, 3), made(2, 4, 6, 4), made(3, 8, 8, 8)]
    found = ceiling(rows, task.fields, **DRAWS, rubric=lambda _, answer: rubric.assess(task, answer), tiers=["low", "high"])
    assert found is not None
    assert [figure(found["again"], "tier_agreement", side) for side in ("judge", "student", "share")] == [1, 0.5, 0.5]
    assert [figure(found["again"], "overall_mae", side) for side in ("judge", "student")] == [0.5, 1.25]


def test_raters_who_toss_coins_are_compared_with_the_others_and_not_with_a_majority_that_holds_their_own_voice() -> None:
    """Every outcome of four coins once: the fourth is the student's. The label is the raters' majority."""
    rows = []
    for i, tosses in enumerate(product(("heads", "tails"), repeat=4)):
        majority = max(("heads", "tails"), key=tosses[:3].count)
        rows.append(row(i, majority, tosses[3], raters=list(tosses[:3])))
    found = ceiling(rows, COIN, **DRAWS)
    assert found is not None
    side = found["raters"]["side"]
    assert [one["accuracy.side"]["value"] for one in side["label"]] == [0.75] * 3, "each rater's own voice is in the majority"
    assert figure(side, "accuracy.side", "judge") == 0.5
    assert figure(side, "accuracy.side", "student") == 0.5
    assert figure(side, "accuracy.side", "share") == 1
    assert (side["compared"], side["divided"]) == (48, 24)
    assert side["agreement"]["pairwise"]["value"] == pytest.approx(0.5)
    assert side["agreement"]["fleiss_kappa"]["value"] == pytest.approx(0)
    assert side["raters"] == ["a", "b", "c"] and side["n"] == 16


def test_of_scores_the_others_say_their_mean() -> None:
    # others' means 5, 4, 3 for raters of 2, 4, 6; the student says 4
    found = ceiling([row(0, 4, 4, raters=[2, 4, 6], name="risk")], RISK, **DRAWS)
    assert found is not None
    risk = found["raters"]["risk"]
    assert figure(risk, "mae.risk", "judge") == pytest.approx((3 + 0 + 3) / 3)
    assert figure(risk, "mae.risk", "student") == pytest.approx((1 + 0 + 1) / 3)
    assert figure(risk, "mae.risk", "share") == pytest.approx(3)
    assert risk["agreement"]["pairwise"]["value"] == pytest.approx((2 + 4 + 2) / 3)
    assert {"alpha", "icc_a1", "icc_c1", "icc_ak"} <= set(risk["agreement"])


def test_a_rater_who_left_a_row_out_takes_it_from_the_student_too() -> None:
    rows = [row(0, "heads", "tails", raters=["heads", None, "heads"]), row(1, "heads", "heads", raters=["heads"] * 3)]
    found = ceiling(rows, COIN, **DRAWS)
    assert found is not None
    # raters a and c count both rows, b the second alone: the student is right in 1/2, 1/2 and 1
    assert figure(found["raters"]["side"], "accuracy.side", "student") == pytest.approx(2 / 3)
    assert figure(found["raters"]["side"], "accuracy.side", "judge") == 1


def test_one_rater_beside_the_label_is_a_second_judge() -> None:
    fields = {"side": FieldSpec(kind="choice", choices=("heads", "tails"), raters=("second",))}
    rows = [row(i, "heads", "heads" if i else "tails", raters=["heads" if i < 3 else "tails"]) for i in range(4)]
    found = ceiling(rows, fields, **DRAWS)
    assert found is not None
    side = found["raters"]["side"]
    assert (figure(side, "accuracy.side", "judge"), figure(side, "accuracy.side", "student")) == (0.75, 0.75)
    assert (side["agreement"], side["divided"]) == ({}, 0)


def test_the_order_of_rows_changes_nothing() -> None:
    rows = [row(i, "heads", "heads" if i % 3 else "tails", raters=["heads", "tails" if i % 2 else "heads", "heads"]) for i in range(20)]
    assert ceiling(rows, COIN, **DRAWS) == ceiling(rows[::-1], COIN, **DRAWS)


TASK = TaskSpec(
    input="{t}",
    fields={
        "side": FieldSpec(kind="choice", choices=("heads", "tails"), aliases={"heads": ("H",)}, raters=("votes.a", "b")),
        "risk": FieldSpec(kind="score", source="r"),
    },
)


def test_raters_labels_are_read_from_their_columns_as_labels_are() -> None:
    record = {"votes": {"a": " h "}, "b": "tails"}
    assert raters_of(TASK, record) == {"side": ["heads", "tails"]}
    assert raters_of(TASK, {"b": "edge"}) == {"side": [None, None]}
    assert raters_of(TASK, {"votes": {"a": "skip"}, "b": ""}, ["skip"]) == {"side": [None, None]}


def test_a_second_answer_has_the_columns_of_the_first() -> None:
    assert again_of(TASK, {"side": "H", "r": {"score": "7.0"}}) == {"side": "heads", "risk": 7}
    assert again_of(TASK, {"side": "edge", "r": 11}) == {}
    assert again_of(TASK, {"side": "none"}, ["none"]) == {}


def test_what_cannot_be_read_is_counted_and_told() -> None:
    records = [{"votes": {"a": "edge"}, "b": "tails"}, {"votes": {"a": "rim"}}, {"b": ""}]
    of_raters, of_second = remarks(TASK, records, [{"side": "heads", "r": 12}])
    assert of_raters.startswith("2 of the raters' labels in votes.a cannot be read; the first: 'edge' is none of its choices, nor an alias")
    assert of_second == "1 of the second answers in risk cannot be read; the first: 12 is outside 0 to 10."
    assert remarks(TASK, [{"b": "heads"}]) == []


def test_where_texts_stay_at_home_what_cannot_be_read_is_counted_and_not_quoted() -> None:
    of_raters, of_second = remarks(TASK, [{"b": "Patient John Smith"}], [{"side": "heads", "r": "Patient John Smith"}], texts=False)
    assert of_raters == "1 of the raters' labels in b cannot be read."
    assert of_second == "1 of the second answers in risk cannot be read."
