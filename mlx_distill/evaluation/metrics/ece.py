"""`ece.<field>`: how far the student's confidence is from how often it is right (expected calibration error).

Guo et al., "On Calibration of Modern Neural Networks", 2017: 10 bins of equal width over (0, 1].

An absolute gap is never below 0, so that chance alone makes the figure larger, and a resample, which has chance twice, larger again: the
bootstrap's percentiles lie too high, and leave 0 out where the student is calibrated. `around` corrects for both.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from mlx_distill.evaluation.figure import LEVEL
from mlx_distill.evaluation.metrics import CLOSED, Bools, Drawn, Floats, Rows, Sheet, Tally, ratio

BETTER = "lower"
UNIT = "share"
TITLE = "Calibration error"

BINS = 10
DRAWS = 1000
"""Students drawn that are as right as they say."""
FINE = 100
"""Rows of one bin whose confidences agree to 1 / FINE are drawn together."""


def ece(confidence: Sequence[float], right: Sequence[bool]) -> float:
    """Mean gap between confidence and accuracy in a bin, weighted by the bin's rows, 0 to 1; lower is better.

    Bin i holds confidences in (i/10, (i+1)/10]; a 0 goes to the first.

    >>> round(ece([0.95, 0.85, 0.55, 0.55], [True, False, True, False]), 4)  # (0.05 + 0.85 + 2 * 0.05) / 4
    0.25
    """
    sure = np.asarray(confidence, dtype=float)
    return tally(sure, np.asarray(right, dtype=bool), np.ones(len(sure), dtype=bool)).total()


def bin_of(confidence: Floats) -> NDArray[np.int64]:
    """0 to 9. The edges are i / 10 exactly as written in decimal: 0.3 belongs to the third bin."""
    return np.searchsorted(np.arange(1, BINS) / BINS, confidence, side="left").astype(np.int64)


def tally(confidence: Floats, right: Bools, counted: Bools) -> Tally:
    def again(rows: Rows) -> Tally:
        return tally(confidence[rows], right[rows], counted[rows])

    return sums(confidence, right, counted, bin_of(confidence), again)


def sums(confidence: Floats, right: Bools, counted: Bools, member: NDArray[np.int64], again: Callable[[Rows], Tally]) -> Tally:
    """Sums by bin (`member`, 0 to 9): confidence minus hits; and the rows, once."""
    columns = np.zeros((len(counted), BINS + 1))
    rows = np.flatnonzero(counted)
    columns[rows, member[rows]] = confidence[rows] - right[rows]
    columns[:, BINS] = counted
    return Tally(columns, counted, _value, again=again, interval=partial(around, confidence[rows], member[rows]))


def _value(sums: Floats) -> Floats:
    return ratio(np.abs(sums[..., :BINS]).sum(axis=-1), sums[..., BINS])


def around(confidence: Floats, member: NDArray[np.int64], tally: Tally, drawn: Drawn) -> tuple[float, float]:
    """The interval of a calibration error; `confidence` and `member` of the rows that count.

    From 0 where a student that is as right as it says would have an error this large (consistency resampling: Bröcker and Smith,
    "Increasing the reliability of reliability diagrams", 2007). Otherwise from the percentile interval's end, less what chance adds to it:
    once to the value, once more to the resamples, and each time as much as resamples have more than the value. The value is always held.
    """
    high = max(drawn.value, drawn.high)
    if drawn.value <= np.quantile(if_calibrated(confidence, member, drawn.seed), (1 + LEVEL) / 2):
        return 0.0, high
    by_chance = float(drawn.samples.mean()) - drawn.value
    return max(0.0, min(drawn.value, drawn.low - 2 * by_chance)), high


def if_calibrated(confidence: Floats, member: NDArray[np.int64], seed: int) -> Floats:
    """Calibration errors (DRAWS,) of students with these confidences that are right as often as they say.

    Rows of nearly one confidence are drawn together, from a binomial of their mean: the same mean, and a variance that differs by less
    than 1 / (4 FINE²) a row. Twenty thousand rows then cost as much as a thousand.
    """
    near, group, n = np.unique(member * (FINE + 1) + np.floor(confidence * FINE), return_inverse=True, return_counts=True)
    said = np.bincount(group, weights=confidence) / n
    hits = np.random.default_rng(seed).binomial(n[:, None], np.clip(said, 0.0, 1.0)[:, None], size=(len(n), DRAWS))
    in_bin = (near // (FINE + 1) == np.arange(BINS)[:, None]).astype(float)
    return np.asarray(np.abs(in_bin @ ((n * said)[:, None] - hits)).sum(axis=0) / len(confidence))


def tallies(sheet: Sheet) -> dict[str, Tally]:
    return {
        f"ece.{name}": tally(column.confidence, column.right, column.both & ~np.isnan(column.confidence))
        for name, column in sheet.of_kind(*CLOSED).items()
    }
