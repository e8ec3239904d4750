"""What the rows of a cohort get in one forward: tokens, and branches beside them; where they stand, what sees what, and what is kept.

It knows numbers and places; nothing of models, layers or attention.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic

import numpy as np

from mlx_distill.backends.rows.cohort import Bools, Cohort, Ints, Layers, Stretch
from mlx_distill.records import Ids


@dataclass(frozen=True, slots=True)
class Addition:
    """What a row gets in one forward. `read`: positions in tokens and asides, one after another, that somebody reads."""

    handle: int
    tokens: Ids
    asides: Sequence[Ids]
    read: Sequence[int]

    @property
    def ids(self) -> Ids:
        """(n,) tokens and asides one after another."""
        return np.concatenate([self.tokens, *self.asides])

    def branches(self) -> Iterator[tuple[int, int]]:
        """Where each branch begins and ends: the tokens first."""
        at = 0
        for ids in (self.tokens, *self.asides):
            yield at, at + len(ids)
            at += len(ids)

    def depth(self) -> Ints:
        """(n,) of each id: how many of its own branch stand before it."""
        return np.concatenate([np.arange(end - at, dtype=np.int32) for at, end in self.branches()])

    def sees(self) -> Bools:
        """(n, n): which new ids each sees."""
        out = np.zeros((len(self.ids), len(self.ids)), bool)
        for at, end in self.branches():
            out[at:end, at:end] = np.tri(end - at, dtype=bool)
        return out


class Growth(Generic[Layers]):
    """A cohort's share of a forward: its rows' additions, in the order of the rows, from token `start` and read `first` of the batch on."""

    def __init__(self, cohort: Cohort[Layers], additions: Mapping[int, Addition], start: int, first: int):
        self.cohort = cohort
        self.additions = {row: additions[row] for row in sorted(additions)}
        self._sizes = [len(each.ids) for each in self.additions.values()]
        self.tokens = slice(start, start + sum(self._sizes))
        self.reads = slice(first, first + sum(len(each.read) for each in self.additions.values()))
        self.fresh = is_fresh(cohort, additions)
        self.positions = np.concatenate([cohort.length[row] + each.depth() for row, each in self.additions.items()])

    def ends(self, ending: Collection[int]) -> bool:
        """Whether none of its rows goes on."""
        return all(each.handle in ending for each in self.additions.values())

    def read(self) -> Ints:
        """(k,) into the batch's tokens."""
        places = [start + np.asarray(each.read, np.int32) for start, each in zip(self._starts(), self.additions.values(), strict=True)]
        return np.concatenate(places).astype(np.int32)

    def _starts(self) -> Ints:
        """Of each row's ids in the batch's tokens."""
        return np.cumsum([self.tokens.start, *self._sizes])[:-1].astype(np.int32)

    def new_keys(self) -> Ints:
        """(rows, longest): for every row the numbers of its new ids among this growth's; -1 where it has fewer."""
        return self._numbered(self._sizes)

    def _numbered(self, counts: Sequence[int]) -> Ints:
        """Things that lie one after another, so many of each row that gets something, by the cohort's rows."""
        out = np.full((self.cohort.rows, max(1, *counts)), -1, np.int32)
        at = 0
        for row, count in zip(self.additions, counts, strict=True):
            out[row, :count] = np.arange(at, at + count)
            at += count
        return out

    def queries(self, *, read: bool) -> tuple[Ints, Ints]:
        """Of each row, (rows, c), -1 where it has fewer: numbers of the queries in this growth, and their places among the row's ids."""
        if not read:
            numbers = self.new_keys()
            return numbers, np.where(numbers < 0, -1, np.arange(numbers.shape[1], dtype=np.int32))
        numbers = self._numbered([len(each.read) for each in self.additions.values()])
        places = np.full(numbers.shape, -1, np.int32)
        for row, each in self.additions.items():
            places[row, : len(each.read)] = each.read
        return numbers, places

    def visible(self, queries: Ints) -> Bools:
        """(rows, c, longest): which new ids a query sees. `queries` (rows, c): its place among the row's ids, -1 where there is none."""
        out = np.zeros((self.cohort.rows, max(self._sizes), max(self._sizes)), bool)
        for row, each in self.additions.items():
            out[row, : len(each.ids), : len(each.ids)] = each.sees()
        seen = np.take_along_axis(out, np.maximum(queries, 0)[..., None], axis=1)
        return np.asarray(seen | (queries < 0)[..., None])

    def keep(self, layers: Layers) -> Layers | None:
        """Add the tokens' columns to the cohort, asides left out. `layers`: of the forward. The stretch that they went into, if any did."""
        counts = [len(each.tokens) for each in self.additions.values()]
        if not any(counts):
            return None
        at = np.full((self.cohort.rows, max(counts)), -1, np.int32)
        for row, start, count in zip(self.additions, self._starts(), counts, strict=True):
            at[row, :count] = np.arange(start, start + count)
        positions = (self.cohort.length[:, None] + np.arange(at.shape[1])).astype(np.int32)
        self.cohort.grow(Stretch(self.cohort.columns.cut(layers, np.maximum(at, 0)), at >= 0, positions))
        return self.cohort.stretches[-1].layers


def is_fresh(cohort: Cohort[Layers], additions: Mapping[int, Addition]) -> bool:
    """Whether rows bring whole texts, or their beginnings: they see the prefix and themselves."""
    return not cohort.stretches and not any(each.asides for each in additions.values())
