"""What a person reads of the ceiling and of the slices: figures, their rows, what is clearly worse."""

from __future__ import annotations

import re
from typing import Any

from mlx_distill.evaluation.ceiling import ceiling
from mlx_distill.evaluation.judge import Judged, judge
from mlx_distill.evaluation.pages.sections import ceiling as ceilings
from mlx_distill.evaluation.pages.sections import slices
from mlx_distill.evaluation.slices import values
from mlx_distill.recipe.schema import FieldSpec

SIDES = ("heads <b>", "tails")
FIELDS = {"side": FieldSpec(kind="choice", choices=SIDES, raters=("ann|1", "ann2", "ann3"))}


def document(rows: list[Judged], fields: dict[str, FieldSpec], names: tuple[str, ...] = ()) -> dict[str, Any]:
    judged = judge(rows, fields, bootstrap=200, slices={name: values(name, rows, fields) for name in names})
    shape = {name: {"kind": spec.kind, "headline": f"accuracy.{name}"} for name, spec in fields.items()}
    return {**judged, "rows": len(rows), "fields": shape, "ceiling": ceiling(rows, fields, bootstrap=200, seed=0)}


def plain(html: str) -> str:
    return " ".join(re.sub("<[^>]*>", " ", html).split())


def asked_twice() -> list[Judged]:
    right, wrong = {"side": SIDES[0]}, {"side": SIDES[1]}
    return [
        Judged(id=f"{i:02}", split="test", reference=right, answer=right if i < 6 else wrong, again=right if i < 8 else wrong)
        for i in range(10)
    ]


def test_the_judge_asked_again_stands_beside_the_student_with_its_share() -> None:
    shown = plain(ceilings.render(document(asked_twice(), FIELDS)))
    assert "asked again about 10 rows" in shown
    assert re.search(r"Accuracy of side 80\.0 % [\d.]+ to [\d.]+ 60\.0 % [\d.]+ to [\d.]+ 75 % \(\d+ to \d+\) 10", shown)
    short = ceilings.markdown(document(asked_twice(), FIELDS))
    assert re.search(r"\| Accuracy of side \| 80\.0 % \(.*\) \| 60\.0 % \(.*\) \| 75 % \(.*\) \| 10 \|", short)


def test_raters_stand_there_by_name_with_how_often_the_others_were_divided() -> None:
    votes = [["heads <b>", "heads <b>", "tails"], ["tails"] * 3, ["heads <b>"] * 3]
    rows = [
        Judged(id=str(i), split="test", reference={"side": own[0]}, answer={"side": own[0]}, raters={"side": own})
        for i, own in enumerate(votes)
    ]
    html = ceilings.render(document(rows, FIELDS))
    shown = plain(html)
    assert "side : 3 raters of 3 rows" in shown
    assert "two of them agree in 77.8 %" in shown and "Fleiss’ κ 0.550" in shown
    assert "On 22.2 % of these occasions the others were divided evenly: left out." in shown
    assert "ann|1" in shown and "<b>" not in html


def test_scores_have_points_and_correlations() -> None:
    fields = {"risk": FieldSpec(kind="score", raters=("one", "two"))}
    scores = [(1, 2, 2), (5, 5, 6), (9, 8, 9), (3, 5, 3)]
    rows = [
        Judged(id=str(i), split="test", reference={"risk": a}, answer={"risk": c}, raters={"risk": [a, b]})
        for i, (a, b, c) in enumerate(scores)
    ]
    shown = plain(ceilings.render(document(rows, fields)))
    assert "two of them are apart by (points) 1.000" in shown
    assert "ICC(A,1) of risk" in shown and "ICC(C,1), one rater’s consistency" in shown
    assert "ICC(A,1)" not in ceilings.markdown(document(rows, fields)), "one figure a field is enough for a pull request"


def test_without_second_answers_there_is_no_such_section() -> None:
    rows = [Judged(id="1", split="test", reference={"side": "tails"}, answer={"side": "tails"})]
    assert ceilings.render(document(rows, FIELDS)) == ceilings.markdown(document(rows, FIELDS)) == ""
    assert ceilings.render({}) == ceilings.markdown({}) == ""


def languages() -> list[Judged]:
    """Right in 80 of 80 English rows, 10 of 40 Greek ones, 0 of 2 Dutch ones; one Greek row has no label."""
    made = []
    for language, right, number in (("en", 80, 80), ("el|gr", 10, 40), ("nl", 0, 2)):
        for i in range(number):
            answer = {"side": SIDES[0] if i < right else SIDES[1]}
            reference = {} if language == "el|gr" and i == 39 else {"side": SIDES[0]}
            made.append(Judged(id=f"{language}{i}", split="test", reference=reference, answer=answer, record={"language": language}))
    return made


def test_slices_come_worst_first_with_their_rows_and_all_rows_last() -> None:
    shown = plain(slices.render(document(languages(), FIELDS, ("language",))))
    assert re.search(r"✗ nl few rows 2 0\.0 % .*✗ el\|gr 39 of 40 25\.6 % .* en 80 100\.0 % .* all rows 121 of 122 74\.4 %", shown)
    assert "fewer than 30" in shown


def test_a_slice_that_may_be_worse_by_chance_alone_is_not_marked() -> None:
    """Right in 22 of 40 rows, and in 24 of 40."""
    rows = [
        Judged(id=f"{name}{i}", split="test", reference={"side": SIDES[0]}, answer={"side": SIDES[i >= right]}, record={"part": name})
        for name, right in (("one", 22), ("other", 24))
        for i in range(40)
    ]
    shown = plain(slices.render(document(rows, FIELDS, ("part",))))
    assert "one 40 55.0 %" in shown and "✗" not in shown.replace(plain(slices.NOTE), "")
    assert "✗" not in slices.markdown(document(rows, FIELDS, ("part",)))


def test_an_error_is_worse_where_it_is_higher() -> None:
    fields = {"risk": FieldSpec(kind="score")}
    rows = [
        Judged(id=f"{name}{i}", split="test", reference={"risk": 1}, answer={"risk": 1 + off + i % 2}, record={"part": name})
        for name, off in (("near", 0), ("far", 4))
        for i in range(40)
    ]
    found = {**document(rows, fields, ("part",)), "fields": {"risk": {"kind": "score", "headline": "mae.risk"}}}
    lines = slices.markdown(found).splitlines()
    assert lines[2].startswith("| ✗ far | 40 | 4.50 |") and lines[3].startswith("| near | 40 | 0.50 |")


def test_a_figure_that_nothing_can_be_said_of_is_left_out() -> None:
    votes = {"side": ["tails"] * 3}
    rows = [Judged(id=str(i), split="test", reference={"side": "tails"}, answer={"side": "tails"}, raters=votes) for i in range(3)]
    shown = plain(ceilings.render(document(rows, FIELDS)))
    assert "two of them agree in 100.0 %" in shown and "Fleiss" not in shown


def test_a_pull_request_names_the_worst_values_and_counts_the_small_ones() -> None:
    short = slices.markdown(document(languages(), FIELDS, ("language",)))
    lines = short.splitlines()
    assert lines[0] == "| worst by language | n | accuracy | 95 % |"
    assert re.fullmatch(r"\| ✗ el\\\|gr \| 39 \| 25\.6 % \| .* \|", lines[2])
    assert lines[3].startswith("| en | 80 | 100.0 % |")
    assert "By language, 1 value of fewer than 30 rows is left out here." in short


def test_without_slices_there_is_no_such_section() -> None:
    assert slices.render(document(languages(), FIELDS)) == slices.markdown(document(languages(), FIELDS)) == ""
    assert slices.render({"main": None, "slices": {"x": []}}) == ""
