"""A tally: a figure in the form in which it can be counted over all rows, over a slice of them, and over a thousand resamples.

    Tally(columns, counted, value)       a function of sums over rows: a resample is one product of matrices
    PairTally.of(x, y, value)            a function of how often each pair of values occurs: what ranks ask for

Sums of shares know an interval that is better than a bootstrap's alone: `share`, `mean_of_shares`.
Both have `counted`, `n`, `total()` and `take(rows)`; `bootstrap` resamples both. It knows numbers; nothing of fields, answers or metrics.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mlx_distill.evaluation.shares import wilson

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Singles = NDArray[np.float32]
Rows = NDArray[np.intp]
"""Indices of rows."""


@dataclass(frozen=True, slots=True, eq=False)
class Drawn:
    """A figure as a bootstrap sees it."""

    value: float
    low: float
    high: float
    """The percentile interval."""
    samples: Floats
    """The figure in each resample that has one."""
    seed: int
    """For what else is drawn."""


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
    interval: Callable[[Tally, Drawn], tuple[float, float]] | None = None
    """The interval of the figure over all rows, where the bootstrap's percentiles are not a good one."""

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
        return replace(self, columns=self.columns[rows], counted=self.counted[rows])


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


def share(hits: ArrayLike, counted: ArrayLike) -> Tally:
    """The share of rows that are hits, of those that count; its interval is `around_shares`.

    >>> share([True, False, True], [True, True, False]).total()
    0.5
    """
    return replace(mean(hits, counted), interval=around_shares)


def mean_of_shares(parts: Sequence[Tally]) -> Tally:
    """As `mean_of_means`, of shares: its interval is `around_shares`."""
    return replace(mean_of_means(parts), interval=around_shares)


def around_shares(tally: Tally, drawn: Drawn) -> tuple[float, float]:
    """The hull of the percentile interval and of Wilson's: resamples of rows that are all right are all right, and have no width.

    A mean of several shares has Wilson's ends of each put together as Zou and Donner do ("Construction of confidence intervals about effect
    measures", 2008): distances from the value, squared, with the correlation of the shares. Where one does not vary, so that none can be
    seen, it is taken as complete on the rows that both count.
    """
    hits, counted = tally.columns[:, 0::2], tally.columns[:, 1::2]
    known = counted.any(axis=0)
    hits, counted = hits[:, known], counted[:, known]
    n, right = counted.sum(axis=0), hits.sum(axis=0)
    ends = np.array([wilson(int(own), int(rows)) for own, rows in zip(right, n, strict=True)])
    together = _correlation(hits - counted * (right / n), counted)
    below, above = (np.abs(ends[:, side] - right / n) for side in (0, 1))
    down, up = (math.sqrt(max(0.0, float(reach @ together @ reach))) / len(n) for reach in (below, above))
    return min(drawn.low, max(0.0, drawn.value - down)), max(drawn.high, min(1.0, drawn.value + up))


def _correlation(centred: Floats, counted: Floats) -> Floats:
    """Of the means of columns (rows, k), 0 where a row does not count: (k, k)."""
    shared, overlap = centred.T @ centred, counted.T @ counted
    spread, n = (np.sqrt(np.outer(square.diagonal(), square.diagonal())) for square in (shared, overlap))
    found: Floats = np.divide(shared, spread, out=overlap / n, where=spread > 0)
    return found


def ratio(part: ArrayLike, whole: ArrayLike) -> Floats:
    """part / whole, NaN where the whole is 0."""
    over, under = np.asarray(part, dtype=float), np.asarray(whole, dtype=float)
    result: Floats = np.divide(over, under, out=np.full(np.broadcast_shapes(over.shape, under.shape), np.nan), where=under > 0)
    return result


def known_mean(values: Floats) -> Floats:
    """The mean over the last axis of what is not NaN; NaN where all is."""
    known = ~np.isnan(values)
    return ratio(np.where(known, values, 0.0).sum(axis=-1), known.sum(axis=-1))
