"""Who is best by one metric, who is level with it, and what decides between equals."""

import pytest

from mlx_distill.evaluation.choosing.ranking import Contestant, rank
from mlx_distill.evaluation.judge import Judged
from mlx_distill.evaluation.pages.leaflets import sweep as page
from mlx_distill.recipe.schema import FieldSpec

FIELDS = {"high": FieldSpec(kind="flag")}


def one(name, right, loss=None, rows=100):
    """A contestant with so many right answers."""
    judged = [Judged(id=f"r{i:03}", split="valid", reference={"high": True}, answer={"high": i < right}) for i in range(rows)]
    return Contestant(name, judged, loss)


def by(metric, *contestants):
    return rank(contestants, metric, FIELDS, bootstrap=400)


def test_the_best_is_first_and_the_others_are_so_far_behind():
    found = by("accuracy", one("low", 60), one("high", 90), one("middle", 75))
    assert found["order"] == ["high", "middle", "low"]
    assert {name: round(gap["value"], 9) for name, gap in found["behind"].items()} == {"middle": -0.15, "low": -0.3}
    assert found["behind"]["low"]["high"] < 0
    assert found["ties"] == []


def off(name, *gaps):
    """A contestant whose scores are off by so much."""
    rows = [Judged(id=f"r{i}", split="valid", reference={"risk": 5}, answer={"risk": 5 + gap}) for i, gap in enumerate(gaps)]
    return Contestant(name, rows)


def test_of_an_error_the_lower_is_best_and_of_a_bias_the_nearer_to_0():
    contestants = [off("wide", -4, 4), off("high", 2, 2), off("low", -1, -1)]
    fields = {"risk": FieldSpec(kind="score")}
    assert rank(contestants, "dimension_mae", fields, bootstrap=100)["order"] == ["low", "high", "wide"]
    assert rank(contestants, "bias.risk", fields, bootstrap=100)["order"] == ["wide", "low", "high"]


def test_differences_are_paired():
    """9 rows apart of 100: each alone is known to about 0.1, the difference to about 0.06, as it comes of 9 rows alone."""
    gap = by("accuracy", one("a", 80), one("b", 71))["behind"]["b"]
    assert (gap["low"], gap["high"]) == pytest.approx((-0.15, -0.04), abs=0.021)


def test_by_loss_the_lower_is_better_and_there_is_no_interval():
    found = by(None, one("a", 90, 0.8), one("b", 10, 0.4))
    assert found["order"] == ["b", "a"]
    assert found["figures"]["b"] == {"value": 0.4, "low": None, "high": None, "n": 100}
    assert found["behind"] == {}


def test_of_equals_the_lower_loss_is_taken_and_then_the_first():
    assert by("accuracy", one("a", 80, 0.5), one("b", 80, 0.4), one("c", 80))["order"] == ["b", "a", "c"]
    found = by("accuracy", one("a", 80), one("b", 80))
    assert (found["order"], found["ties"]) == (["a", "b"], ["b"])


def test_who_has_no_figure_is_not_ranked():
    unlabelled = Contestant("none", [Judged(id="r000", split="valid", reference={}, answer=None)])
    found = by("accuracy", unlabelled, one("a", 3))
    assert found["order"] == ["a"]
    assert found["figures"]["none"]["value"] is None
    assert by(None, one("nan", 1))["order"] == []


def run(name, figure, behind=None, error=None):
    return {
        "name": name, "settings": {"lora.rank": 8}, "figure": figure, "behind": behind, "error": error and {"message": error}, "steps": 9,
        "valid_loss": 0.5,
    }  # fmt: skip


def document(*runs, best="a", test=None, tested=()):
    return {
        "name": "floods", "metric": "accuracy", "over": {"lora.rank": ["8"]}, "runs": list(runs), "best": best, "ties": [], "test": test,
        "tested": list(tested),
    }  # fmt: skip


FIGURE = {"value": 0.8, "low": 0.7, "high": 0.9, "n": 100}


def test_a_clear_winner_and_one_that_is_level_are_told_apart():
    clear = {"value": -0.1, "low": -0.2, "high": -0.05, "n": 100}
    assert page.sentences(document(run("a", FIGURE), run("b", FIGURE, clear)))[1] == "It is clearly better than 1 other."
    level = clear | {"high": 0.01}
    words = page.sentences(document(run("a", FIGURE), run("b", FIGURE, clear), run("c", FIGURE, level)))
    assert words[0] == "a is best by accuracy: 80.0 % (70.0 to 90.0, n = 100) on validation rows."
    assert words[1] == "There is no clear difference to c: take which of them is cheaper."


def test_the_winner_s_figure_is_said_to_flatter_and_the_test_says_what_it_is_worth():
    found = page.sentences(document(run("a", FIGURE), test={"metrics": {"accuracy": FIGURE | {"value": 0.75}}}, tested=[{"name": "a"}]))
    assert found[-1] == "It was chosen for this figure, which therefore flatters it. On test rows: 75.0 % (70.0 to 90.0, n = 100)."
    twice = page.sentences(document(run("a", FIGURE), test={"metrics": {}}, tested=[{"name": "b"}, {"name": "a"}]))
    assert twice[-1] == "The test rows have been read for 2 runs of this sweep (b, a): they flatter a little too."


def test_without_a_winner_it_says_why():
    assert page.sentences(document(run("a", None, error="too large"), best=None)) == ["None of 1 runs came to an end: a: too large"]
