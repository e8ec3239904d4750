"""Where the keys and values of rows that go on lie, as a table for `kernels.ragged`: what each row asks, and of which pieces.

A piece is a run of keys of one row in one stretch, or its new tokens. Worked out in NumPy; nothing is computed here.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from mlx_distill.backends.rows.asked import Asked
from mlx_distill.backends.rows.cohort import Bools, Stretch

FIELDS = 10
"""Of an entry: first query and their number; address of the first key in layer 0 (of new tokens: bytes into theirs), bytes of a layer's
keys (new tokens: 0); keys; numbers from key to key, and from head to head; where its mask begins (-1: all is seen), and numbers from query
to query in it; which of its queries' pieces it is."""
CHUNK = 512
"""Keys of a piece at most: enough programs for a GPU, and few enough to merge."""
TOGETHER = 32
"""Queries times heads to one of keys that a program computes, unless there are more of the latter."""


class Pieces:
    """Of several cohorts. `asked`: each with the number of its first query, and of its first new token; `kv_heads`, `width`: of the model,
    whose numbers have `size` bytes; `repeats`: heads of queries to one of keys."""

    def __init__(self, asked: list[tuple[int, int, Asked[Tensor]]], *, kv_heads: int, width: int, size: int, repeats: int):
        self._kv_heads, self._width, self._size = kv_heads, width, size
        self._masks: list[NDArray[np.bool_]] = []
        self._taken = 0
        longest = max(each.c for _, _, each in asked)
        self.most = min(longest, max(1, TOGETHER // repeats))
        """Queries of a row that are computed together."""
        entries = [entry for first, new, each in asked for entry in self._entries(first, new, each)]
        self.table: NDArray[np.int64] = np.concatenate(entries)
        self.slots = int(self.table[:, 9].max()) + 1
        self.seen: Bools = np.concatenate([*self._masks, np.zeros(1, bool)])

    def _entries(self, first: int, new: int, asked: Asked[Tensor]) -> Iterator[NDArray[np.int64]]:
        slot = 0
        for stretch, mask in zip(asked.cohort.stretches, asked.stretch_masks, strict=True):
            for at in range(0, stretch.columns, CHUNK):
                yield from self._blocks(first, asked, self._of_stretch(asked, stretch, mask, at), slot)
                slot += 1
        yield from self._blocks(first, asked, self._of_new(asked, new), slot)

    def _of_stretch(self, asked: Asked[Tensor], stretch: Stretch[Tensor], mask: Bools | None, at: int) -> NDArray[np.int64]:
        """(rows, 7): entries from the address on to the mask's steps, of keys from `at` on."""
        rows, kv_heads, n, width = stretch.layers.shape[1:]
        each = np.arange(asked.rows) // (asked.rows // rows)
        until = np.minimum(_until(stretch.owned)[each], at + CHUNK) - at
        out = np.zeros((asked.rows, 7), np.int64)
        out[:, 0] = stretch.layers.data_ptr() + (each * kv_heads * n + at) * width * self._size
        out[:, 1] = stretch.layers.stride(0) * self._size
        out[:, 2], out[:, 3], out[:, 4] = np.maximum(until, 0), width, n * width
        out[:, 5] = -1
        if asked.windowed and mask is not None:
            out[:, 5], out[:, 6] = self._put(mask) + np.arange(asked.rows) * mask[0].size + at, n
        elif not (stretch.owned == (np.arange(n) < _until(stretch.owned)[:, None])).all():
            out[:, 5] = self._put(stretch.owned) + each * n + at
        return out

    def _of_new(self, asked: Asked[Tensor], new: int) -> NDArray[np.int64]:
        out = np.zeros((asked.rows, 7), np.int64)
        out[:, 0] = (new + asked.new[:, 0].astype(np.int64)) * self._kv_heads * self._width * self._size
        out[:, 2], out[:, 3], out[:, 4] = asked.sizes, self._kv_heads * self._width, self._width
        out[:, 5] = -1
        if not asked.new_mask.all():
            mask = asked.new_mask
            out[:, 5], out[:, 6] = self._put(mask) + np.arange(asked.rows) * mask[0].size, mask.shape[2]
        return out

    def _put(self, mask: Bools) -> int:
        self._masks.append(mask.reshape(-1))
        self._taken += mask.size
        return self._taken - mask.size

    def _blocks(self, first: int, asked: Asked[Tensor], keys: NDArray[np.int64], slot: int) -> Iterator[NDArray[np.int64]]:
        """Entries of the rows that ask, and have keys there, some queries at a time."""
        for at in range(0, asked.c, self.most):
            count = np.minimum(asked.counts - at, self.most)
            some = (count > 0) & (keys[:, 2] > 0)
            out = np.empty((int(some.sum()), FIELDS), np.int64)
            out[:, 0], out[:, 1], out[:, 2:9], out[:, 9] = first + asked.index[some, 0] + at, count[some], keys[some], slot
            out[:, 7] += np.where(out[:, 7] >= 0, at * out[:, 8], 0)
            yield out


def _until(owned: Bools) -> NDArray[np.int64]:
    """(r,): how many columns there are up to the last that holds a token."""
    return np.where(owned.any(axis=1), owned.shape[1] - owned[:, ::-1].argmax(axis=1), 0)
