"""The rows of a session by their handles: in which cohort each is, what it gets in a forward, and where its hidden states lie.

It knows no model, no head and no prefix but its length.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np

from mlx_distill.backends.rows.cohort import Cohort, Columns, Ints, Layers
from mlx_distill.backends.rows.growth import Addition, Growth, is_fresh
from mlx_distill.records import Ids

UNLIKE = 1.25
"""Rows whose lengths differ by more than this share no cohort: the shorter ones' columns would be mostly empty."""
States = TypeVar("States")
"""Hidden states of a forward's read positions, (k, hidden), as a backend holds them."""


@dataclass(frozen=True, slots=True)
class Said(Generic[States]):
    """The hidden states behind some of a row's tokens. `at`: which of `states` is that of a position."""

    states: States
    at: dict[int, int]
    tokens: int
    """Of its last forward, asides apart: negative positions count from there."""

    def place(self, position: int) -> int:
        return self.at[position if position >= 0 else position + self.tokens]


@dataclass(frozen=True, slots=True)
class Found(Generic[States]):
    """Where hidden states lie that are asked for: places in those of one forward after another."""

    parts: list[tuple[States, Ints]]
    order: Ints | None
    """Puts the parts, joined, into the order that was asked for; None: they are."""


class Handles(Generic[Layers, States]):
    """`prefix`: tokens of it."""

    def __init__(self, prefix: int, columns: Columns[Layers]):
        self._prefix, self._columns = prefix, columns
        self._next = 0
        self._place: dict[int, tuple[Cohort[Layers], int]] = {}
        self._handles: dict[int, dict[int, int]] = {}
        """Of each cohort, by its identity: the handle of a row."""
        self.said: dict[int, Said[States]] = {}

    def __len__(self) -> int:
        """Rows that hold something."""
        return len(self._place.keys() | self.said.keys())

    def new(self, number: int) -> list[int]:
        """Handles that no row has had."""
        self._next += number
        return list(range(self._next - number, self._next))

    def fork(self, row: int, number: int) -> list[int]:
        cohort, at = self._place[row]
        parted = cohort.parted([at], number)
        handles = self.new(number)
        for place, handle in enumerate(handles):
            self._put(handle, parted, place)
            if row in self.said:
                self.said[handle] = self.said[row]
        self.drop([row])
        return handles

    def drop(self, rows: Collection[int]) -> None:
        touched: dict[int, Cohort[Layers]] = {}
        for handle in rows:
            self.said.pop(handle, None)
            if handle in self._place:
                cohort, at = self._place.pop(handle)
                del self._handles[id(cohort)][at]
                cohort.alive.discard(at)
                touched[id(cohort)] = cohort
        for key, cohort in touched.items():
            if not cohort.alive:
                del self._handles[key]
            elif (moved := cohort.compact()) is not None:
                self._handles[key] = {moved[at]: handle for at, handle in self._handles[key].items()}
                self._place |= {handle: (cohort, at) for at, handle in self._handles[key].items()}

    def _put(self, handle: int, cohort: Cohort[Layers], at: int) -> None:
        self._place[handle] = cohort, at
        self._handles.setdefault(id(cohort), {})[at] = handle

    # forwards

    def growths(self, made: Mapping[int, Addition], ending: Collection[int]) -> list[Growth[Layers]]:
        """Rows that go on by their cohorts, then new ones in cohorts of like length, those that end at once in one by themselves."""
        cohorts: dict[int, tuple[Cohort[Layers], dict[int, Addition]]] = {}
        new: list[Addition] = []
        for handle, addition in made.items():
            if handle in self._place:
                cohort, row = self._place[handle]
                cohorts.setdefault(id(cohort), (cohort, {}))[1][row] = addition
            else:
                new.append(addition)
        for together in _alike(new, ending):
            cohort = Cohort(len(together), self._prefix, self._columns)
            cohorts[id(cohort)] = cohort, dict(enumerate(together))
            for row, addition in enumerate(together):
                self._put(addition.handle, cohort, row)
        growths: list[Growth[Layers]] = []
        tokens = reads = 0
        for cohort, additions in sorted(cohorts.values(), key=lambda each: is_fresh(*each)):
            growths.append(Growth(cohort, additions, tokens, reads))
            tokens, reads = growths[-1].tokens.stop, growths[-1].reads.stop
        return growths

    # hidden states

    def remember(self, growth: Growth[Layers], states: States) -> None:
        """Where the states lie that will be read."""
        at = growth.reads.start
        for addition in growth.additions.values():
            if not addition.read:  # a piece of a prompt: what would be read there is never computed, nor held
                self.said.pop(addition.handle, None)
                continue
            places = {position: at + i for i, position in enumerate(addition.read)}
            self.said[addition.handle] = Said(states, places, len(addition.tokens))
            at += len(addition.read)

    def find(self, where: Sequence[tuple[int, int]]) -> Found[States]:
        """The hidden states behind tokens of rows, handle and position of each."""
        groups: dict[int, tuple[States, list[int], list[int]]] = {}
        for number, (handle, position) in enumerate(where):
            said = self.said[handle]
            _, numbers, places = groups.setdefault(id(said.states), (said.states, [], []))
            numbers.append(number)
            places.append(said.place(position))
        parts = [(states, np.array(places, np.int32)) for states, _, places in groups.values()]
        order = np.argsort(np.concatenate([numbers for _, numbers, _ in groups.values()])).astype(np.int32)
        return Found(parts, order if len(parts) > 1 else None)


def additions(
    tokens: Mapping[int, Sequence[int] | Ids],
    asides: Mapping[int, Sequence[Sequence[int] | Ids]],
    read_at: Mapping[int, Sequence[int]],
) -> dict[int, Addition]:
    """What each row gets, as `Session.extend` is told."""
    made: dict[int, Addition] = {}
    for handle in dict.fromkeys([*tokens, *asides]):
        own, beside = ids_of(tokens.get(handle, ())), [ids_of(ids) for ids in asides.get(handle, ())]
        assert len(own) + sum(map(len, beside)), "a row is extended by at least one token"
        made[handle] = Addition(handle, own, beside, read_at.get(handle, _ends(own, beside)))
    return made


def ids_of(tokens: Sequence[int] | Ids) -> Ids:
    return np.asarray(tokens, np.int32)


def _ends(tokens: Ids, asides: Sequence[Ids]) -> list[int]:
    """The last token, and the end of each aside."""
    ends = np.cumsum([len(tokens), *map(len, asides)]) - 1
    return [int(end) for end in ends[0 if len(tokens) else 1 :]]


def _alike(new: Sequence[Addition], ending: Collection[int]) -> list[list[Addition]]:
    """New rows in cohorts of like length; those of which nothing is kept need not be alike."""
    over = [addition for addition in new if addition.handle in ending]
    cohorts: list[list[Addition]] = [over] if over else []
    shortest = 0
    for addition in sorted((addition for addition in new if addition.handle not in ending), key=lambda addition: len(addition.ids)):
        if not shortest or len(addition.ids) > UNLIKE * shortest:
            cohorts.append([])
            shortest = len(addition.ids)
        cohorts[-1].append(addition)
    return cohorts
