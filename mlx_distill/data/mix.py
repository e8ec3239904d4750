"""What is learned in which step: an epoch's rows in their batches, and beside them the share of general data.

All of it follows from (seed, step), so that a resume needs no generator state. It knows nothing of models or learning rates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mlx_distill.data.batches import MicroBatch, epoch, groups, steps_per_epoch
from mlx_distill.data.replay import Replay
from mlx_distill.data.tokens import Lesson
from mlx_distill.records import Group, Ids, TokenRow


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """One effective batch, for a backend. `replayed`: the ids of its general rows."""

    groups: list[Group]
    replayed: frozenset[str] = frozenset()

    @property
    def rows(self) -> list[TokenRow]:
        return [row for group in self.groups for row in group.rows]

    @property
    def learned(self) -> int:
        """Tokens."""
        return sum(len(row.targets) for row in self.rows)


class Mix:
    """The effective batches of a run, by step. A general row weighs as much as the task's do on average."""

    def __init__(self, rows: Sequence[Lesson], prefix: Ids, *, batch_size: int, accumulate: int, seed: int, replay: Replay | None = None):
        self._rows, self._prefix, self._batch_size, self._accumulate, self._seed = rows, prefix, batch_size, accumulate, seed
        self._replay = replay and replay.scaled(float(np.mean([lesson.row.weight.sum(dtype=np.float64) for lesson in rows])))
        self.per_epoch = steps_per_epoch(len(rows), batch_size, accumulate)
        self._epoch: tuple[int, list[list[MicroBatch]]] = (-1, [])

    def batch(self, step: int) -> Batch:
        """Of step 0, 1, ..."""
        number, within = divmod(step, self.per_epoch)
        batches = self._batches(number)
        own = groups(batches[within], self._prefix)
        if self._replay is None:
            return Batch(own)
        before = number * len(self._rows) + sum(map(_size, batches[:within]))
        general = self._replay.group(before, before + _size(batches[within]), self._batch_size)
        return Batch([*own, general], frozenset(row.id for row in general.rows)) if general else Batch(own)

    def _batches(self, number: int) -> list[list[MicroBatch]]:
        """An epoch's, kept until another is asked for."""
        if self._epoch[0] != number:
            settings = {"batch_size": self._batch_size, "accumulate": self._accumulate, "seed": self._seed}
            self._epoch = (number, epoch(self._rows, **settings, number=number))
        return self._epoch[1]


def _size(batch: Sequence[MicroBatch]) -> int:
    return sum(map(len, batch))
