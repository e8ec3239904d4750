"""A tally: a figure in the form in which it can be counted over all rows, over a slice of them, and over a thousand resamples.

    Tally(columns, counted, value)       a function of sums over rows: a resample is one product of matrices
    PairTally.of(x, y, value)            a function of how often each pair of values occurs: what ranks ask for

Both have `counted`, `n`, `total()` and `take(rows)`; `bootstrap` resamples both. It knows numbers; nothing of fields, answers or metrics.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Singles = NDArray[np.float32]
Rows = NDArray[np.intp]
"""Indices of rows."""


@dataclass(frozen=True, slots=True, eq=False)
class Tally:
    """`value` maps sums over rows (..., k) of `columns` (rows, k) to figures (...). `counted` (rows,): those that the figure is about."""

    columns: Floats
    counted: Bools
    value: Callable[[Floats], Floats]
    centred: bool = False
    """The figure is best at 0 and may lie on both sides: which of two students is better is asked of its absolute value."""
    again: Callable[[Rows], Tally] | None = None
    """The same over some rows, where the columns themselves depend on which rows there are."""

    @property
    def n(self) -> int:
        return int(self.counted.sum())

    def total(self) -> float:
        """The figure over all rows. NaN where no row counts."""
        return float(self.value(self.columns.sum(axis=0)))

    def take(self, rows: Rows) -> Tally:
        """The same figure over some of the rows."""
        if self.again is not None:
            return self.again(rows)
        return Tally(self.columns[rows], self.counted[rows], self.value, self.centred)


@dataclass(frozen=True, slots=True, eq=False)
class PairTally:
    """`value` maps how often each distinct pair occurs (pairs, k) to figures (k,). Pairs are sorted by x, then by y."""

    x: Floats
    """(rows,), NaN where a row has none."""
    y: Floats
    counted: Bools
    order: Rows
    """The rows that count, those of one pair side by side."""
    starts: Rows
    """(pairs,): where each pair begins in `order`."""
    value: Callable[[Floats], Floats]
    make: Callable[[Floats, Floats], Callable[[Floats], Floats]]
    """Of the pairs' x and y (pairs,) their `value`."""
    centred: bool = False

    @classmethod
    def of(cls, x: Floats, y: Floats, make: Callable[[Floats, Floats], Callable[[Floats], Floats]]) -> PairTally:
        """A row that lacks either number does not count."""
        counted = ~np.isnan(x) & ~np.isnan(y)
        rows = np.flatnonzero(counted)
        order = rows[np.lexsort((y[rows], x[rows]))]
        first = np.ones(len(order), dtype=bool)
        first[1:] = (np.diff(x[order]) != 0) | (np.diff(y[order]) != 0)
        starts = np.flatnonzero(first)
        return cls(x, y, counted, order, starts, make(x[order[starts]], y[order[starts]]), make)

    @property
    def n(self) -> int:
        return len(self.order)

    def total(self) -> float:
        """The figure over all rows. NaN where no row counts."""
        return float(self.value(np.diff(self.starts, append=len(self.order)).astype(float)[:, None])[0])

    def take(self, rows: Rows) -> PairTally:
        """The same figure over some of the rows."""
        return PairTally.of(self.x[rows], self.y[rows], self.make)

    def drawn(self, weights: Singles) -> Floats:
        """The figure where row i was drawn weights[i] times: (rows, resamples) to (resamples,)."""
        from scipy.sparse import csr_array

        ends = np.append(self.starts, len(self.order))
        pairs = csr_array((np.ones(len(self.order), dtype=np.float32), self.order, ends), shape=(len(self.starts), len(self.x)))
        return self.value((pairs @ weights).astype(float))


AnyTally = Tally | PairTally


def mean(values: ArrayLike, counted: ArrayLike, *, centred: bool = False) -> Tally:
    """The mean of `values` over the rows that count.

    >>> mean([1.0, 0.0, 9.0], [True, True, False]).total()
    0.5
    """
    kept = np.asarray(counted, dtype=bool)
    columns = np.stack([np.where(kept, np.asarray(values, dtype=float), 0.0), kept.astype(float)], axis=1)
    return Tally(columns, kept, lambda sums: ratio(sums[..., 0], sums[..., 1]), centred)


def mean_of_means(parts: Sequence[Tally]) -> Tally:
    """The mean of several means; a part that no row counts for is left out.

    >>> mean_of_means([mean([1, 0], [True, True]), mean([1, 9], [True, False])]).total()
    0.75
    """
    columns = np.concatenate([part.columns for part in parts], axis=1)
    counted = np.logical_or.reduce([part.counted for part in parts])
    return Tally(columns, counted, lambda sums: known_mean(ratio(sums[..., 0::2], sums[..., 1::2])))


def ratio(part: ArrayLike, whole: ArrayLike) -> Floats:
    """part / whole, NaN where the whole is 0."""
    over, under = np.asarray(part, dtype=float), np.asarray(whole, dtype=float)
    result: Floats = np.divide(over, under, out=np.full(np.broadcast_shapes(over.shape, under.shape), np.nan), where=under > 0)
    return result


def known_mean(values: Floats) -> Floats:
    """The mean over the last axis of what is not NaN; NaN where all is."""
    known = ~np.isnan(values)
    return ratio(np.where(known, values, 0.0).sum(axis=-1), known.sum(axis=-1))
