"""One forward of rows at different places: some bring whole prompts, others a few tokens behind what they have.

All their tokens lie one after another, (n, hidden), so that no linear layer sees padding and the weights are read once. Attention is
done for each cohort by itself. New rows: in tiles over the prefix and themselves (`attention`). Rows that go on: their queries together
over each part of the keys,

    the prefix           once for all queries of the cohort, (kv heads, queries, p): it is never copied per row
    each stretch         row by row
    the new tokens       row by row, causal

and the parts are merged by their largest scores, as in `attention`. Among the new tokens of a row some may stand aside: they see the row,
and their own branch, and nothing that follows sees them. They are read, and not kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from numpy.typing import NDArray

from mlx_distill.backends.mlx.attention import TILE_CPU, TILE_GPU
from mlx_distill.backends.mlx.cohort import Bools, Ints, Stretch
from mlx_distill.backends.mlx.decoder import Packed, cap_of
from mlx_distill.backends.mlx.elementwise import exp_below, largest, on_cpu, total_of
from mlx_distill.backends.mlx.growth import Growth
from mlx_distill.backends.mlx.tape import Tape, Var

Part = tuple[mx.array, mx.array, "mx.array | None"]
"""Keys, values (r, kv heads, n, width); and -inf where a query does not see a key, (r, 1, R / r, 1, c or 1, n)."""


class Mixed:
    """A forward's rows, as the decoder takes them: new cohorts and old ones, each a growth."""

    def __init__(self, model: nn.Module, growths: Sequence[Growth], prefix: int):
        self._growths, self._prefix = list(growths), prefix
        self._window: int | None = getattr(model.model, "sliding_window", None)
        ids = [each.ids for growth in growths for each in growth.additions.values()]
        self.tokens = mx.array(np.concatenate(ids))
        self.positions = mx.array(np.concatenate([growth.positions for growth in growths]).astype(np.int32))
        self.read = mx.array(np.concatenate([growth.read() for growth in growths]).astype(np.int32))
        self._packed = {id(growth): _packed(model, growth, prefix) for growth in growths if growth.fresh}
        self._queries: dict[tuple[int, bool, int | None, int], _Queries] = {}

    def attended(self, tape: Tape, i: int, layer: Any, queries: Var, keys: Var, values: Var, prefix: Sequence[Var], *, read: bool) -> Var:
        parts: list[mx.array] = []
        for growth in self._growths:
            asked = growth.reads if read else growth.tokens
            if asked.start == asked.stop:
                continue
            own = [Var(var.value[where], None) for var, where in ((queries, asked), (keys, growth.tokens), (values, growth.tokens))]
            if growth.fresh:
                parts.append(self._packed[id(growth)].attended(tape, i, layer, own[0], own[1], own[2], prefix, read=read).value)
            else:
                arrays = [var.value.astype(mx.float32) for var in own]
                shared = [var.value for var in prefix]
                out = self._asking(growth, layer, read).attended(i, arrays[0], arrays[1], arrays[2], shared, layer.self_attn)
                parts.append(out.astype(queries.value.dtype))
        return Var(parts[0] if len(parts) == 1 else mx.concatenate(parts), None)

    def _asking(self, growth: Growth, layer: Any, read: bool) -> _Queries:
        """Worked out once for all layers that attend alike."""
        window = self._window if getattr(layer, "use_sliding", False) else None
        repeats = layer.self_attn.n_heads // layer.self_attn.n_kv_heads
        key = (id(growth), read, window, repeats)
        if key not in self._queries:
            self._queries[key] = _Queries(growth, read=read, window=window, prefix=self._prefix, repeats=repeats)
        return self._queries[key]


def _packed(model: nn.Module, growth: Growth, prefix: int) -> Packed:
    rows = growth.additions.values()
    return Packed(model, [each.ids for each in rows], [np.asarray(each.read, np.int32) for each in rows], prefix)


@dataclass(frozen=True, slots=True)
class _Keys:
    """Keys and values of one layer that a cohort's queries see, the parts in the order of their positions."""

    prefix: Sequence[mx.array]
    stretches: Sequence[tuple[mx.array, mx.array]]
    new: Sequence[mx.array]


class _Queries:
    """The queries of a cohort that goes on, over all that they see, some rows and some queries at a time."""

    def __init__(self, growth: Growth, *, read: bool, window: int | None, prefix: int, repeats: int):
        self._growth, self._repeats = growth, repeats
        numbers, places = growth.queries(read=read)
        self._rows, self._c = numbers.shape
        self._index = mx.array(np.maximum(numbers, 0))
        self._back = mx.array(_slots(numbers))
        self._new = mx.array(np.maximum(growth.new_keys(), 0))
        real = numbers >= 0
        at = growth.cohort.length[:, None] + _depths(growth, places)
        longest = int(growth.positions.max()) + 1
        self._window = window if window is not None and longest > window else None
        self._prefix_mask = self._behind(np.arange(prefix)[None], at, real)
        self._stretch_masks = [self._stretch_mask(stretch, at, real) for stretch in growth.cohort.stretches]
        visible = growth.visible(places)
        self._new_mask = _additive(visible & ~self._too_far(_positions(growth)[:, None], at, real))
        self._keys = prefix + sum(stretch.columns for stretch in growth.cohort.stretches) + visible.shape[2]

    # masks, (rows, c, n); where the window hides nothing, a stretch's are (families, 1, n)

    def _too_far(self, keys: NDArray[Any], at: NDArray[Any], real: Bools) -> NDArray[Any]:
        """Keys at these positions that the window hides from a query; where there is no query, none."""
        if self._window is None:
            return np.zeros((1, 1, 1), bool)
        hidden: Bools = (keys <= at[..., None] - self._window) & real[..., None]
        return hidden

    def _behind(self, keys: NDArray[Any], at: NDArray[Any], real: Bools) -> mx.array | None:
        """Of keys that all stand before the queries."""
        return None if self._window is None or not keys.size else _additive(~self._too_far(keys[:, None], at, real))

    def _stretch_mask(self, stretch: Stretch, at: NDArray[Any], real: Bools) -> mx.array | None:
        if self._window is None:
            return None if stretch.owned.all() else _additive(stretch.owned[:, None])
        fan = self._rows // stretch.rows
        owned, positions = np.repeat(stretch.owned, fan, axis=0), np.repeat(stretch.positions, fan, axis=0)
        return _additive(owned[:, None] & ~self._too_far(positions[:, None], at, real))

    # the computation

    def attended(self, i: int, q: mx.array, k: mx.array, v: mx.array, prefix: Sequence[mx.array], attention: Any) -> mx.array:
        """(m, heads, width) of the growth's queries, float32; keys and values (n, kv heads, width) of its new ids."""
        heads, width = q.shape[1:]
        kv_heads = heads // self._repeats
        tile = q[self._index].transpose(0, 2, 1, 3) * attention.scale
        tile = tile.reshape(self._rows, kv_heads, self._repeats, self._c, width)
        stretches = [(s.layers[2 * i], s.layers[2 * i + 1]) for s in self._growth.cohort.stretches]
        keys = _Keys(prefix, stretches, [mx.contiguous(array[self._new].transpose(0, 2, 1, 3)) for array in (k, v)])
        out: list[mx.array] = []
        for rows in self._row_blocks(heads):
            blocks = [(asked, list(self._parts(rows, asked, keys))) for asked in self._query_blocks(heads, rows)]
            columns = [_over(tile[rows, :, :, asked], parts, cap_of(attention)) for asked, parts in blocks]
            out.append(columns[0] if len(columns) == 1 else mx.concatenate(columns, axis=3))
        whole = out[0] if len(out) == 1 else mx.concatenate(out)
        return whole.transpose(0, 3, 1, 2, 4).reshape(self._rows * self._c, heads, width)[self._back]

    def _parts(self, rows: slice, asked: slice, keys: _Keys) -> Iterator[Part]:
        """What some queries of some rows see."""
        if keys.prefix:
            yield keys.prefix[0][None], keys.prefix[1][None], self._cut(self._prefix_mask, rows, asked, 1)
        for (own_keys, values), mask in zip(keys.stretches, self._stretch_masks, strict=True):
            fan = self._rows // own_keys.shape[0]
            own = slice(rows.start // fan, rows.stop // fan)
            if mask is not None and self._window is None:
                yield own_keys[own], values[own], mask[own][:, None, None, None]
            else:
                yield own_keys[own], values[own], self._cut(mask, rows, asked, own.stop - own.start)
        yield keys.new[0][rows], keys.new[1][rows], self._cut(self._new_mask, rows, asked, rows.stop - rows.start)

    @staticmethod
    def _cut(mask: mx.array | None, rows: slice, asked: slice, families: int) -> mx.array | None:
        """Of a mask (rows, c, n) what is asked, by families of rows that see the same keys."""
        if mask is None:
            return None
        mask = mask[rows, asked]
        return mask.reshape(families, 1, -1, 1, *mask.shape[1:])

    def _row_blocks(self, heads: int) -> list[slice]:
        """Whole families of samples together, so many that their scores stay within a tile."""
        fan = max(self._rows // stretch.rows for stretch in self._growth.cohort.stretches) if self._growth.cohort.stretches else 1
        step = fan * max(1, _tile() // (heads * self._c * self._keys * fan))
        return [slice(at, min(at + step, self._rows)) for at in range(0, self._rows, step)]

    def _query_blocks(self, heads: int, rows: slice) -> list[slice]:
        step = max(1, _tile() // (heads * (rows.stop - rows.start) * self._keys))
        return [slice(at, min(at + step, self._c)) for at in range(0, self._c, step)]


def _tile() -> int:
    return TILE_CPU if on_cpu() else TILE_GPU


def _additive(seen: Bools) -> mx.array:
    return mx.array(np.where(seen, np.float32(0), np.float32(-np.inf)))


def _over(tile: mx.array, parts: Sequence[Part], cap: float | None) -> mx.array:
    """Queries (R, kv heads, repeats, c, width) over all that they see; of the same shape."""
    whole, kv_heads, repeats, c, width = tile.shape
    query = tile.reshape(whole, kv_heads, repeats * c, width)
    scores = [_scores(query, part, repeats, cap) for part in parts]
    top = largest([_unfolded(score.max(axis=-1, keepdims=True), whole) for score in scores])
    weights = [exp_below(score, _folded(top, part[0].shape[0])) for score, part in zip(scores, parts, strict=True)]
    total = total_of([_unfolded(weight.sum(axis=-1, keepdims=True), whole) for weight in weights])
    mixed = total_of([_unfolded(weight @ part[1].astype(mx.float32), whole) for weight, part in zip(weights, parts, strict=True)])
    return (mixed / total).reshape(tile.shape)


def _scores(query: mx.array, part: Part, repeats: int, cap: float | None) -> mx.array:
    """(r, kv heads, R / r * queries, n) of queries (R, kv heads, queries, width)."""
    keys, _, mask = part
    scores = _folded(query, keys.shape[0]) @ keys.astype(mx.float32).swapaxes(-1, -2)
    if cap is not None:
        scores = cap * mx.tanh(scores / cap)
    if mask is None:
        return scores
    fan, c = query.shape[0] // keys.shape[0], query.shape[2] // repeats
    return (scores.reshape(*scores.shape[:2], fan, repeats, c, -1) + mask).reshape(scores.shape)


def _folded(x: mx.array, rows: int) -> mx.array:
    """(R, h, m, w) to (r, h, R / r * m, w): neighbours that see the same keys ask together."""
    whole, heads, m, width = x.shape
    fan = whole // rows
    if fan == 1:
        return x
    return x.reshape(rows, fan, heads, m, width).transpose(0, 2, 1, 3, 4).reshape(rows, heads, fan * m, width)


def _unfolded(x: mx.array, whole: int) -> mx.array:
    """(r, h, R / r * m, w) to (R, h, m, w)."""
    rows, heads, m, width = x.shape
    fan = whole // rows
    if fan == 1:
        return x
    return x.reshape(rows, heads, fan, m // fan, width).transpose(0, 2, 1, 3, 4).reshape(whole, heads, m // fan, width)


def _slots(numbers: Ints) -> Ints:
    """For every query its place among the (rows * c) slots."""
    flat = numbers.reshape(-1)
    taken = np.flatnonzero(flat >= 0)
    back = np.empty(len(taken), np.int32)
    back[flat[taken]] = taken
    return back


def _depths(growth: Growth, places: Ints) -> Ints:
    """(rows, c): how far behind its row's end a query stands; 0 where there is none."""
    out = np.zeros(places.shape, np.int32)
    for row, each in growth.additions.items():
        depth, own = each.depth(), places[row]
        out[row] = np.where(own >= 0, depth[np.maximum(own, 0)], 0)
    return out


def _positions(growth: Growth) -> Ints:
    """(rows, longest) of the new ids; where there is none, far behind."""
    numbers = growth.new_keys()
    return np.where(numbers >= 0, growth.positions[np.maximum(numbers, 0)], -(1 << 30)).astype(np.int32)
