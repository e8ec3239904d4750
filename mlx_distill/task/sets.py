"""Conformal sets: the choices that the judge's is among, the interval that its score lies in, as often as was promised.

    SetRule(method=..., quantile=...).members(spec, values, shares, answer)

A rule is a measure of how odd a value would be as the judge's, and the most that is let in. Nested sets by a measure, and a quantile of it
on rows that were not learned, are all that the promise needs (Vovk et al., "Algorithmic Learning in a Random World", 2005; Gupta,
Kuchibhotla and Ramdas, "Nested Conformal Prediction", 2022). The student's answer is always a member: it is odd by 0.

    lac       1 - p: the fewest members on average       Sadinle, Lei and Wasserman, 2019
    aps       the probability of all that is at least as likely: more members for harder rows       Romano, Sesia and Candes, 2020
    raps      the same, and PENALTY for each rank behind the second: fewer unlikely members       Angelopoulos et al., 2021
    cdf       scores: distance of the value's mid-CDF from the middle: wide where the distribution is       Chernozhukov et al., 2021
    distance  scores: points from the answer: the same width everywhere       Lei et al., 2018

None draws a random number: the same row has the same set. `evaluation.conformal` finds the quantiles.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from mlx_distill.recipe.schema import FieldSpec
from mlx_distill.records import Value
from mlx_distill.task.calibrated import WIDE
from mlx_distill.task.fields import limits

OF_NAMES = ("lac", "aps", "raps")
"""Methods for choices and flags."""
OF_SCORES = ("cdf", "distance")
PENALTY, FREE_RANKS = 0.1, 2
"""Of raps: added to a value's measure for each rank behind these."""
TIE = 1e-9
"""Two measures as near as this are the same: sums in another order differ in their last bits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SetRule:
    method: str
    quantile: float | None
    """The largest measure of a member. None: too few rows to promise anything, every value is a member."""

    def members(self, spec: FieldSpec, values: Sequence[Value], shares: Sequence[float] | None, answer: Value) -> list[Value]:
        """Choices and flags: the members in the order of the set. A score: [lowest, highest].

        `shares`: the calibrated distribution, in the order of `values`; None will do for `distance`.
        """
        if spec.kind == "score":
            return self._interval(spec, values, shares, _number(answer))
        if self.quantile is None:
            return list(values)
        assert shares is not None
        odd = oddness(self.method, shares, values.index(answer))
        return [value for value, own in zip(values, odd, strict=True) if own <= self.quantile + TIE]

    def _interval(self, spec: FieldSpec, values: Sequence[Value], shares: Sequence[float] | None, answer: float) -> list[Value]:
        low, high, _ = limits(spec)
        if self.quantile is None:
            return [values[0], values[-1]]
        if self.method == "distance":
            return [max(low, answer - self.quantile), min(high, answer + self.quantile)]
        assert shares is not None
        ends = [_number(values[i]) for i in _ends(shares, self.quantile + TIE)]  # values rise
        return [min([answer, *ends]), max([answer, *ends])]


def measure(method: str, spec: FieldSpec, values: Sequence[Value], shares: Sequence[float] | None, answer: Value, truth: Value) -> float:
    """How odd the judge's answer is: the smallest quantile whose set holds it. A score's may lie between two steps.

    Infinite where it is none of the values.
    """
    if spec.kind != "score":
        assert shares is not None
        return oddness(method, shares, values.index(answer))[values.index(truth)] if truth in values else math.inf
    own, wanted = _number(answer), _number(truth)
    if method == "distance" or abs(wanted - own) <= TIE:
        return abs(wanted - own)
    assert shares is not None
    side = 1 if wanted > own else -1
    beyond = [odd for value, odd in zip(values, off_middle(shares), strict=True) if side * (_number(value) - wanted) >= -TIE]
    return min(beyond, default=math.inf)


def oddness(method: str, shares: Sequence[float], answer: int) -> list[float]:
    """Of each value as the judge's; the answer's is 0. Equally likely values are equally odd: which is named first does not matter.

    >>> [[round(odd, 2) for odd in oddness(method, [0.5, 0.3, 0.2], 0)] for method in OF_NAMES]
    [[0.0, 0.7, 0.8], [0.0, 0.8, 1.0], [0.0, 0.8, 1.1]]
    """
    if method == "lac":
        odd = [1.0 - p for p in shares]
    else:
        falling = sorted(-p for p in shares)
        reached = [-whole for whole in accumulate(falling)]
        ranks = [bisect_right(falling, -p + TIE) for p in shares]  # how many are at least as likely, itself among them
        penalty = PENALTY if method == "raps" else 0.0
        odd = [reached[rank - 1] + penalty * max(0, rank - FREE_RANKS) for rank in ranks]
    odd[answer] = 0.0
    return odd


def _ends(shares: Sequence[float], most: float) -> list[int]:
    """The first and the last place that are no further off the middle than `most`; empty where none is."""
    if len(shares) >= WIDE:
        wide = np.flatnonzero(_wide_off_middle(shares) <= most)
        return [int(wide[0]), int(wide[-1])] if len(wide) else []
    inside = [i for i, odd in enumerate(off_middle(shares)) if odd <= most]
    return inside[:1] + inside[-1:]


def off_middle(shares: Sequence[float]) -> list[float]:
    """How far the middle of each value's step of the CDF is from 1/2, 0 to 1/2.

    >>> [round(odd, 2) for odd in off_middle([0.1, 0.2, 0.4, 0.3])]
    [0.45, 0.3, 0.0, 0.35]
    """
    if len(shares) >= WIDE:
        return list(_wide_off_middle(shares).tolist())
    return [abs(reached - p / 2 - 0.5) for reached, p in zip(accumulate(shares), shares, strict=True)]


def _wide_off_middle(shares: Sequence[float]) -> NDArray[np.float64]:
    """`off_middle` of many values."""
    wide = np.asarray(shares, np.float64)
    return np.asarray(np.abs(np.cumsum(wide) - wide / 2 - 0.5))


def _number(value: Value) -> float:
    return float(value)  # type: ignore[arg-type]
