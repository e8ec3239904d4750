"""Rows being answered behind a shared prefix, on MLX: prefill, append, read, choose.

Rows that were admitted together are a cohort: one cache a layer, which grows by concatenation and may have holes (padding), with a mask
that says which of its columns each row owns. So rows of unequal length need no copying about, and a row never sees its neighbours.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from numpy.typing import NDArray

from mlx_distill.backends.base import Logs
from mlx_distill.backends.mlx.decoder import KeysValues, prefix_keys_values
from mlx_distill.backends.mlx.loss import padded, union_of
from mlx_distill.backends.mlx.model import Head, wide_masks
from mlx_distill.records import Ids

Bools = NDArray[np.bool_]


class _Ragged:
    """One layer's cache for one forward: the prefix, the rows' own columns so far, and what is appended now."""

    def __init__(
        self, own: tuple[mx.array, mx.array] | None, shared: KeysValues | None, offset: mx.array, seen: Bools, positions: Any, wide: bool
    ):
        self._own, self._shared = own, shared
        self._seen, self._positions, self._wide = seen, positions, wide
        self.offset = offset
        self.kept: tuple[mx.array, mx.array] | None = None

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        if self._own is not None:
            keys, values = mx.concatenate([self._own[0], keys], axis=2), mx.concatenate([self._own[1], values], axis=2)
        self.kept = keys, values
        return self.kept if self._shared is None else (self._behind(self._shared[0], keys), self._behind(self._shared[1], values))

    @staticmethod
    def _behind(shared: mx.array, own: mx.array) -> mx.array:
        return mx.concatenate([mx.broadcast_to(shared, (own.shape[0], *shared.shape[1:])), own], axis=2)

    def make_mask(self, n: int, return_array: bool = False, window_size: int | None = None) -> mx.array:
        seen = self._seen
        if window_size is not None:
            query, key = self._positions
            seen = seen & (query[:, :, None] - key[:, None, :] < window_size)
        mask = mx.array(seen)[:, None]
        return mask[:, None] if self._wide else mask


class _Cohort:
    """Rows of one `admit`. `owned` (B, S): which columns of the cache are the row's; `positions` (B, S): where in the text they stand."""

    def __init__(self, rows: int, prefix: int):
        self.caches: list[tuple[mx.array, mx.array]] | None = None
        self.owned = np.zeros((rows, 0), bool)
        self.positions = np.zeros((rows, 0), np.int32)
        self.length = np.full(rows, prefix, np.int32)
        self.alive = set(range(rows))
        self.hidden: mx.array | None = None
        """(B, n, width): what `read` and `choose` ask; the last `added` tokens of each row."""
        self.added = np.zeros(rows, np.int32)

    def select(self, rows: NDArray[np.int32]) -> _Cohort:
        """The same state for `rows`, copies where one stands twice."""
        other = _Cohort(len(rows), 0)
        index = mx.array(rows)
        other.caches = None if self.caches is None else [(keys[index], values[index]) for keys, values in self.caches]
        other.owned, other.positions, other.length = self.owned[rows], self.positions[rows], self.length[rows]
        return other

    def take(self, hidden: mx.array, added: NDArray[np.int32]) -> None:
        """New hidden states; a row to which nothing was added keeps those it had."""
        idle = added == 0
        if self.hidden is not None and idle.any():
            width = max(hidden.shape[1], int(self.added[idle].max()))
            old, new = (_widened(states, width) for states in (self.hidden, hidden))
            hidden, added = mx.where(mx.array(idle)[:, None, None], old, new), np.where(idle, self.added, added)
        self.hidden, self.added = hidden, added


def _widened(states: mx.array, width: int) -> mx.array:
    """(B, n, width of a state) to exactly `width` tokens, cut or padded on the right."""
    return mx.pad(states[:, :width], [(0, 0), (0, max(0, width - states.shape[1])), (0, 0)])


class MlxSession:
    def __init__(self, model: nn.Module, head: Head, prefix: Ids, token_budget: int | None, *, wear: Callable[[], None]):
        """`wear` puts the session's adapter on the model: between two calls another session may have put on its own."""
        self._model, self._head, self._budget, self._wear = model, head, token_budget, wear
        self._wide = wide_masks(model)
        self._shared: KeysValues | None = None
        self._prefix = len(prefix)
        self._wear()
        if self._prefix:
            self._shared = [array[None] for array in prefix_keys_values(model, prefix)]
            mx.eval(self._shared)
        self._next = 0
        self._place: dict[int, tuple[_Cohort, int]] = {}

    def admit(self, rows: Sequence[Ids]) -> list[int]:
        order = np.argsort([len(row) for row in rows], kind="stable")
        handles = list(range(self._next, self._next + len(rows)))
        self._next += len(rows)
        for part in self._within_budget(order, rows):
            cohort = _Cohort(len(part), self._prefix)
            self._forward(cohort, [rows[i] for i in part])
            for at, i in enumerate(part):
                self._place[handles[i]] = (cohort, at)
        return handles

    def _within_budget(self, order: NDArray[np.intp], rows: Sequence[Ids]) -> list[list[int]]:
        """Rows of like length together, so many that rows x longest stays within the budget; at least one."""
        parts: list[list[int]] = [[]]
        for i in order:
            if parts[-1] and self._budget is not None and (len(parts[-1]) + 1) * len(rows[i]) > self._budget:
                parts.append([])
            parts[-1].append(int(i))
        return [part for part in parts if part]

    def extend(self, tokens: Mapping[int, Sequence[int]]) -> None:
        for cohort, rows in self._cohorts(tokens).items():
            appended = [np.zeros(0, np.int32)] * len(cohort.length)
            for handle, at in rows:
                assert len(tokens[handle]), "a row is extended by at least one token"
                appended[at] = np.asarray(tokens[handle], np.int32)
            self._forward(cohort, appended)

    def choose(
        self, allowed: Mapping[int, NDArray[np.uint32]], *, temperature: float = 0.0, seed: int = 0
    ) -> tuple[dict[int, int], dict[int, float]]:
        ids: dict[int, int] = {}
        logs: dict[int, float] = {}
        for cohort, rows in self._cohorts(allowed).items():
            assert all(np.any(allowed[handle]) for handle, _ in rows), "a row has no token to choose from"
            logits = self._head.logits(self._last(cohort, [at for _, at in rows]))
            bits = mx.array(np.stack([allowed[handle] for handle, _ in rows]))
            legal = ((bits[:, :, None] >> mx.arange(32, dtype=mx.uint32)) & 1).reshape(len(rows), -1)[:, : self._head.vocabulary]
            logits = mx.where(legal.astype(mx.bool_), logits, -mx.inf)
            logs_all = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
            if temperature > 0:
                noise = mx.stack([mx.random.gumbel(logits.shape[-1:], key=_key(seed, handle)) for handle, _ in rows])
                chosen = mx.argmax(logits / temperature + noise, axis=-1)
            else:
                chosen = mx.argmax(logits, axis=-1)
            log = mx.take_along_axis(logs_all, chosen[:, None], axis=-1)[:, 0]
            for (handle, _), token, value in zip(rows, np.asarray(chosen), np.asarray(log), strict=True):
                ids[handle], logs[handle] = int(token), float(value)
        return ids, logs

    def read(self, positions: Mapping[int, Sequence[int]], allowed: Mapping[int, Sequence[Ids]]) -> dict[int, list[Logs]]:
        out: dict[int, list[Logs]] = {}
        for cohort, rows in self._cohorts(positions).items():
            assert cohort.hidden is not None
            at_row = np.array([at for handle, at in rows for _ in positions[handle]], np.int32)
            where = np.array([p if p >= 0 else p + cohort.added[at] for handle, at in rows for p in positions[handle]], np.int32)
            hidden = cohort.hidden[mx.array(at_row), mx.array(where)]
            logs = iter(self._log_probabilities(hidden, [ids for handle, _ in rows for ids in allowed[handle]]))
            out |= {handle: [next(logs) for _ in positions[handle]] for handle, _ in rows}
        return out

    def score(self, rows: Sequence[int], continuations: Sequence[Sequence[int]], allowed: Sequence[Ids]) -> list[Logs]:
        out: dict[int, Logs] = {}
        numbers: dict[int, list[int]] = {}
        for number, handle in enumerate(rows):
            numbers.setdefault(id(self._place[handle][0]), []).append(number)
        for group in numbers.values():
            cohort = self._place[rows[group[0]]][0]
            branch = cohort.select(np.array([self._place[rows[number]][1] for number in group], np.int32))
            self._forward(branch, [np.asarray(continuations[number], np.int32) for number in group])
            logs = self._log_probabilities(self._last(branch, range(len(group))), [allowed[number] for number in group])
            out |= dict(zip(group, logs, strict=True))
        return [out[number] for number in range(len(rows))]

    def drop(self, rows: Sequence[int]) -> None:
        touched: dict[_Cohort, None] = {}
        for handle in rows:
            cohort, at = self._place.pop(handle)
            cohort.alive.discard(at)
            touched[cohort] = None
        for cohort in touched:
            if not cohort.alive:
                cohort.caches, cohort.hidden = None, None
            elif len(cohort.alive) * 2 <= len(cohort.length):
                self._compact(cohort)

    def _compact(self, cohort: _Cohort) -> None:
        """Half of the rows are gone: keep the others' state alone."""
        rows = np.array(sorted(cohort.alive), np.int32)
        kept = cohort.select(rows)
        cohort.caches, cohort.owned, cohort.positions, cohort.length = kept.caches, kept.owned, kept.positions, kept.length
        cohort.hidden = None if cohort.hidden is None else cohort.hidden[mx.array(rows)]
        cohort.added = cohort.added[rows]
        cohort.alive = set(range(len(rows)))
        mx.eval(cohort.caches, cohort.hidden)  # until then the copies hold on to what they were taken from
        moved = {int(old): new for new, old in enumerate(rows)}
        for handle, (other, at) in list(self._place.items()):
            if other is cohort:
                self._place[handle] = (cohort, moved[at])

    def _cohorts(self, handles: Mapping[int, object]) -> dict[_Cohort, list[tuple[int, int]]]:
        """(handle, row) by cohort."""
        out: dict[_Cohort, list[tuple[int, int]]] = {}
        for handle in handles:
            cohort, at = self._place[handle]
            out.setdefault(cohort, []).append((handle, at))
        return out

    def _forward(self, cohort: _Cohort, appended: Sequence[Ids]) -> None:
        """Forward what each row appends (maybe nothing), and grow the caches by as many columns as the longest needs."""
        self._wear()
        tokens = padded(appended)
        n = tokens.shape[1]
        added = np.array([len(ids) for ids in appended], np.int32)
        real = np.arange(n) < added[:, None]
        places = (cohort.length[:, None] + np.arange(n)).astype(np.int32)
        seen, positions = self._seen(cohort, n, places)
        offset = mx.array(cohort.length)
        caches = [
            _Ragged(
                None if cohort.caches is None else cohort.caches[i],
                None if self._shared is None else self._shared[2 * i : 2 * i + 2],
                offset, seen, positions, self._wide,
            )
            for i in range(len(self._model.layers))
        ]  # fmt: skip
        cohort.take(self._model.model(mx.array(tokens), caches), added)
        cohort.caches = [cache.kept for cache in caches if cache.kept is not None]
        mx.eval(cohort.hidden, cohort.caches)
        cohort.owned = np.concatenate([cohort.owned, real], axis=1)
        cohort.positions = np.concatenate([cohort.positions, places], axis=1)
        cohort.length = cohort.length + added

    def _seen(self, cohort: _Cohort, n: int, places: NDArray[np.int32]) -> tuple[Bools, tuple[NDArray[np.int32], NDArray[np.int32]]]:
        """Which keys each appended token sees, (B, n, prefix + S + n), and the positions of queries (B, n) and keys (B, ...)."""
        rows = len(cohort.length)
        shared = np.ones((rows, n, self._prefix), bool)
        before = np.broadcast_to(cohort.owned[:, None], (rows, n, cohort.owned.shape[1]))
        causal = np.broadcast_to(np.tri(n, dtype=bool), (rows, n, n))
        start = np.broadcast_to(np.arange(self._prefix, dtype=np.int32), (rows, self._prefix))
        keys = np.concatenate([start, cohort.positions, places], axis=1)
        return np.concatenate([shared, before, causal], axis=2), (places, keys)

    def _last(self, cohort: _Cohort, rows: Sequence[int]) -> mx.array:
        """Of each row, the state after its last token, (B, width)."""
        assert cohort.hidden is not None
        at = np.asarray(rows, np.int32)
        return cohort.hidden[mx.array(at), mx.array(cohort.added[at] - 1)]

    def _log_probabilities(self, hidden: mx.array, allowed: Sequence[Ids]) -> list[Logs]:
        union, mask = union_of(allowed)
        logits = mx.where(mx.array(mask), self._head.logits(hidden, mx.array(union)), -mx.inf)
        logs = np.asarray(logits - mx.logsumexp(logits, axis=-1, keepdims=True))
        return [logs[i, np.searchsorted(union, ids)] for i, ids in enumerate(allowed)]


def _key(seed: int, handle: int) -> mx.array:
    """Each row draws from a stream of its own, and no two seeds share one."""
    return mx.array(np.random.SeedSequence((seed, handle)).generate_state(2))
