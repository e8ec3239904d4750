"""The queries of a cohort that goes on: where they stand, which keys each sees, and how many are computed at a time.

Worked out once a forward for all layers that attend alike. It knows numbers and places; nothing of keys, values or how they are mixed.
"""

from __future__ import annotations

from typing import Any, Generic

import numpy as np
from numpy.typing import NDArray

from mlx_distill.backends.rows.cohort import Bools, Ints, Layers, Stretch
from mlx_distill.backends.rows.growth import Growth

NOWHERE = -(1 << 30)
"""The position of a key that is none: far behind every query."""


class Asked(Generic[Layers]):
    """`read`: the queries are those of the read positions alone. `window`: a query sees itself and window - 1 tokens before it.

    Masks are True where a query sees a key, (rows, c, n); None where all see all. Where there is no query, every key is seen.
    """

    def __init__(self, growth: Growth[Layers], *, read: bool, window: int | None, prefix: int):
        self.cohort = growth.cohort
        numbers, places = growth.queries(read=read)
        self.rows, self.c = numbers.shape
        self.index: Ints = np.maximum(numbers, 0)
        """(rows, c): number of the query among the growth's; where there is none, some other, whose result is dropped."""
        self.back = _slots(numbers)
        """Of every query its place among the (rows * c)."""
        new = growth.new_keys()
        self.new: Ints = np.maximum(new, 0)
        """(rows, longest): numbers of the row's new ids among the growth's."""
        self._real: Bools = numbers >= 0
        self.counts = self._real.sum(axis=1)
        """(rows,): queries of each row ..."""
        self.sizes = (new >= 0).sum(axis=1)
        """... and new ids."""
        self._at: NDArray[Any] = growth.cohort.length[:, None] + _depths(growth, places)
        self._window = window if window is not None and int(growth.positions.max()) >= window else None
        self.windowed = self._window is not None
        """Whether it hides anything: a stretch's masks are (families, 1, n) where it does not."""
        self.prefix_mask = None if self._window is None or not prefix else self._near(np.arange(prefix, dtype=np.int32)[None])
        self.stretch_masks = [self._owned(stretch) for stretch in growth.cohort.stretches]
        positions = np.where(new >= 0, growth.positions[self.new], NOWHERE)
        self.new_mask: Bools = growth.visible(places) & self._near(positions)
        self.keys = prefix + sum(stretch.columns for stretch in growth.cohort.stretches) + new.shape[1]
        """That a query sees at most."""

    def _near(self, keys: NDArray[Any]) -> Bools:
        """Which keys, at these positions (rows or 1, n), the window leaves a query, (rows, c, n)."""
        if self._window is None:
            return np.ones((1, 1, 1), bool)
        near: Bools = (keys[:, None] > self._at[..., None] - self._window) | ~self._real[..., None]
        return near

    def _owned(self, stretch: Stretch[Layers]) -> Bools | None:
        if self._window is None:
            return None if stretch.owned.all() else stretch.owned[:, None]
        fan = self.rows // stretch.rows
        return np.repeat(stretch.owned, fan, axis=0)[:, None] & self._near(np.repeat(stretch.positions, fan, axis=0))

    def row_blocks(self, scores: int, heads: int) -> list[slice]:
        """Whole families of samples together, so many that no more scores than that exist at once."""
        fan = self.cohort.fan
        step = fan * max(1, scores // (heads * self.c * self.keys * fan))
        return [slice(at, min(at + step, self.rows)) for at in range(0, self.rows, step)]

    def query_blocks(self, scores: int, heads: int, rows: slice) -> list[slice]:
        step = max(1, scores // (heads * (rows.stop - rows.start) * self.keys))
        return [slice(at, min(at + step, self.c)) for at in range(0, self.c, step)]


def _slots(numbers: Ints) -> Ints:
    flat = numbers.reshape(-1)
    taken = np.flatnonzero(flat >= 0)
    back = np.empty(len(taken), np.int32)
    back[flat[taken]] = taken
    return back


def _depths(growth: Growth[Layers], places: Ints) -> Ints:
    """(rows, c): how far behind its row's end a query stands; 0 where there is none."""
    out = np.zeros(places.shape, np.int32)
    for row, each in growth.additions.items():
        depth, own = each.depth(), places[row]
        out[row] = np.where(own >= 0, depth[np.maximum(own, 0)], 0)
    return out
