"""Tiers and overalls: agreement on them, what each side puts where, and how the report shows it."""

import math
import re

import numpy as np
import pytest
from scipy.stats import spearmanr
from sklearn.metrics import cohen_kappa_score, confusion_matrix

from mlx_distill.evaluation.judge import Judged, against, judge, lay_out, measure, metric_names, verdict
from mlx_distill.evaluation.pages.sections import tiers as section
from mlx_distill.evaluation.sheet import BELOW
from mlx_distill.evaluation.tables import tiers as table
from mlx_distill.recipe.schema import FieldSpec, TaskSpec
from mlx_distill.task.deferral import wrong
from mlx_distill.task.rubric import tier as tier_of

FIELDS = {"risk": FieldSpec(kind="score", weight=1.0)}
TIERS = ("low", "mid", "high")


def tiered(pairs):
    return [Judged(id=f"r{i:03}", split="test", reference={}, answer={}, reference_tier=a, tier=b) for i, (a, b) in enumerate(pairs)]


def overalls(pairs):
    return [Judged(id=f"r{i:03}", split="test", reference={}, answer={}, reference_overall=a, overall=b) for i, (a, b) in enumerate(pairs)]


def totals(rows, tiers=TIERS):
    return {name: (tally.total(), tally.n) for name, tally in measure(lay_out(rows, FIELDS, tiers)).items()}


def drawn(n=200, seed=0):
    random = np.random.default_rng(seed)
    return [tuple(str(tier) for tier in random.choice(TIERS, size=2, p=[0.5, 0.3, 0.2])) for _ in range(n)]


def test_weighted_kappa_of_tiers_is_that_of_scikit_learn_along_their_order():
    pairs = drawn()
    codes = [[TIERS.index(tier) for tier in side] for side in zip(*pairs, strict=True)]
    expected = cohen_kappa_score(*codes, weights="quadratic", labels=range(3))
    assert totals(tiered(pairs))["tier_kappa"] == (pytest.approx(expected), 200)


def test_neighbours_are_adjacent_and_no_tier_is_near_to_none():
    pairs = [("low", "low"), ("low", "mid"), ("low", "high"), ("high", "mid"), ("mid", None), (None, "low")]
    found = totals(tiered(pairs))
    assert found["tier_adjacent"] == (3 / 5, 5)
    assert found["tier_agreement"] == (1 / 5, 5)
    assert found["tier_kappa"][1] == 4


def test_without_an_order_nothing_is_said_that_asks_for_one():
    found = totals(tiered(drawn()), tiers=())
    assert "tier_agreement" in found
    assert {"tier_adjacent", "tier_kappa"}.isdisjoint(found)
    stranger = totals(tiered([("low", "mid"), ("vapour", "low"), ("low", "vapour")]))
    assert stranger["tier_adjacent"] == (0.5, 2), "a judge's tier of no place does not count, a student's is not near"


def test_overalls_within_half_a_point_and_a_point():
    pairs = [(6.4, 6.9), (6.4, 5.9), (6.4, 5.4), (6.4, 7.41), (6.4, None), (None, 6.4)]
    found = totals(overalls(pairs))
    assert found["overall_within_0.5"] == (2 / 5, 5)
    assert found["overall_within_1.0"] == (3 / 5, 5)
    assert found["accuracy"] == found["overall_within_1.0"], "in a task of scores alone"


def test_a_point_that_a_computer_makes_a_little_more_is_a_point():
    assert 2.2 - 1.2 > 1 and 1.1 - 0.6 > 0.5
    found = totals(overalls([(2.2, 1.2), (1.1, 0.6)]))
    assert (found["overall_within_1.0"], found["overall_within_0.5"]) == ((1.0, 2), (0.5, 2))


def test_the_errors_of_the_overall_are_those_of_its_rows_with_both():
    pairs = [(6.0, 7.0), (3.0, 1.0), (5.0, 5.0), (5.0, None), (None, 2.0)]
    found = totals(overalls(pairs))
    assert found["overall_rmse"] == (pytest.approx(math.sqrt(5 / 3)), 3)
    assert found["overall_bias"] == (pytest.approx(-1 / 3), 3)
    assert found["overall_spearman"] == (pytest.approx(spearmanr([6, 3, 5], [7, 1, 5]).statistic), 3)


def test_a_target_on_a_bias_is_the_most_that_it_may_be_off_either_way():
    known = metric_names(FIELDS)
    for value, met in ((-0.3, False), (-0.1, True), (0.1, True), (0.3, False)):
        found, _ = verdict({"overall_bias": {"value": value}}, {"overall_bias": 0.2}, known)
        assert found["overall_bias"] == {"value": value, "target": 0.2, "met": met}


def test_of_two_students_the_one_with_less_bias_is_better_whichever_way_it_errs():
    def rows(shift):
        return [
            Judged(id=str(i), split="test", reference={"risk": 5}, answer={"risk": 5 + shift}, reference_overall=5, overall=5 + shift)
            for i in range(30)
        ]

    found = against(rows(1), rows(-3), FIELDS, bootstrap=100)
    for name in ("bias.risk", "overall_bias"):
        assert found["metrics"][name]["value"] == -3
        assert (found["difference"][name]["value"], found["difference"][name]["p"]) == (-2, pytest.approx(2 / 101))


def test_the_table_counts_every_row_once_and_those_without_a_tier_behind_the_last():
    pairs = [("low", "low"), ("low", "high"), ("high", "high"), ("mid", None), (None, "low"), (None, None)]
    found = table(lay_out(tiered(pairs), FIELDS, TIERS))
    assert found["names"] == ["low", "mid", "high"] and found["ordered"] and found["n"] == 6
    assert found["matrix"] == [[1, 0, 1, 0], [0, 0, 0, 1], [0, 0, 1, 0], [1, 0, 0, 1]]
    assert found["reference"] == pytest.approx([2 / 6, 1 / 6, 1 / 6, 2 / 6])
    assert found["student"] == pytest.approx([2 / 6, 0, 2 / 6, 2 / 6])


def test_the_table_is_scikit_learns_confusion_matrix():
    pairs = drawn()
    found = table(lay_out(tiered(pairs), FIELDS, TIERS))
    assert np.array(found["matrix"])[:3, :3].tolist() == confusion_matrix(*zip(*pairs, strict=True), labels=TIERS).tolist()


def test_a_task_without_tiers_has_no_table_and_no_section():
    document = judge(overalls([(6.0, 7.0)]), FIELDS, bootstrap=100)
    assert document["tiers"] is None
    assert section.render(document) == section.markdown(document) == ""
    empty = judge([], FIELDS, bootstrap=100, tiers=TIERS)
    assert (empty["tiers"]["n"], empty["tiers"]["reference"]) == (0, [None] * 4)
    assert section.render(empty) == ""


def test_the_section_shows_both_sides_from_the_highest_tier_down():
    document = judge(tiered([("low", "low"), ("low", "high"), ("high", "high"), ("mid", "mid")]), FIELDS, bootstrap=100, tiers=TIERS)
    page = section.render(document)
    assert page.index('<th scope="row"><bdi dir="auto">high') < page.index('<th scope="row"><bdi dir="auto">low')
    assert "50.0 %" in page and "75.0 %" in page and "no tier" not in page
    table = page[page.index("judge ↓ student →") :]
    cells = [re.findall(r"<td[^>]*>(\d+)", line) for line in table.split("<tr>")[2:]]
    assert cells == [["1", "0", "0"], ["0", "1", "0"], ["1", "0", "1"]], "rows are the judge's: its low is the student's high once"
    lines = section.markdown(document).splitlines()
    assert lines[0].startswith("Same tier 75.0 % (")
    assert lines[4:] == ["| high | 25.0 % | 50.0 % |", "| mid | 25.0 % | 25.0 % |", "| low | 50.0 % | 25.0 % |"]


def test_the_section_escapes_names_and_says_which_rows_have_no_tier():
    document = judge(tiered([("<b>|", "<b>|"), ("low", None)]), FIELDS, bootstrap=100, tiers=("low", "<b>|"))
    for text in (section.render(document), section.markdown(document)):
        assert "<b>" not in text and "no tier" in text
    assert "\\|" in section.markdown(document)


def test_another_student_is_compared_along_the_same_order_of_tiers():
    ours, theirs = tiered([("low", "low")] * 20 + [("mid", "high")] * 20), tiered([("low", "mid")] * 20 + [("mid", "low")] * 20)
    found = against(ours, theirs, FIELDS, bootstrap=100, tiers=TIERS)
    assert found["difference"]["tier_adjacent"]["value"] == 0.0
    assert found["difference"]["tier_kappa"]["value"] > 0
    assert found["difference"]["tier_agreement"]["p"] < 0.05


THRESHOLDS = {"low": 2.0, "mid": 5.0, "high": 8.0}
TASK = TaskSpec(input="{text}", fields=FIELDS, tiers=THRESHOLDS)


def assessed(pairs):
    """Rows by their overalls, each with the tier that it reaches; None: no overall."""
    tiers = [[None if overall is None else tier_of(TASK, overall) for overall in pair] for pair in pairs]
    return [
        Judged(id=f"r{i:03}", split="test", reference={}, answer={}, reference_overall=a, overall=b, reference_tier=judge, tier=student)
        for i, ((a, b), (judge, student)) in enumerate(zip(pairs, tiers, strict=True))
    ]


def test_an_overall_below_every_tier_is_a_tier_of_its_own_the_lowest():
    found = totals(assessed([(1, 9)] * 50 + [(9, 9)] * 50))
    assert found["tier_agreement"] == found["tier_adjacent"] == (0.5, 100)
    assert found["tier_kappa"] == (0.0, 100)
    near = totals(assessed([(1, 3), (3, 1), (1, 6), (1, 1)]))
    assert near["tier_agreement"] == (1 / 4, 4)
    assert near["tier_adjacent"] == (3 / 4, 4), "the lowest tier is the next one"


def test_tier_figures_agree_with_the_table_with_scikit_learn_and_with_what_deferral_calls_wrong():
    overalls = [tuple(pair) for pair in np.random.default_rng(4).uniform(0, 10, size=(200, 2)).round(1).tolist()]
    rows = assessed(overalls)
    names = [BELOW, *TIERS]
    sides = [[getattr(row, side) or BELOW for row in rows] for side in ("reference_tier", "tier")]
    found, shown = totals(rows), table(lay_out(rows, FIELDS, TIERS))
    assert shown["names"] == names and shown["ordered"]
    matrix = np.array(shown["matrix"])
    assert matrix[:4, :4].tolist() == confusion_matrix(*sides, labels=names).tolist() and matrix.sum() == matrix[:4, :4].sum()
    assert found["tier_agreement"] == (pytest.approx(np.trace(matrix) / 200), 200)
    assert found["tier_adjacent"] == (pytest.approx(sum(np.trace(matrix[:4, :4], offset=k) for k in (-1, 0, 1)) / 200), 200)
    codes = [[names.index(name) for name in side] for side in sides]
    assert found["tier_kappa"] == (pytest.approx(cohen_kappa_score(*codes, weights="quadratic", labels=range(4))), 200)
    errors = [
        wrong(
            TASK, "tier", 0.0, reference={}, answer={}, reference_overall=row.reference_overall, reference_tier=row.reference_tier,
            overall=row.overall, tier=row.tier,
        )
        for row in rows
    ]  # fmt: skip
    assert found["tier_agreement"][0] == pytest.approx(1 - np.mean(errors))


def test_an_overall_that_is_not_known_is_in_no_tier_and_not_below_them():
    found = totals(assessed([(None, 1), (None, None), (1, None), (1, 1)]))
    assert found["tier_agreement"] == found["tier_adjacent"] == (1 / 2, 2)
    assert found["tier_kappa"][1] == 1
    shown = table(lay_out(assessed([(None, 1), (1, None)]), FIELDS, TIERS))
    assert shown["matrix"][-1][0] == shown["matrix"][0][-1] == 1


def test_a_tier_by_the_name_of_those_below_is_not_taken_for_them():
    rows = [
        Judged(id="0", split="test", reference={}, answer={}, reference_overall=9.0, reference_tier=BELOW, overall=1.0, tier=None),
        Judged(id="1", split="test", reference={}, answer={}, reference_overall=9.0, reference_tier=BELOW, overall=9.0, tier=BELOW),
    ]
    assert totals(rows, tiers=(BELOW,))["tier_agreement"] == (1 / 2, 2)


def test_without_tiers_an_overall_is_below_none_and_without_such_rows_there_is_no_lowest():
    assert lay_out(overalls([(1, 9)]), FIELDS).tiers == ()
    assert lay_out(assessed([(9, 9)]), FIELDS, TIERS).tiers == TIERS
    unordered = totals(assessed([(1, 9), (9, 9)]), tiers=())
    assert unordered["tier_agreement"] == (1 / 2, 2) and "tier_adjacent" not in unordered


def test_the_section_shows_the_rows_below_every_tier_last():
    document = judge(assessed([(1, 9), (9, 9)]), FIELDS, bootstrap=100, tiers=TIERS)
    assert section.markdown(document).splitlines()[-1] == "| below every tier | 50.0 % | 0.0 % |"
    assert "below every tier" in section.render(document) and "no tier" not in section.render(document)
