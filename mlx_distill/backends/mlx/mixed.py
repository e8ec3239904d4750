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

from mlx_distill.backends.mlx.attention import TILE_CPU, TILE_GPU
from mlx_distill.backends.mlx.columns import Arrays
from mlx_distill.backends.mlx.decoder import Packed, cap_of
from mlx_distill.backends.mlx.elementwise import exp_below, largest, on_cpu, total_of
from mlx_distill.backends.mlx.tape import Tape, Var
from mlx_distill.backends.rows.asked import Asked
from mlx_distill.backends.rows.cohort import Bools
from mlx_distill.backends.rows.growth import Growth
from mlx_distill.backends.rows.within import require_within

Part = tuple[mx.array, mx.array, "mx.array | None"]
"""Keys, values (r, kv heads, n, width); and -inf where a query does not see a key, (r, 1, R / r, 1, c or 1, n)."""


class Mixed:
    """A forward's rows, as the decoder takes them: new cohorts and old ones, each a growth."""

    def __init__(self, model: nn.Module, growths: Sequence[Growth[Arrays]], prefix: int):
        self._growths, self._prefix = list(growths), prefix
        ids = [each.ids for growth in growths for each in growth.additions.values()]
        self.tokens = mx.array(np.concatenate(ids))
        positions = np.concatenate([growth.positions for growth in growths]).astype(np.int32)
        require_within(model.longest, int(positions.max()) + 1)
        self.positions = mx.array(positions)
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

    def _asking(self, growth: Growth[Arrays], layer: Any, read: bool) -> _Queries:
        """Worked out once for all layers that attend alike."""
        window: int | None = layer.window
        repeats = layer.self_attn.n_heads // layer.self_attn.n_kv_heads
        key = (id(growth), read, window, repeats)
        if key not in self._queries:
            self._queries[key] = _Queries(growth, read=read, window=window, prefix=self._prefix, repeats=repeats)
        return self._queries[key]


def _packed(model: nn.Module, growth: Growth[Arrays], prefix: int) -> Packed:
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

    def __init__(self, growth: Growth[Arrays], *, read: bool, window: int | None, prefix: int, repeats: int):
        self._asked = Asked(growth, read=read, window=window, prefix=prefix)
        self._repeats = repeats
        self._index, self._back, self._new = mx.array(self._asked.index), mx.array(self._asked.back), mx.array(self._asked.new)
        self._prefix_mask = _additive(self._asked.prefix_mask)
        self._stretch_masks = [_additive(mask) for mask in self._asked.stretch_masks]
        self._new_mask = _additive(self._asked.new_mask)

    def attended(self, i: int, q: mx.array, k: mx.array, v: mx.array, prefix: Sequence[mx.array], attention: Any) -> mx.array:
        """(m, heads, width) of the growth's queries, float32; keys and values (n, kv heads, width) of its new ids."""
        asked, heads, width = self._asked, *q.shape[1:]
        kv_heads = heads // self._repeats
        tile = q[self._index].transpose(0, 2, 1, 3) * attention.scale
        tile = tile.reshape(asked.rows, kv_heads, self._repeats, asked.c, width)
        stretches = [(s.layers[2 * i], s.layers[2 * i + 1]) for s in asked.cohort.stretches]
        keys = _Keys(prefix, stretches, [mx.contiguous(array[self._new].transpose(0, 2, 1, 3)) for array in (k, v)])
        out: list[mx.array] = []
        for rows in asked.row_blocks(_tile(), heads):
            blocks = [(some, list(self._parts(rows, some, keys))) for some in asked.query_blocks(_tile(), heads, rows)]
            columns = [_over(tile[rows, :, :, some], parts, cap_of(attention)) for some, parts in blocks]
            out.append(columns[0] if len(columns) == 1 else mx.concatenate(columns, axis=3))
        whole = out[0] if len(out) == 1 else mx.concatenate(out)
        return whole.transpose(0, 3, 1, 2, 4).reshape(asked.rows * asked.c, heads, width)[self._back]

    def _parts(self, rows: slice, some: slice, keys: _Keys) -> Iterator[Part]:
        """What some queries of some rows see."""
        if keys.prefix:
            yield keys.prefix[0][None], keys.prefix[1][None], self._cut(self._prefix_mask, rows, some, 1)
        for (own_keys, values), mask in zip(keys.stretches, self._stretch_masks, strict=True):
            fan = self._asked.rows // own_keys.shape[0]
            own = slice(rows.start // fan, rows.stop // fan)
            if mask is not None and not self._asked.windowed:
                yield own_keys[own], values[own], mask[own][:, None, None, None]
            else:
                yield own_keys[own], values[own], self._cut(mask, rows, some, own.stop - own.start)
        yield keys.new[0][rows], keys.new[1][rows], self._cut(self._new_mask, rows, some, rows.stop - rows.start)

    @staticmethod
    def _cut(mask: mx.array | None, rows: slice, some: slice, families: int) -> mx.array | None:
        """Of a mask (rows, c, n) what is asked, by families of rows that see the same keys."""
        if mask is None:
            return None
        mask = mask[rows, some]
        return mask.reshape(families, 1, -1, 1, *mask.shape[1:])


def _tile() -> int:
    return TILE_CPU if on_cpu() else TILE_GPU


def _additive(seen: Bools | None) -> mx.array | None:
    return None if seen is None else mx.array(np.where(seen, np.float32(0), np.float32(-np.inf)))


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
