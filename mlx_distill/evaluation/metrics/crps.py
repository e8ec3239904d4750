"""`crps.<field>`: how far a score's whole distribution is from the judge's number (continuous ranked probability score).

Gneiting and Raftery, "Strictly proper scoring rules, prediction, and estimation", 2007. It is the mean absolute error for a student that is
always certain, and less for one that spreads its probability where it does not know.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mlx_distill.evaluation.metrics import Floats, Sheet, Tally, mean

BETTER = "lower"
UNIT = "points of the score"
TITLE = "CRPS"

AT_ONCE = 1_000_000
"""Probabilities that are worked on at once: a score may have 1,001 values."""


def crps(reference: Sequence[float], values: Sequence[float], probabilities: Sequence[Sequence[float]]) -> float:
    """Mean of the integral of (F(x) − 1{reference <= x})² dx, in points; lower is better. `values` ascend, a probability for each.

    >>> crps([1], [0, 1, 2], [[0.5, 0.25, 0.25]])  # 0.5² from 0 to 1, (0.75 − 1)² from 1 to 2
    0.3125
    >>> crps([0.5], [0, 1], [[1.0, 0.0]])  # certain of 0: half a point off
    0.5
    """
    judge = np.array(reference, dtype=float)
    own = scores(judge, np.array(values, dtype=float), np.array(probabilities, dtype=float))
    return mean(own, np.ones(len(judge), dtype=bool)).total()


def scores(reference: Floats, values: Floats, probabilities: Floats) -> Floats:
    """Of each row (rows,)."""
    step = max(1, AT_ONCE // len(values))
    blocks = [slice(start, start + step) for start in range(0, max(1, len(reference)), step)]
    return np.concatenate([_scores(reference[block], values, probabilities[block]) for block in blocks])


def _scores(reference: Floats, values: Floats, probabilities: Floats) -> Floats:
    """The reference may lie between two values: F is a staircase, so each step is cut in two there."""
    below = np.cumsum(probabilities, axis=1)[:, :-1]  # F on each step from one value to the next
    width = np.diff(values)
    before = np.clip(reference[:, None] - values[:-1], 0.0, width)
    inside = (below**2 * before + (1.0 - below) ** 2 * (width - before)).sum(axis=1)
    outside = np.maximum(values[0] - reference, 0.0) + np.maximum(reference - values[-1], 0.0)
    return np.asarray(inside + outside)


def tallies(sheet: Sheet) -> dict[str, Tally]:
    return {f"crps.{name}": column.mean_of_spread(scores) for name, column in sheet.of_kind("score").items()}
