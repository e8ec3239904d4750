"""`spearman.<field>`: whether student and judge put the rows in the same order.

Spearman, "The proof and measurement of association between two things", 1904: Pearson's correlation of ranks, ties sharing the mean of
theirs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from mlx_distill.evaluation.metrics import AnyTally, Floats, PairTally, Rows, Sheet, ratio

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
    """Of distinct pairs (p,), sorted by x: how often each occurs (p, k) to the rank correlation (k,)."""
    by_y = np.argsort(y, kind="stable")
    x_groups, y_groups = _groups(x), _groups(y[by_y])
    y_of = np.empty(len(y), dtype=np.intp)
    y_of[by_y] = y_groups[1]

    def value(counts: Floats) -> Floats:
        if not len(counts):
            return np.full(counts.shape[1], np.nan)
        (x_rank, x_spread), (y_rank, y_spread) = _ranks(counts, x_groups[0]), _ranks(counts[by_y], y_groups[0])
        shared = np.einsum("pk,pk,pk->k", counts, x_rank[x_groups[1]], y_rank[y_of])
        return np.clip(ratio(shared, np.sqrt(x_spread * y_spread)), -1.0, 1.0)

    return value


def _groups(ordered: Floats) -> tuple[Rows, NDArray[np.intp]]:
    """Where each distinct value begins, and which of them each value is."""
    new = np.ones(len(ordered), dtype=bool)
    new[1:] = np.diff(ordered) != 0
    return np.flatnonzero(new), np.cumsum(new) - 1


def _ranks(counts: Floats, starts: Rows) -> tuple[Floats, Floats]:
    """Mean rank of each distinct value (values, k), less the mean of all ranks; and the sum of their squares over rows (k,)."""
    own = np.add.reduceat(counts, starts, axis=0)
    last = np.cumsum(own, axis=0)
    rank: Floats = last - own / 2 - last[-1] / 2
    return rank, np.einsum("vk,vk,vk->k", own, rank, rank)
