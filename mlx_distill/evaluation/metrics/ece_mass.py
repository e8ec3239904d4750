"""`ece_mass.<field>`: as `ece`, with bins that hold equally many rows: none is nearly empty where the student is nearly always sure.

Nixon et al., "Measuring calibration in deep learning", 2019. The bins are those of scikit-learn's calibration_curve(strategy="quantile"):
their edges are the confidences' deciles, and equal confidences share a bin. A slice has its own edges; the resamples of a bootstrap keep
those of the rows that they are drawn from.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mlx_distill.evaluation.metrics import CLOSED, Bools, Floats, Rows, Sheet, Tally
from mlx_distill.evaluation.metrics import ece as equal_width

BETTER = "lower"
UNIT = "share"
TITLE = "Calibration error, bins of equal mass"

BINS = equal_width.BINS


def ece_mass(confidence: Sequence[float], right: Sequence[bool]) -> float:
    """Mean gap between confidence and accuracy in a bin, weighted by the bin's rows, 0 to 1; lower is better.

    >>> round(ece_mass([0.5] * 4 + [0.9] * 4, [True, False, False, False, True, True, True, True]), 4)  # (4 * 0.25 + 4 * 0.1) / 8
    0.175
    """
    sure = np.asarray(confidence, dtype=float)
    return tally(sure, np.asarray(right, dtype=bool), np.ones(len(sure), dtype=bool)).total()


def bin_of(confidence: Floats, counted: Bools) -> NDArray[np.int64]:
    """0 to 9, by the deciles of those that count; one on an edge belongs to the bin below it."""
    if not counted.any():
        return np.zeros(len(confidence), dtype=np.int64)
    edges = np.quantile(confidence[counted], np.arange(1, BINS) / BINS)
    return np.searchsorted(edges, confidence, side="left").astype(np.int64)


def tally(confidence: Floats, right: Bools, counted: Bools) -> Tally:
    def again(rows: Rows) -> Tally:
        return tally(confidence[rows], right[rows], counted[rows])

    return equal_width.sums(confidence, right, counted, bin_of(confidence, counted), again)


def tallies(sheet: Sheet) -> dict[str, Tally]:
    return {
        f"ece_mass.{name}": tally(column.confidence, column.right, column.both & ~np.isnan(column.confidence))
        for name, column in sheet.of_kind(*CLOSED).items()
    }
