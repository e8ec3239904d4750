"""Which number is the answer: each estimate is the best there is by its own measure."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_distill.evaluation import judge
from mlx_distill.evaluation.judge import Judged
from mlx_distill.recipe.schema import FieldSpec, GateSpec, TaskSpec
from mlx_distill.task.decision import decide, expectation, expected, place
from mlx_distill.task.fields import closed_values
from mlx_distill.task.rubric import assess

VALUES = (0, 1, 2, 3, 4)
SHARES = st.lists(st.integers(0, 40), min_size=5, max_size=5).filter(any).map(lambda counts: np.array(counts) / sum(counts))


def score(estimate: str | None, **more: float) -> FieldSpec:
    return FieldSpec(kind="score", estimate=estimate, **{"max": 4.0, **more})  # type: ignore[arg-type]


@settings(deadline=None, derandomize=True)
@given(SHARES)
def test_each_estimate_is_the_best_by_its_own_measure(shares: np.ndarray) -> None:
    apart = np.abs(np.subtract.outer(np.array(VALUES), np.array(VALUES)))
    mode, median, mean = (decide(score(estimate), VALUES, shares) for estimate in ("mode", "median", "mean"))
    assert shares[VALUES.index(mode)] == shares.max()
    assert (apart @ shares)[VALUES.index(median)] == pytest.approx((apart @ shares).min())
    squares = [float(((np.array(VALUES) - about) ** 2) @ shares) for about in (float(mean), float(mean) - 0.01, float(mean) + 0.01)]
    assert min(squares) == pytest.approx(squares[0], abs=1e-4), "to the rounding"


def test_ties_go_to_the_lowest() -> None:
    assert decide(score(None), VALUES, [0.1, 0.3, 0.2, 0.3, 0.1]) == 1
    assert decide(score("median"), VALUES, [0.5, 0, 0, 0, 0.5]) == 0, "where half of the probability is reached"
    assert decide(FieldSpec(kind="choice", choices=("a", "b")), ("a", "b"), [0.5, 0.5]) == "a"


def test_the_default_is_the_mode_and_other_kinds_have_no_other() -> None:
    likely = [0.3, 0.1, 0.1, 0.15, 0.35]
    assert decide(score(None), VALUES, likely) == decide(score("mode"), VALUES, likely) == 4
    assert decide(FieldSpec(kind="flag"), (False, True), [0.2, 0.8]) is True


def test_half_in_float32_is_half() -> None:
    halves = np.array([0.1, 0.2, 0.2, 0.25, 0.25], np.float32) * np.float32(0.999999)
    assert decide(score("median"), VALUES, halves) == 2


def test_a_mean_stays_within_the_limits_and_has_two_decimals_or_the_steps() -> None:
    third = decide(score("mean", max=2), (0, 1, 2), [1 / 3, 0, 2 / 3])
    assert third == 1.33 and type(third) is float
    assert decide(score("mean"), VALUES, [0, 0, 0, 0, 1.0000002]) == 4.0
    assert type(decide(score("mean"), VALUES, [0, 0, 0, 0, 1])) is float, "a column has one type"
    fine = score("mean", max=0.004, step=0.001)
    assert decide(fine, tuple(closed_values(fine) or ()), [0, 0.5, 0.5, 0, 0]) in (0.001, 0.002), "as fine as its steps"
    assert expected((-5, 5), [0.25, 0.75]) == 2.5
    assert expected((-5, 5), [0.24, 0.72]) == 2.5, "probabilities that do not sum to 1"
    assert [expectation(score("mean"), number) for number in (-0.4, 4.3)] == [0.0, 4.0], "a linear model's"


def test_a_mean_stands_for_the_nearest_value() -> None:
    half = score("mean", max=1, step=0.5)
    values = tuple(closed_values(half) or ())
    assert [place(half, values, number) for number in (0.2, 0.25, 0.6, 1.0)] == [0, 1, 1, 2]
    assert place(FieldSpec(kind="flag"), (False, True), True) == 1


def test_a_mean_between_two_steps_is_judged_and_weighed_as_it_is() -> None:
    """Errors use the number itself; right and wrong, and with them calibration, its nearest step."""
    fields = {"s": score("mean", weight=1.0)}
    rows = [Judged(id="a", split="test", reference={"s": 3}, answer={"s": 2.6}, confidence={"s": 0.4})]
    rows += [Judged(id="b", split="test", reference={"s": 1.5}, answer={"s": 2.25}, confidence={"s": 0.9})]
    metrics = judge.judge(rows, fields, bootstrap=100)["metrics"]
    assert metrics["mae.s"]["value"] == pytest.approx((0.4 + 0.75) / 2)
    assert metrics["exact_match"]["value"] == 1.0 and metrics["valid_json"]["value"] == 1.0
    assert metrics["ece.s"]["value"] == pytest.approx((0.6 + 0.1) / 2)


def test_gates_overall_and_tier_take_the_estimate() -> None:
    spec = FieldSpec(kind="score", max=4, weight=1.0, estimate="mean", gate=GateSpec(below=2, cap=1))
    task = TaskSpec(input="{t}", fields={"s": spec}, tiers={"high": 2.5, "low": 0.0})
    assert assess(task, {"s": 2.6}) == (2.6, "high")
    assert assess(task, {"s": 1.99}) == (1.0, "low")
