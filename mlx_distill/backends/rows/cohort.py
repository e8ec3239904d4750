"""What rows that are being answered hold: the keys and values of their tokens, in stretches that are never copied as they grow.

Rows that were admitted together are a cohort. Each time that some of them go on, a stretch of columns is added to it: what is there
already (the article, usually) stays where it is. Neighbouring stretches are joined when the newer one has grown to half of the older, so
that a cohort has few, and a column is copied a logarithmic number of times. Rows may go on by unequal numbers of tokens: who owns a column
is noted.

    prefix        (kv heads, p, width)            one for all rows
    stretch 0     (rows, kv heads, n0, width)     the articles
    stretch 1     (rows, kv heads, n1, width)     answers so far

Samples of one row share what the row had before they parted: a stretch may have fewer rows than its cohort, each then stands for `fan`
neighbours. It knows rows and columns; nothing of models, handles or answers, and of tensors only that a backend has `Columns` of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

Bools = NDArray[np.bool_]
Ints = NDArray[np.int32]
Layers = TypeVar("Layers")
"""Keys and values of all layers, as a backend holds them."""


class Columns(Protocol[Layers]):
    """What a backend does with keys and values: those of a forward are (n, kv heads, width) in each layer, those of a stretch (r, kv
    heads, n, width)."""

    def cut(self, layers: Layers, tokens: Ints) -> Layers:
        """The stretch whose columns are those tokens of a forward, (r, n)."""
        ...

    def some(self, layers: Layers, rows: Ints) -> Layers:
        """A stretch's rows, in that order."""
        ...

    def joined(self, older: Layers, newer: Layers) -> Layers:
        """One's columns, then the other's."""
        ...

    def settle(self, layers: Sequence[Layers]) -> None:
        """See that they hold on to nothing that they were made of."""
        ...


@dataclass(slots=True)
class Stretch(Generic[Layers]):
    """Columns that were added together; `r` rows, each standing for a whole number of the cohort's."""

    layers: Layers
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


class Cohort(Generic[Layers]):
    """Rows that were admitted together. `length` (rows,): tokens of each, the prefix counted; `alive`: those not yet dropped."""

    def __init__(self, rows: int, prefix: int, columns: Columns[Layers]):
        self.stretches: list[Stretch[Layers]] = []
        self.length = np.full(rows, prefix, np.int32)
        self.alive = set(range(rows))
        self.columns = columns

    @property
    def rows(self) -> int:
        return len(self.length)

    @property
    def fan(self) -> int:
        """Neighbours that share what they had before they parted."""
        return max((self.rows // stretch.rows for stretch in self.stretches), default=1)

    def grow(self, stretch: Stretch[Layers]) -> None:
        self.length = self.length + stretch.owned.sum(axis=1).astype(np.int32)
        self.stretches.append(stretch)
        while len(self.stretches) > 1 and self._worth_joining(*self.stretches[-2:]):
            newer, older = self.stretches.pop(), self.stretches.pop()
            self.stretches.append(self._joined(older, newer))

    @staticmethod
    def _worth_joining(older: Stretch[Layers], newer: Stretch[Layers]) -> bool:
        return older.rows == newer.rows and older.columns <= 2 * newer.columns

    def _joined(self, older: Stretch[Layers], newer: Stretch[Layers]) -> Stretch[Layers]:
        owned = np.concatenate([older.owned, newer.owned], axis=1)
        positions = np.concatenate([older.positions, newer.positions], axis=1)
        return Stretch(self.columns.joined(older.layers, newer.layers), owned, positions)

    def parted(self, rows: Sequence[int], fan: int) -> Cohort[Layers]:
        """Some rows, each `fan` times, one after another; what they hold is copied once at most, not `fan` times."""
        assert all(stretch.rows == self.rows for stretch in self.stretches), "rows part once"
        index = np.array(rows, np.int32)
        other = Cohort(0, 0, self.columns)
        whole = list(rows) == list(range(self.rows))
        other.stretches = [stretch if whole else self._some(stretch, index) for stretch in self.stretches]
        other.length = np.repeat(self.length[index], fan)
        other.alive = set(range(len(other.length)))
        return other

    def _some(self, stretch: Stretch[Layers], rows: Ints) -> Stretch[Layers]:
        return Stretch(self.columns.some(stretch.layers, rows), stretch.owned[rows], stretch.positions[rows])

    def compact(self) -> dict[int, int] | None:
        """Where half of the rows are gone, keep the others' columns alone. The new number of each row that is left; None: as they were."""
        fan = self.fan
        families = sorted({row // fan for row in self.alive})
        if 2 * len(families) * fan > self.rows:
            return None
        kept = np.array([family * fan + i for family in families for i in range(fan)], np.int32)
        self.stretches = [self._some(stretch, kept[:: (each := self.rows // stretch.rows)] // each) for stretch in self.stretches]
        self.columns.settle([stretch.layers for stretch in self.stretches])
        moved = {int(old): new for new, old in enumerate(kept)}
        self.length = self.length[kept]
        self.alive = {moved[row] for row in self.alive}
        return moved
