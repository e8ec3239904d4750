"""What every backend's session does with rows and what is asked of them; a backend adds a forward, and what it reads of hidden states."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from typing import Generic

import numpy as np
from numpy.typing import NDArray

from mlx_distill.backends.base import Logs
from mlx_distill.backends.rows.allowed import Choice, choice, keys_of, union_of
from mlx_distill.backends.rows.cohort import Bools, Columns, Layers
from mlx_distill.backends.rows.growth import Growth
from mlx_distill.backends.rows.handles import Found, Handles, States, additions, ids_of
from mlx_distill.records import Ids


class RowSession(ABC, Generic[Layers, States]):
    """`backends.base.Session`, but for the tensors. `prefix`: tokens of it; `vocabulary`: rows of the head."""

    def __init__(self, prefix: int, vocabulary: int, columns: Columns[Layers]):
        self._rows: Handles[Layers, States] = Handles(prefix, columns)
        self._vocabulary = vocabulary

    # what a backend adds

    @abstractmethod
    def _forward(self, growths: Sequence[Growth[Layers]], ending: Collection[int]) -> None:
        """Compute it; `remember` the hidden states, and `keep` the keys and values of growths in which not all rows end."""

    @abstractmethod
    def _at_once(self) -> int:
        """Rows whose logits over the whole vocabulary may exist at a time."""

    @abstractmethod
    def _chosen(self, found: Found[States], among: Choice) -> tuple[list[int], list[float]]:
        """Of each hidden state the token chosen, and its log probability among those allowed (at temperature 1)."""

    @abstractmethod
    def _logs(self, found: Found[States], union: Ids, allowed: Bools) -> Logs:
        """(k, u) log probabilities over the union's ids, each row among those allowed to it; -inf elsewhere."""

    # rows

    def admit(self, rows: Sequence[Ids], *, read_at: Sequence[Sequence[int]] | None = None) -> list[int]:
        handles = self._rows.new(len(rows))
        some = {handle: row for handle, row in zip(handles, rows, strict=True) if len(row)}
        self.extend(some, read_at=None if read_at is None else dict(zip(handles, read_at, strict=True)))
        return handles

    def fork(self, row: int, number: int) -> list[int]:
        return self._rows.fork(row, number)

    def drop(self, rows: Collection[int]) -> None:
        self._rows.drop(rows)

    def extend(
        self,
        tokens: Mapping[int, Sequence[int] | Ids],
        *,
        asides: Mapping[int, Sequence[Sequence[int] | Ids]] | None = None,
        read_at: Mapping[int, Sequence[int]] | None = None,
        ending: Collection[int] = (),
    ) -> None:
        if made := additions(tokens, asides or {}, read_at or {}):
            over = frozenset(ending)
            self._forward(self._rows.growths(made, over), over)

    # reading

    def choose(
        self, allowed: Mapping[int, NDArray[np.uint32]], *, temperature: float = 0.0, seed: int | Mapping[int, int] = 0
    ) -> tuple[dict[int, int], dict[int, float]]:
        chosen: dict[int, int] = {}
        logs: dict[int, float] = {}
        handles, step = list(allowed), self._at_once()
        for some in (handles[at : at + step] for at in range(0, len(handles), step)):
            keys = keys_of(seed, some) if temperature > 0 else np.zeros((len(some), 2), np.uint32)
            among = choice(np.stack([allowed[handle] for handle in some]), self._vocabulary, temperature=temperature, keys=keys)
            ids, of = self._chosen(self._rows.find([(handle, -1) for handle in some]), among)
            chosen |= zip(some, ids, strict=True)
            logs |= zip(some, of, strict=True)
        return chosen, logs

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
            branches.append(ids_of(continuation))
        before = {handle: self._rows.said[handle] for handle in asides if handle in self._rows.said}
        self.extend({}, asides=asides)
        logs = self._log_probabilities(where, allowed)
        self._rows.said |= before
        return logs

    def _log_probabilities(self, where: Sequence[tuple[int, int]], allowed: Sequence[Ids]) -> list[Logs]:
        """Over the allowed ids of each place."""
        union, mask = union_of(allowed)
        logs = self._logs(self._rows.find(where), union, mask)
        return [logs[i, np.searchsorted(union, ids)] for i, ids in enumerate(allowed)]
