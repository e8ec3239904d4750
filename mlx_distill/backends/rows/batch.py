"""A micro-batch as NumPy arrays: its rows one after another, where they are read, and what they are to learn there.

It knows numbers and places; nothing of models, attention or devices. `n` tokens, `k` read positions.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mlx_distill.records import Ids, LossSum, TokenRow


class Places:
    """Rows one after another behind one prefix of `prefix` tokens, and where each is read (`read_at` None: nowhere)."""

    def __init__(self, rows: Sequence[Ids], read_at: Sequence[Ids] | None, prefix: int):
        self.lengths, self.read_at, self.prefix = [len(row) for row in rows], read_at, prefix
        self.tokens: Ids = np.concatenate(rows).astype(np.int32, copy=False)
        self.positions: Ids = np.concatenate([prefix + np.arange(n, dtype=np.int32) for n in self.lengths])
        """(n,) of each token in its text, the prefix counted."""

    @property
    def starts(self) -> NDArray[np.int64]:
        """Of each row among the tokens."""
        return np.concatenate([[0], np.cumsum(self.lengths)])[:-1].astype(np.int64)

    def read(self) -> Ids:
        """(k,) into the tokens, ascending within each row."""
        assert self.read_at is not None
        return np.concatenate([start + at for start, at in zip(self.starts, self.read_at, strict=True)]).astype(np.int32)


class Lessons:
    """What a micro-batch's rows learn: targets, weights and allowed ids, each (k,), in the order of the rows."""

    def __init__(self, rows: Sequence[TokenRow]):
        self.rows = list(rows)
        self.row = np.concatenate([np.full(len(row.read_at), i, np.int32) for i, row in enumerate(rows)])
        self.targets: Ids = np.concatenate([row.targets for row in rows])
        self.weight = np.concatenate([row.weight for row in rows])
        self.allowed: list[Ids | None] = [ids for row in rows for ids in (row.allowed or (None,) * len(row.read_at))]

    def places(self, prefix: int) -> Places:
        return Places([row.tokens for row in self.rows], [row.read_at for row in self.rows], prefix)

    def row_losses(self, nlls: NDArray[np.floating]) -> dict[str, LossSum]:
        """Weighted nats of each row, from the (k,) unweighted nlls."""
        nats = nlls.astype(np.float64) * self.weight
        size = len(self.rows)
        sums, weights = np.bincount(self.row, nats, size), np.bincount(self.row, self.weight, size)
        return {row.id: LossSum(float(nat), float(w)) for row, nat, w in zip(self.rows, sums, weights, strict=True)}

    def row_nlls(self, nlls: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        """The (k,) nlls, row by row."""
        parts = np.split(nlls, np.cumsum([len(row.targets) for row in self.rows])[:-1])
        return {row.id: part for row, part in zip(self.rows, parts, strict=True)}
