"""What a metric is: a file of this folder, a plain function with a hand-checked example, and its `tallies`.

    BETTER = "higher"                                  or "lower"
    UNIT = "share of rows"
    TITLE = "Accuracy"                                 what a person reads
    def accuracy(reference, answer) -> float           the plain function
    def tallies(sheet) -> dict[str, Tally]             the same figure for each field it fits, under its public name

A `Tally` is a figure written as a function of sums over rows. So the figure, a slice of it, and every resample of a bootstrap are the same
few additions, and a thousand resamples are one product of matrices. Metrics see columns (`Sheet`), never rows, files or models.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mlx_distill.records import Value

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

CLOSED = ("score", "choice", "flag")
"""Kinds of field with a closed set of values."""
LABELS = ("choice", "flag")
"""Kinds of field whose values are names: right or wrong, nothing between."""


@dataclass(frozen=True, slots=True, eq=False)
class Column:
    """One field over all rows; every array is (rows,). Names (choice, flag) are indices into `labels`; NaN: there is none."""

    kind: str
    labelled: Bools
    """The judge answered this field."""
    answered: Bools
    """The student did."""
    right: Bools
    """Both did, and the same (scores: the same nearest step)."""
    reference: Floats
    answer: Floats
    confidence: Floats
    raw: Sequence[tuple[Value | None, Value | None]]
    """(judge's, student's) as they came."""
    labels: tuple[str, ...] = ()
    values: Floats = field(default_factory=lambda: np.zeros(0))
    """Of a closed field (k,): what each of `probabilities` is of. A score's numbers; of names their indices into `labels`."""
    probabilities: Floats = field(default_factory=lambda: np.zeros((0, 0)))
    """(rows, k), NaN where a row has none."""


@dataclass(frozen=True, slots=True, eq=False)
class Sheet:
    """All rows as columns. NaN, or code -1, where a row has no such figure."""

    fields: Mapping[str, Column]
    valid: Bools
    """The student's answer could be read."""
    reference_overall: Floats
    overall: Floats
    reference_tier: NDArray[np.int64]
    tier: NDArray[np.int64]
    tiers: tuple[str, ...]
    """From the lowest to the highest, as far as they were seen or are known; codes count along it."""
    nll: Floats
    """Nats of the row's reference answer, summed over `nll_tokens`."""
    nll_tokens: Floats

    def of_kind(self, *kinds: str) -> dict[str, Column]:
        return {name: column for name, column in self.fields.items() if column.kind in kinds}


@dataclass(frozen=True, slots=True, eq=False)
class Tally:
    """`value` maps sums over rows (..., k) of `columns` (rows, k) to figures (...). `counted` (rows,): those that the figure is about."""

    columns: Floats
    counted: Bools
    value: Callable[[Floats], Floats]

    @property
    def n(self) -> int:
        return int(self.counted.sum())

    def total(self) -> float:
        """The figure over all rows. NaN where no row counts."""
        return float(self.value(self.columns.sum(axis=0)))

    def take(self, rows: NDArray[np.intp]) -> Tally:
        """The same figure over some of the rows."""
        return Tally(self.columns[rows], self.counted[rows], self.value)


def mean(values: ArrayLike, counted: ArrayLike) -> Tally:
    """The mean of `values` over the rows that count.

    >>> mean([1.0, 0.0, 9.0], [True, True, False]).total()
    0.5
    """
    kept = np.asarray(counted, dtype=bool)
    columns = np.stack([np.where(kept, np.asarray(values, dtype=float), 0.0), kept.astype(float)], axis=1)
    return Tally(columns, kept, lambda sums: ratio(sums[..., 0], sums[..., 1]))


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
