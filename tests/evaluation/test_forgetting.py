"""Right and wrong answers of base and student become figures and verdicts: against scipy, by hand, and by how often intervals hold."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from scipy.stats import binomtest

from mlx_distill.evaluation.forgetting import Answers, correlation, difference_interval, forgetting, mcnemar, ratio_interval, share
from mlx_distill.evaluation.pages.sections import forgetting as section
from mlx_distill.evaluation.report import strict
from mlx_distill.evaluation.shares import wilson

YES, NO = True, False


def answers(base: Sequence[bool] | None, student: Sequence[bool] | None, **more: Any) -> Answers:
    n = len(student if student is not None else base or ())
    settings: dict[str, Any] = {"title": "MMLU", "kind": "choice", "floor": 0.5, "tasks": ["law"] * n, "chance": [0.25] * n}
    return Answers(base=base, student=student, **{**settings, **more})


def one(base: Sequence[bool] | None, student: Sequence[bool] | None, max_drop: float = 0.05, **more: Any) -> dict[str, Any]:
    found = forgetting({"mmlu": answers(base, student, **more)}, max_drop=max_drop)
    entry: dict[str, Any] = found["benchmarks"]["mmlu"]
    return entry | {"overall": found["verdict"]}


def of(right: int, n: int) -> list[bool]:
    return [YES] * right + [NO] * (n - right)


@pytest.mark.parametrize(("right", "n"), [(0, 10), (10, 10), (7, 10), (1, 3), (430, 1000)])
def test_the_interval_of_a_share_is_wilsons(right: int, n: int) -> None:
    expected = binomtest(right, n).proportion_ci(method="wilson")
    assert wilson(right, n) == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert share(np.array(of(right, n))) == {"value": right / n, "low": wilson(right, n)[0], "high": wilson(right, n)[1], "n": n}


@pytest.mark.parametrize(("lost", "won"), [(0, 0), (1, 0), (5, 5), (10, 2), (3, 17), (900, 800), (3000, 2000)])
def test_p_is_the_exact_test_of_who_alone_is_right(lost: int, won: int) -> None:
    expected = binomtest(lost, lost + won).pvalue if lost + won else 1.0
    assert mcnemar(lost, won) == pytest.approx(expected, rel=1e-9, abs=1e-300)


def test_figures_by_hand() -> None:
    """100 questions: the base is right in 60, of which the student loses 6; it wins 3 others."""
    base = of(60, 100)
    student = of(54, 60) + of(3, 40)
    entry = one(base, student)
    assert (entry["base"]["value"], entry["student"]["value"]) == (0.60, 0.57)
    assert entry["difference"]["value"] == pytest.approx(-0.03) and (entry["lost"], entry["won"]) == (6, 3)
    assert entry["p"] == pytest.approx(0.5078125)  # 2 · (C(9,6) + C(9,7) + C(9,8) + C(9,9)) / 2^9
    assert entry["drop"]["value"] == pytest.approx(1 - 57 / 60)
    assert entry["drop"]["verdict"] == "not certain" and entry["drop"]["low"] < 0.05 < entry["drop"]["high"]
    assert entry["chance"] == 0.25 and not entry["at_chance"]


@pytest.mark.parametrize(
    ("n", "right", "kept", "won"),
    [(60, 0.6, 0.95, 0.05), (150, 0.6, 0.9, 0.1), (200, 0.3, 0.8, 0.05), (40, 0.9, 1.0, 0.0), (500, 0.65, 0.93, 0.07)],
)
def test_intervals_of_difference_and_ratio_hold_what_is_true(n: int, right: float, kept: float, won: float) -> None:
    """In at least 94 of 100 draws, whatever the share, and however alike the two are."""
    generator, draws = np.random.default_rng(0), 1500
    true = right * kept + (1 - right) * won
    held = np.zeros(2)
    for _ in range(draws):
        base = generator.random(n) < right
        student = np.where(base, generator.random(n) < kept, generator.random(n) < won)
        for i, (found, value) in enumerate(((difference_interval, true - right), (ratio_interval, true / right))):
            low, high = found(base, student)
            held[i] += low <= value <= high
    assert (held / draws >= 0.94).all(), held / draws


def test_right_answers_go_together_as_newcombe_counts_them() -> None:
    """Phi of 54, 6, 3, 37: 54 · 37 − 6 · 3 = 1980, less n / 2 = 50, by √(60 · 40 · 57 · 43)."""
    base = np.array(of(60, 100))
    assert correlation(base, np.array(of(54, 60) + of(3, 40))) == pytest.approx(1930 / (60 * 40 * 57 * 43) ** 0.5)
    assert correlation(base, base) == pytest.approx((60 * 40 - 50) / (60 * 40))
    assert correlation(base, ~base) == -1.0
    assert correlation(base, np.array(of(31, 60) + of(20, 40))) == 0.0, "hardly together: counted as not at all"
    assert correlation(base, np.ones(100, bool)) == 0.0


def test_swapping_base_and_student_turns_difference_and_ratio_around() -> None:
    base, student = np.array(of(60, 100)), np.array(of(50, 60) + of(8, 40))
    low, high = difference_interval(base, student)
    assert difference_interval(student, base) == pytest.approx((-high, -low))
    low, high = ratio_interval(base, student)
    assert ratio_interval(student, base) == pytest.approx((1 / high, 1 / low))


def test_two_that_answer_everything_alike_are_not_certainly_alike_on_few_questions() -> None:
    few, many = one(of(12, 20), of(12, 20)), one(of(1200, 2000), of(1200, 2000))
    assert few["drop"]["value"] == many["drop"]["value"] == 0.0
    assert few["drop"]["high"] > 0.05 and few["drop"]["verdict"] == "not certain"
    assert 0 < many["drop"]["high"] < 0.05 and many["drop"]["verdict"] == many["overall"] == "met"


def test_the_drop_is_relative_to_what_the_base_can_do() -> None:
    """4 points of 60 are 6.7 %, of 95 they are 4.2 %."""
    weak = one(of(6000, 10000), of(5600, 10000))
    strong = one(of(9500, 10000), of(9100, 10000))
    assert (weak["drop"]["verdict"], strong["drop"]["verdict"]) == ("missed", "met")
    assert weak["drop"]["value"] == pytest.approx(0.0667, abs=1e-4) and strong["drop"]["value"] == pytest.approx(0.0421, abs=1e-4)
    assert (weak["overall"], strong["overall"]) == ("missed", "met")


def test_a_student_that_gained_has_lost_less_than_nothing() -> None:
    entry = one(of(500, 1000), of(600, 1000))
    assert entry["drop"]["value"] == pytest.approx(-0.2) and entry["drop"]["verdict"] == "met"


def test_a_base_that_guesses_has_nothing_to_forget() -> None:
    entry = one(of(27, 100), of(10, 100), floor=0.0)
    assert entry["at_chance"] and entry["drop"]["verdict"] is None and entry["drop"]["value"] is None
    assert entry["overall"] == "met"  # the floor of 0
    assert "nothing to forget" in section.render({"forgetting": forgetting({"m": answers(of(27, 100), of(10, 100))}, max_drop=0.05)})
    assert one(of(0, 50), of(0, 50), chance=[0.0] * 50)["at_chance"], "a base that solves nothing"
    assert not one(of(45, 100), of(40, 100))["at_chance"]


@pytest.mark.parametrize(("right", "verdict"), [(700, "met"), (510, "not certain"), (400, "missed")])
def test_a_floor_is_met_where_the_whole_interval_is_above_it(right: int, verdict: str) -> None:
    entry = one(of(700, 1000), of(right, 1000), max_drop=1.0)
    assert entry["floor"] == {"value": 0.5, "verdict": verdict, "base": "met", "decides": True} and entry["overall"] == verdict


def test_tasks_come_worst_first() -> None:
    base = of(10, 10) + of(5, 10) + of(8, 10)
    student = of(9, 10) + of(5, 10) + of(4, 10)
    entry = one(base, student, tasks=["law"] * 10 + ["art"] * 10 + ["math"] * 10)
    assert [task["task"] for task in entry["tasks"]] == ["math", "law", "art"]
    assert [round(task["difference"]["value"], 9) for task in entry["tasks"]] == [-0.4, -0.1, 0.0]
    assert [task["n"] for task in entry["tasks"]] == [10, 10, 10]


def test_without_a_base_the_floors_are_left() -> None:
    entry = one(None, of(80, 100))
    assert entry["base"] is None and entry["difference"] is None and entry["drop"]["verdict"] is None
    assert entry["floor"]["verdict"] == entry["overall"] == "met" and not entry["at_chance"]


def test_what_nobody_judged_has_no_figures_and_no_verdict() -> None:
    found = forgetting({"code": answers(None, None, tasks=["humaneval"] * 3, chance=[0.0] * 3, notes=["Not judged: why."])}, max_drop=0.05)
    assert found["verdict"] == "none" and found["benchmarks"]["code"]["student"] is None
    assert "Not judged: why." in section.render({"forgetting": found})


def test_the_worst_verdict_is_that_of_all() -> None:
    good, bad = answers(of(1800, 2000), of(1800, 2000)), answers(of(1800, 2000), of(900, 2000))
    unsure = answers(of(18, 20), of(18, 20))
    verdict = lambda **which: forgetting(which, max_drop=0.05)["verdict"]  # noqa: E731
    assert [verdict(a=good), verdict(a=good, b=unsure), verdict(a=unsure, b=bad), verdict()] == ["met", "not certain", "missed", "none"]


def test_the_document_is_strict_json_and_drawn_with_every_name_escaped() -> None:
    hostile = "<b>|x</b>"
    found = forgetting({hostile: answers(of(60, 100), of(50, 100), tasks=[hostile, "b"] * 50, notes=[hostile])}, max_drop=0.05)
    assert strict(found) == found
    page, short = section.render({"forgetting": found}), section.markdown({"forgetting": found})
    assert "<b>" not in page and "<b>" not in short and "&lt;b&gt;" in page
    assert "60.0 %" in page and "50.0 %" in page and 'role="img"' in page and "16.7 %" in short and "−10.0" in page


def test_the_first_sentence_names_what_turned_the_verdict() -> None:
    good, low = answers(of(1800, 2000), of(1800, 2000)), answers(of(800, 2000), of(800, 2000))
    lost, unsure = answers(of(1800, 2000), of(1500, 2000)), answers(of(18, 20), of(18, 20), floor=0.0)
    first = lambda **which: section.markdown({"forgetting": forgetting(which, max_drop=0.05)}).split("\n")[0]  # noqa: E731
    assert first(good=good) == "It lost at most 5.0 % of what its base answers rightly, and stands above every floor."
    said = "Lost more than 5.0 % of what its base answers rightly: lost. Below the floor: low. "
    assert (
        first(good=good, low=low, lost=lost, small=unsure) == said + "Lost perhaps more than 5.0 % of what its base answers rightly: small."
    )


def test_a_report_that_did_not_ask_shows_nothing() -> None:
    for document in ({}, {"forgetting": None}, {"forgetting": forgetting({}, max_drop=0.05)}):
        assert section.render(document) == section.markdown(document) == ""


def test_a_floor_that_nobody_named_and_the_base_misses_too_decides_nothing():
    wrong, right = [False] * 95 + [True] * 5, [True] * 95 + [False] * 5
    usual = {"title": "X", "kind": "choice", "tasks": ["t"] * 100, "chance": [0.01] * 100, "floor": 0.6}
    found = [
        forgetting({"x": Answers(**usual, base=base, student=wrong, named=named)}, max_drop=1.0)
        for base, named in ((wrong, False), (wrong, True), (right, False))
    ]
    assert [each["benchmarks"]["x"]["floor"]["decides"] for each in found] == [False, True, True]
    assert [each["verdict"] for each in found] == ["met", "missed", "missed"]
