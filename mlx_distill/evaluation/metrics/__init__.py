"""What a metric is: a file of this folder, a plain function with a hand-checked example, and its `tallies`.

    BETTER = "higher"                                  "lower"; "zero": nearest to 0; "limit": a target on it is a limit from above,
                                                       and no student is better for less of it
    UNIT = "share of rows"
    TITLE = "Accuracy"                                 what a person reads
    def accuracy(reference, answer) -> float           the plain function
    def tallies(sheet) -> dict[str, Tally]             the same figure for each field it fits, under its public name

and where it needs them

    NEEDS = "overall"                                  or "tiers": what a task must have, for the figure to be there at all
    NAMES = ("overall_within_0.5", ...)                its public names, where they are not the file's; a {} of TITLE is a name's last word
    ALIASES = ("score_mae",)                           other names of the very same figure

A public name is such a name alone, or with a field: `NAME.FIELD`. A figure is a `Tally`: the figure over all rows, a slice of it, and every
resample of a bootstrap are then the same few additions. Metrics see columns (`Sheet`), never rows, files or models.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from mlx_distill.evaluation.tally import AnyTally as AnyTally
from mlx_distill.evaluation.tally import Bools as Bools
from mlx_distill.evaluation.tally import Drawn as Drawn
from mlx_distill.evaluation.tally import Floats as Floats
from mlx_distill.evaluation.tally import PairTally as PairTally
from mlx_distill.evaluation.tally import Rows as Rows
from mlx_distill.evaluation.tally import Tally as Tally
from mlx_distill.evaluation.tally import known_mean as known_mean
from mlx_distill.evaluation.tally import mean as mean
from mlx_distill.evaluation.tally import mean_of_means as mean_of_means
from mlx_distill.evaluation.tally import mean_of_shares as mean_of_shares
from mlx_distill.evaluation.tally import ratio as ratio
from mlx_distill.evaluation.tally import share as share
from mlx_distill.records import Value

CLOSED = ("score", "choice", "flag")
"""Kinds of field with a closed set of values."""
LABELS = ("choice", "flag")
"""Kinds of field whose values are names: right or wrong, nothing between."""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
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
    nll: Floats
    """Nats of the field's value in the judge's answer, summed over `nll_tokens`."""
    nll_tokens: Floats
    labels: tuple[str, ...] = ()
    values: Floats = field(default_factory=lambda: np.zeros(0))
    """Of a closed field (k,): what each of `probabilities` is of. A score's numbers; of names their indices into `labels`."""
    probabilities: Floats = field(default_factory=lambda: np.zeros((0, 0)))
    """(rows, k), NaN where a row has none; (rows, 0) where none has one."""

    @property
    def both(self) -> Bools:
        """Judge and student answered it."""
        return self.labelled & self.answered

    @property
    def spread(self) -> Bools:
        """Both answered it, and the student gave every value a probability."""
        known = ~np.isnan(self.probabilities).any(axis=1) if self.probabilities.shape[1] else np.zeros(len(self.labelled), dtype=bool)
        return self.both & known

    def mean_of_spread(self, scores: Callable[[Floats, Floats, Floats], Floats]) -> Tally:
        """The mean of scores(reference, values, probabilities) over the rows of `spread`: (k,), (values,), (k, values) to (k,)."""
        counted, found = self.spread, np.zeros(len(self.labelled))
        if counted.any():
            found[counted] = scores(self.reference[counted], self.values, self.probabilities[counted])
        return mean(found, counted)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
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
    """From the lowest to the highest, as far as they are known; then those that were seen beside them. Codes count along it.
    Before all of them `sheet.BELOW`, where a row is below every tier."""
    ordered: int
    """So many of `tiers` are known to stand in order."""
    nll: Floats
    """Nats of the row's reference answer, summed over `nll_tokens`."""
    nll_tokens: Floats

    def of_kind(self, *kinds: str) -> dict[str, Column]:
        return {name: column for name, column in self.fields.items() if column.kind in kinds}


def nearest_step(numbers: Floats, values: Floats) -> Floats:
    """Which of a score's values (k,), evenly spaced, each number is nearest to, from 0; upwards at the middle, as in training. NaN stays.

    >>> nearest_step(np.array([1.4, 1.5, 9.0]), np.array([1.0, 2.0, 3.0])).tolist()
    [0.0, 1.0, 2.0]
    """
    step = (values[-1] - values[0]) / (len(values) - 1)
    place: Floats = np.floor((np.clip(numbers, values[0], values[-1]) - values[0]) / step + 0.5 + 1e-9)
    return place


def codes(values: Floats) -> NDArray[np.int64]:
    """Indices into a column's labels as whole numbers, -1 where there is none."""
    return np.where(np.isnan(values), -1, values).astype(np.int64)
