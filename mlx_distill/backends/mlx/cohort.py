"""What rows that are being answered hold: the keys and values of their tokens, in stretches that are never copied as they grow.

Rows that were admitted together are a cohort. Each time that some of them go on, a stretch of columns is added to it: what is there
already (the article, usually) stays where it is. Neighbouring stretches are joined when the newer one has grown to half of the older, so
that a cohort has few, and a column is copied a logarithmic number of times. Rows may go on by unequal numbers of tokens: who owns a column
is noted.

    prefix        (kv heads, p, width)            one for all rows
    stretch 0     (rows, kv heads, n0, width)     the articles
    stretch 1     (rows, kv heads, n1, width)     answers so far

Samples of one row share what the row had before they parted: a stretch may have fewer rows than its cohort, each then stands for `fan`
neighbours. It knows arrays and rows; nothing of models, handles or answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

Bools = NDArray[np.bool_]
Ints = NDArray[np.int32]


@dataclass(slots=True)
class Stretch:
    """Columns that were added together; `r` rows, each standing for a whole number of the cohort's."""

    layers: list[mx.array]
    """Keys and values of each layer in turn, each (r, kv heads, n, width)."""
    owned: Bools
    """(r, n): which columns hold a token of the row."""
    positions: Ints
    """(r, n) in the row's text, the prefix counted."""

    @property
    def columns(self) -> int:
        return int(self.owned.shape[1])

    @property
    def rows(self) -> int:
        return int(self.owned.shape[0])

    def of(self, rows: Ints) -> Stretch:
        """The same for some of its rows, in that order."""
        index = mx.array(rows)
        return Stretch([array[index] for array in self.layers], self.owned[rows], self.positions[rows])

    def joined(self, other: Stretch) -> Stretch:
        """This one's columns, then the other's."""
        layers = [mx.concatenate([a, b], axis=2) for a, b in zip(self.layers, other.layers, strict=True)]
        positions = np.concatenate([self.positions, other.positions], axis=1)
        return Stretch(layers, np.concatenate([self.owned, other.owned], axis=1), positions)


class Cohort:
    """Rows that were admitted together. `length` (rows,): tokens of each, the prefix counted; `alive`: those not yet dropped."""

    def __init__(self, rows: int, prefix: int):
        self.stretches: list[Stretch] = []
        self.length = np.full(rows, prefix, np.int32)
        self.alive = set(range(rows))

    @property
    def rows(self) -> int:
        return len(self.length)

    def grow(self, stretch: Stretch, added: Ints) -> None:
        """`added` (rows,): tokens that each row got."""
        self.stretches.append(stretch)
        while len(self.stretches) > 1 and self._worth_joining(*self.stretches[-2:]):
            last = self.stretches.pop()
            self.stretches[-1] = self.stretches[-1].joined(last)
        self.length = self.length + added

    @staticmethod
    def _worth_joining(older: Stretch, newer: Stretch) -> bool:
        return older.rows == newer.rows and older.columns <= 2 * newer.columns

    def parted(self, rows: Sequence[int], fan: int) -> Cohort:
        """Some rows, each `fan` times, one after another; what they hold is copied once at most, not `fan` times."""
        assert all(stretch.rows == self.rows for stretch in self.stretches), "rows part once"
        index = np.array(rows, np.int32)
        other = Cohort(0, 0)
        whole = list(rows) == list(range(self.rows))
        other.stretches = [stretch if whole else stretch.of(index) for stretch in self.stretches]
        other.length = np.repeat(self.length[index], fan)
        other.alive = set(range(len(other.length)))
        return other

    def compact(self) -> dict[int, int] | None:
        """Where half of the rows are gone, keep the others' columns alone. The new number of each row that is left; None: as they were."""
        fan = max((self.rows // stretch.rows for stretch in self.stretches), default=1)
        families = sorted({row // fan for row in self.alive})
        if 2 * len(families) * fan > self.rows:
            return None
        kept = np.array([family * fan + i for family in families for i in range(fan)], np.int32)
        self.stretches = [stretch.of(kept[:: (each := self.rows // stretch.rows)] // each) for stretch in self.stretches]
        mx.eval([stretch.layers for stretch in self.stretches])  # until then the copies hold on to what they were taken from
        moved = {int(old): new for new, old in enumerate(kept)}
        self.length = self.length[kept]
        self.alive = {moved[row] for row in self.alive}
        return moved
