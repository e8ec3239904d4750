"""`ece.<field>`: how far the student's confidence is from how often it is right (expected calibration error).

Guo et al., "On Calibration of Modern Neural Networks", 2017: 10 bins of equal width over (0, 1].
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mlx_distill.evaluation.metrics import CLOSED, Bools, Floats, Sheet, Tally, ratio

BETTER = "lower"
UNIT = "share"
TITLE = "Calibration error"

BINS = 10


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
    return sums(confidence, right, counted, bin_of(confidence))


def sums(confidence: Floats, right: Bools, counted: Bools, member: NDArray[np.int64]) -> Tally:
    """Sums by bin (`member`, 0 to 9): confidence minus hits; and the rows, once."""
    columns = np.zeros((len(counted), BINS + 1))
    rows = np.flatnonzero(counted)
    columns[rows, member[rows]] = confidence[rows] - right[rows]
    columns[:, BINS] = counted
    return Tally(columns, counted, lambda sums: ratio(np.abs(sums[..., :BINS]).sum(axis=-1), sums[..., BINS]))


def tallies(sheet: Sheet) -> dict[str, Tally]:
    return {
        f"ece.{name}": tally(column.confidence, column.right, column.both & ~np.isnan(column.confidence))
        for name, column in sheet.of_kind(*CLOSED).items()
    }
