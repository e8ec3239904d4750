"""`spearman.<field>`: whether student and judge put the rows in the same order.

Spearman, "The proof and measurement of association between two things", 1904: Pearson's correlation of ranks, ties sharing the mean of
theirs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from mlx_distill.evaluation.metrics import AnyTally, Floats, PairTally, Sheet, ratio

BETTER = "higher"
UNIT = "rank correlation, −1 to 1"
TITLE = "Spearman's ρ"


def spearman(reference: Sequence[float | None], answer: Sequence[float | None]) -> float:
    """Rank correlation, −1 to 1; higher is better. A row that lacks either number does not count; NaN where one side is all the same.

    >>> round(spearman([1, 2, 3, 4], [1, 2, 4, 3]), 6)  # 1 - 6 * 2 / (4 * 15)
    0.8
    """
    return tally(np.array(reference, dtype=float), np.array(answer, dtype=float)).total()


def tally(reference: Floats, answer: Floats) -> PairTally:
    return PairTally.of(reference, answer, correlation)


def tallies(sheet: Sheet) -> dict[str, AnyTally]:
    return {f"spearman.{name}": tally(column.reference, column.answer) for name, column in sheet.of_kind("score").items()}


def correlation(x: Floats, y: Floats) -> Callable[[Floats], Floats]:
    """Of distinct pairs (p,): how often each occurs (p, k) to the rank correlation (k,)."""
    x_of, y_of = (np.unique(side, return_inverse=True)[1] for side in (x, y))

    def one(counts: Floats) -> float:
        (x_rank, x_spread), (y_rank, y_spread) = _ranks(counts, x_of), _ranks(counts, y_of)
        return float(ratio(np.dot(counts * x_rank, y_rank), np.sqrt(x_spread * y_spread)))

    def value(counts: Floats) -> Floats:
        """One resample after the other: what it works on stays in the processor's cache."""
        each = [one(column) for column in np.ascontiguousarray(counts.T)] if len(counts) else [np.nan] * counts.shape[1]
        return np.clip(each, -1.0, 1.0)

    return value


def _ranks(counts: Floats, place: NDArray[np.intp]) -> tuple[Floats, float]:
    """Mean rank of each pair's value (p,), less the mean of all ranks; and the sum of their squares over rows."""
    own = np.bincount(place, weights=counts)
    last = np.cumsum(own)
    rank: Floats = last - own / 2 - last[-1] / 2
    return rank[place], float(np.dot(own, rank * rank))
