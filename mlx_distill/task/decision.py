"""From a field's distribution to its answer: the likeliest value, or of a score the number that its recipe asks for (`estimate`).

Which number is right depends on what is held against it. For a distribution over 0 to 3 of .3, .1, .25, .35:

    mode     3     is exactly the judge's answer oftenest, .35 of the time           accuracy, exact agreement
    median   2     is least off on average, by 1.05 points (the mode by 1.35)       mean absolute error
    mean     1.65  is least off in squares, and moves with every probability         squared error, ranking, overall

It knows fields and probabilities; nothing of tokens, models or how the probabilities came to be (one pass, votes of samples).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from mlx_distill.recipe.schema import FieldSpec
from mlx_distill.records import Value
from mlx_distill.task.fields import decimals, limits, nearest_value

DIGITS = 2
"""Of a mean; more where the field's own steps are finer."""
HALF = 0.5 - 1e-6
"""Probabilities come from float32: 0.3 + 0.2 reaches a half."""


def decide(spec: FieldSpec, values: Sequence[Value], probabilities: ArrayLike) -> Value:
    """The answer of a closed field. `values` in order; `probabilities`, one for each, finite; they need not sum to exactly 1.

    mode: the likeliest value, the first where two tie. median: the first at which half of the probability is reached. mean: the
    expectation, within min to max, a float of two decimals that is mostly none of the values.

    >>> likely = [0.3, 0.1, 0.25, 0.35]
    >>> [decide(FieldSpec(kind="score", max=3, estimate=how), (0, 1, 2, 3), likely) for how in ("mode", "median", "mean")]
    [3, 2, 1.65]
    >>> decide(FieldSpec(kind="flag"), (False, True), [0.5, 0.5])
    False
    """
    shares = np.asarray(probabilities, np.float64)
    if spec.estimate == "mean":
        return expectation(spec, expected(values, shares))
    if spec.estimate == "median":
        reached = np.cumsum(shares) >= HALF * shares.sum()
        return values[int(np.argmax(reached))]
    return values[int(np.argmax(shares))]


def expected(values: Sequence[Value], probabilities: ArrayLike) -> float:
    """The expectation of a score, in its points.

    >>> expected((0, 5, 10), [0.5, 0.25, 0.25])
    3.75
    """
    shares = np.asarray(probabilities, np.float64)
    return float(np.asarray(values, np.float64) @ shares / shares.sum())


def expectation(spec: FieldSpec, number: float) -> float:
    """A number as the answer of a score whose estimate is the mean: within its limits, rounded.

    >>> expectation(FieldSpec(kind="score", max=3), 1.666), expectation(FieldSpec(kind="score", max=3), 3.0000004)
    (1.67, 3.0)
    """
    low, high, _ = limits(spec)
    return float(min(high, max(low, round(number, max(DIGITS, decimals(spec))))))


def place(spec: FieldSpec, values: Sequence[Value], answer: Value) -> int:
    """Which of the values an answer stands for: its own place, or of a mean the nearest value's. Its probability is the confidence.

    >>> place(FieldSpec(kind="score", max=3, estimate="mean"), (0, 1, 2, 3), 1.65)
    2
    """
    return values.index(answer if answer in values else nearest_value(spec, answer))
