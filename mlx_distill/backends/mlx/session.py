"""Rows being answered behind a shared prefix, on MLX: prefill, append, read, choose.

What rows hold is in `cohort`, how a forward is computed in `mixed`; here are the handles, and what is read of the hidden states.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from numpy.typing import NDArray

from mlx_distill.backends.base import Logs
from mlx_distill.backends.mlx.cohort import Cohort
from mlx_distill.backends.mlx.decoder import KeysValues, hidden_states, prefix_keys_values
from mlx_distill.backends.mlx.growth import Addition, Growth
from mlx_distill.backends.mlx.loss import rows_at_once, union_of
from mlx_distill.backends.mlx.mixed import Mixed
from mlx_distill.backends.mlx.model import Head
from mlx_distill.backends.mlx.tape import Tape, Var
from mlx_distill.records import Ids

UNLIKE = 1.25
"""Rows whose lengths differ by more than this share no cohort: the shorter ones' columns would be mostly empty."""
FEW = 8
"""Where less than one in so many tokens of the vocabulary is allowed, their rows of the head are taken out and multiplied alone."""


@dataclass(frozen=True, slots=True)
class _Said:
    """The hidden states behind some of a row's tokens. `at`: which of `states` (k, hidden) is that of a position."""

    states: mx.array
    at: dict[int, int]
    tokens: int
    """Of its last forward, asides apart: negative positions count from there."""

    def place(self, position: int) -> int:
        return self.at[position if position >= 0 else position + self.tokens]


class MlxSession:
    def __init__(self, model: nn.Module, head: Head, prefix: Ids, *, wear: Callable[[], None]):
        """`wear` puts the session's adapter on the model: between two calls another session may have put on its own."""
        self._model, self._head, self._wear = model, head, wear
        self._prefix = len(prefix)
        self._shared: KeysValues = []
        if self._prefix:
            self._wear()
            self._shared = prefix_keys_values(model, prefix)
            mx.eval(self._shared)
        self._next = 0
        self._place: dict[int, tuple[Cohort, int]] = {}
        self._handles: dict[int, dict[int, int]] = {}
        """Of each cohort, by its identity: the handle of a row."""
        self._said: dict[int, _Said] = {}

    # rows

    def admit(self, rows: Sequence[Ids], *, read_at: Sequence[Sequence[int]] | None = None) -> list[int]:
        handles = list(range(self._next, self._next + len(rows)))
        self._next += len(rows)
        some = {handle: row for handle, row in zip(handles, rows, strict=True) if len(row)}
        self.extend(some, read_at=None if read_at is None else dict(zip(handles, read_at, strict=True)))
        return handles

    def fork(self, row: int, number: int) -> list[int]:
        cohort, at = self._place[row]
        parted = cohort.parted([at], number)
        handles = list(range(self._next, self._next + number))
        self._next += number
        for place, handle in enumerate(handles):
            self._put(handle, parted, place)
            if row in self._said:
                self._said[handle] = self._said[row]
        self.drop([row])
        return handles

    def drop(self, rows: Collection[int]) -> None:
        touched: dict[int, Cohort] = {}
        for handle in rows:
            self._said.pop(handle, None)
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

    def _put(self, handle: int, cohort: Cohort, at: int) -> None:
        self._place[handle] = cohort, at
        self._handles.setdefault(id(cohort), {})[at] = handle

    # forwards

    def extend(
        self,
        tokens: Mapping[int, Sequence[int] | Ids],
        *,
        asides: Mapping[int, Sequence[Sequence[int] | Ids]] | None = None,
        read_at: Mapping[int, Sequence[int]] | None = None,
        ending: Collection[int] = (),
    ) -> None:
        asides, read_at = asides or {}, read_at or {}
        made: dict[int, Addition] = {}
        for handle in dict.fromkeys([*tokens, *asides]):
            own, beside = _ids(tokens.get(handle, ())), [_ids(ids) for ids in asides.get(handle, ())]
            assert len(own) + sum(map(len, beside)), "a row is extended by at least one token"
            made[handle] = Addition(handle, own, beside, read_at.get(handle, _ends(own, beside)))
        if made:
            self._forward(self._growths(made, frozenset(ending)), frozenset(ending))

    def _growths(self, made: Mapping[int, Addition], ending: frozenset[int]) -> list[Growth]:
        """Rows that go on by their cohorts; new ones in cohorts of like length, those that end at once in one by themselves."""
        cohorts: dict[int, tuple[Cohort, dict[int, Addition]]] = {}
        new: list[Addition] = []
        for handle, addition in made.items():
            if handle in self._place:
                cohort, row = self._place[handle]
                cohorts.setdefault(id(cohort), (cohort, {}))[1][row] = addition
            else:
                new.append(addition)
        for together in _alike(new, ending):
            cohort = Cohort(len(together), self._prefix)
            cohorts[id(cohort)] = cohort, dict(enumerate(together))
            for row, addition in enumerate(together):
                self._put(addition.handle, cohort, row)
        growths: list[Growth] = []
        tokens = reads = 0
        for cohort, additions in cohorts.values():
            growths.append(Growth(cohort, additions, tokens, reads))
            tokens, reads = growths[-1].tokens.stop, growths[-1].reads.stop
        return growths

    def _forward(self, growths: Sequence[Growth], ending: frozenset[int]) -> None:
        self._wear()
        layers: list[mx.array] = []
        shared = [Var(array, None) for array in self._shared]
        states = hidden_states(Tape(), self._model, Mixed(self._model, growths, self._prefix), shared, layers).value
        computed = [states] if growths[-1].reads.stop else []
        for growth in growths:
            self._remember(growth, states)
            if not ending.issuperset(addition.handle for addition in growth.additions.values()):
                computed += growth.keep(layers)
        mx.async_eval(computed)  # type: ignore[no-untyped-call]

    def _remember(self, growth: Growth, states: mx.array) -> None:
        """Where the states lie that will be read."""
        at = growth.reads.start
        for addition in growth.additions.values():
            if not addition.read:  # a piece of a prompt: what would be read there is never computed, nor held
                self._said.pop(addition.handle, None)
                continue
            places = {position: at + i for i, position in enumerate(addition.read)}
            self._said[addition.handle] = _Said(states, places, len(addition.tokens))
            at += len(addition.read)

    # reading

    def choose(
        self, allowed: Mapping[int, NDArray[np.uint32]], *, temperature: float = 0.0, seed: int | Mapping[int, int] = 0
    ) -> tuple[dict[int, int], dict[int, float]]:
        chosen: dict[int, int] = {}
        logs: dict[int, float] = {}
        handles, step = list(allowed), rows_at_once(self._head)
        for some in (handles[at : at + step] for at in range(0, len(handles), step)):
            ids, of = self._chosen(some, np.stack([allowed[handle] for handle in some]), temperature, seed)
            chosen |= zip(some, ids, strict=True)
            logs |= zip(some, of, strict=True)
        return chosen, logs

    def _chosen(
        self, handles: Sequence[int], masks: NDArray[np.uint32], temperature: float, seed: int | Mapping[int, int]
    ) -> tuple[list[int], list[float]]:
        """Of so many rows that their logits exist at once."""
        assert masks.any(axis=1).all(), "a row has no token to choose from"
        some = np.bitwise_or.reduce(masks, axis=0).view(np.uint8)
        union = np.flatnonzero(np.unpackbits(some, bitorder="little")[: self._head.vocabulary]).astype(np.int32)
        hidden = self._states([(handle, -1) for handle in handles])
        if len(union) * FEW < self._head.vocabulary:
            legal = (masks[:, union // 32] >> (union % 32).astype(np.uint32) & 1).astype(bool)
            logits = mx.where(mx.array(legal), self._head.logits(hidden, mx.array(union)), -mx.inf)
        else:
            union = np.arange(self._head.vocabulary, dtype=np.int32)
            bits = mx.array(masks)
            seen = ((bits[:, :, None] >> mx.arange(32, dtype=mx.uint32)) & 1).reshape(len(handles), -1)[:, : self._head.vocabulary]
            logits = mx.where(seen.astype(mx.bool_), self._head.logits(hidden), -mx.inf)
        scores = logits
        if temperature > 0:
            # Of the whole vocabulary, whichever tokens others may choose from.
            noise = mx.stack([mx.random.gumbel((self._head.vocabulary,), key=_key(seed, handle)) for handle in handles])
            scores = logits / temperature + noise[:, mx.array(union)]
        chosen = mx.argmax(scores, axis=-1)
        logs = mx.take_along_axis(logits, chosen[:, None], axis=-1)[:, 0] - mx.logsumexp(logits, axis=-1)
        mx.eval(chosen, logs)
        return union[np.asarray(chosen)].tolist(), np.asarray(logs).tolist()

    def read(self, positions: Mapping[int, Sequence[int]], allowed: Mapping[int, Sequence[Ids]]) -> dict[int, list[Logs]]:
        where = [(handle, position) for handle, of in positions.items() for position in of]
        logs = iter(self._log_probabilities(where, [ids for handle in positions for ids in allowed[handle]]))
        return {handle: [next(logs) for _ in of] for handle, of in positions.items()}

    def score(self, rows: Sequence[int], continuations: Sequence[Sequence[int]], allowed: Sequence[Ids]) -> list[Logs]:
        asides: dict[int, list[Ids]] = {}
        where: list[tuple[int, int]] = []
        for handle, continuation in zip(rows, continuations, strict=True):
            branches = asides.setdefault(handle, [])
            where.append((handle, sum(map(len, branches)) + len(continuation) - 1))
            branches.append(_ids(continuation))
        before = {handle: self._said[handle] for handle in asides if handle in self._said}
        self.extend({}, asides=asides)
        logs = self._log_probabilities(where, allowed)
        self._said |= before
        return logs

    def _states(self, where: Sequence[tuple[int, int]]) -> mx.array:
        """The hidden states behind tokens of rows, (k, hidden)."""
        groups: dict[int, tuple[mx.array, list[int], list[int]]] = {}
        for number, (handle, position) in enumerate(where):
            said = self._said[handle]
            _, numbers, places = groups.setdefault(id(said.states), (said.states, [], []))
            numbers.append(number)
            places.append(said.place(position))
        parts = [states[mx.array(places)] for states, _, places in groups.values()]
        if len(parts) == 1:
            return parts[0]
        order = np.argsort(np.concatenate([numbers for _, numbers, _ in groups.values()]))
        return mx.concatenate(parts)[mx.array(order.astype(np.int32))]

    def _log_probabilities(self, where: Sequence[tuple[int, int]], allowed: Sequence[Ids]) -> list[Logs]:
        """Over the allowed ids of each place."""
        union, mask = union_of(allowed)
        logits = mx.where(mx.array(mask), self._head.logits(self._states(where), mx.array(union)), -mx.inf)
        logs = np.asarray(logits - mx.logsumexp(logits, axis=-1, keepdims=True))
        return [logs[i, np.searchsorted(union, ids)] for i, ids in enumerate(allowed)]


def _alike(new: Sequence[Addition], ending: frozenset[int]) -> list[list[Addition]]:
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


def _ids(tokens: Sequence[int] | Ids) -> Ids:
    return np.asarray(tokens, np.int32)


def _ends(tokens: Ids, asides: Sequence[Ids]) -> list[int]:
    """The last token, and the end of each aside."""
    ends = np.cumsum([len(tokens), *map(len, asides)]) - 1
    return [int(end) for end in ends[0 if len(tokens) else 1 :]]


def _key(seed: int | Mapping[int, int], handle: int) -> mx.array:
    """Each row draws from a stream of its own, and no two seeds share one."""
    return mx.array(np.random.SeedSequence((seed, handle) if isinstance(seed, int) else seed[handle]).generate_state(2))
