"""Attention of packed rows over a shared prefix and their own tokens: exact, in tiles, its derivative written out.

Row i's query at position t sees the whole prefix and the row's own tokens 0 ... t. With scores s = q·k / sqrt(d),

    out = sum_j exp(s_j - lse) v_j        lse = log sum_j exp(s_j)

is summed over parts of the keys (the prefix; the own tokens that every query of a tile sees; those on the diagonal), so the prefix is
never copied per row, nothing above the diagonal is computed, and a row costs what it holds. Backward keeps queries, keys, values, out and
lse, and computes a tile's probabilities p anew ("FlashAttention", Dao et al., 2022):

    dv_j = p dout     dp = dout·v_j     ds = p (dp - dout·out)     dq = ds k     dk = ds q

Scores exist for one tile at a time. Everything is float32, whatever the model's type. Layout: tokens of all rows one after another, (n,
heads, width); the prefix (kv heads, p, width).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from mlx_distill.backends.mlx.elementwise import exp_below, largest, on_cpu, total_of, weighted_gap
from mlx_distill.records import Ids

TILE_CPU, TILE_GPU = 1 << 19, 1 << 26
"""Scores of a tile: on CPUs what stays in a core's cache, on a GPU 256 MB."""
QUERIES_CPU = 128
"""Longest side of a tile on the diagonal: half of that block is computed in vain."""

Part = tuple[mx.array, mx.array, "mx.array | None"]
"""Keys, values (rows, kv heads, e, width), and -inf where a query does not see a key (rows, 1, queries, e)."""


@dataclass(frozen=True, slots=True)
class Block:
    """Queries of a set of rows that are computed together: `c` of each row."""

    queries: mx.array
    """(rows, c) into the packed queries; where a row has fewer, some other query, whose result is dropped."""
    real: mx.array | None
    """(rows, c, 1, 1) 1 where there is a query; None: everywhere."""
    free: int
    """Own keys that every query sees ..."""
    end: int
    """... and the first that none sees."""
    mask: mx.array | None
    """(rows or 1, 1, repeats * c, end - free), 0 or -inf."""
    prefix_mask: mx.array | None = None
    """(rows or 1, 1, repeats * c, p), where a window hides some of the prefix."""


@dataclass(frozen=True, slots=True)
class RowSet:
    """Rows whose tiles are computed together."""

    keys: mx.array
    """(rows, longest) into the packed tokens; past a row's end some other token, which no query sees."""
    blocks: Sequence[Block]


class Layout:
    """Which tiles there are, worked out once for all layers.

    `positions`: of each row the queries, ascending; None: every token. `window`: a query sees itself and window - 1 tokens before it.
    """

    def __init__(
        self,
        lengths: Sequence[int],
        positions: Sequence[Ids] | None,
        *,
        prefix: int,
        heads: int,
        kv_heads: int,
        window: int | None = None,
        tile: int | None = None,
        longest: int | None = None,
    ):
        cpu = on_cpu()
        self._tile, self._longest = tile or (TILE_CPU if cpu else TILE_GPU), longest or (QUERIES_CPU if cpu else 1 << 30)
        self._prefix, self._heads, self._repeats = prefix, heads, heads // kv_heads
        self._window = window if window is not None and prefix + max(lengths) > window else None
        asked = positions if positions is not None else [np.arange(n, dtype=np.int32) for n in lengths]
        starts, firsts = _starts(lengths), _starts([len(of) for of in asked])
        self.sets: list[RowSet] = []
        placed_queries: list[NDArray[np.int64]] = []
        placed_keys: list[NDArray[np.int64]] = []
        for rows in self._together(lengths, asked):
            made, queries, keys = self._set([(lengths[i], asked[i], starts[i], firsts[i]) for i in rows])
            self.sets.append(made)
            placed_queries.append(queries)
            placed_keys.append(keys)
        self.back_queries = _inverse(placed_queries)
        self.back_keys = _inverse(placed_keys)

    def _together(self, lengths: Sequence[int], asked: Sequence[Ids]) -> list[list[int]]:
        """Rows, in their order, cut where one more would make the smallest tile too large."""
        sets: list[list[int]] = []
        size = (0, 0)
        for i, (n, of) in enumerate(zip(lengths, asked, strict=True)):
            grown = max(size[0], n), max(size[1], len(of))
            if sets and (len(sets[-1]) + 1) * self._scores(*grown) <= self._tile:
                sets[-1].append(i)
                size = grown
            else:
                sets.append([i])
                size = n, len(of)
        return sets

    def _scores(self, keys: int, queries: int) -> int:
        return self._heads * max(1, queries) * (self._prefix + keys)

    def _set(self, rows: Sequence[tuple[int, Ids, int, int]]) -> tuple[RowSet, NDArray[np.int64], NDArray[np.int64]]:
        """One set, and for every query and key slot of its tiles the packed index that it holds (-1: none)."""
        longest, most = max(n for n, *_ in rows), max(len(of) for _, of, *_ in rows)
        step = max(1, min(self._longest, self._tile // (len(rows) * self._scores(longest, 1))))
        keys = np.stack([_padded(np.arange(start, start + n), longest) for n, _, start, _ in rows])
        blocks, placed = [], []
        for at in range(0, most, step):
            width = min(step, most - at)
            index = np.stack([_padded(np.arange(first, first + len(of))[at : at + width], width) for _, of, _, first in rows])
            position = np.stack([_padded(of[at : at + width], width, fill=0) for _, of, *_ in rows])
            blocks.append(self._block(index, position))
            placed.append(index.reshape(-1))
        empty = np.zeros(0, np.int64)  # rows that nobody reads have no queries in the last layer
        return RowSet(mx.array(np.maximum(keys, 0)), blocks), np.concatenate([*placed, empty]), keys.reshape(-1)

    def _block(self, index: NDArray[np.int64], position: NDArray[np.int64]) -> Block:
        real = index >= 0
        end = int(position[real].max()) + 1
        free = int(position[real].min()) + 1 if self._window is None else 0
        return Block(
            queries=mx.array(np.maximum(index, 0)),
            real=None if real.all() else mx.array(real[..., None, None].astype(np.float32)),
            free=free,
            end=end,
            mask=self._mask(np.arange(free, end), position, real) if end > free else None,
            prefix_mask=self._mask(np.arange(-self._prefix, 0), position, real) if self._window is not None and self._prefix else None,
        )

    def _mask(self, keys: NDArray[np.int64], position: NDArray[np.int64], real: NDArray[np.bool_]) -> mx.array:
        """Keys count from the row's first token; those of the prefix are negative. Where there is no query, everything is seen."""
        hidden = keys > position[..., None]
        if self._window is not None:
            hidden |= keys <= position[..., None] - self._window
        hidden &= real[..., None]
        if (hidden == hidden[:1]).all():
            hidden = hidden[:1]
        return mx.array(np.where(np.tile(hidden, (1, self._repeats, 1)), -np.inf, 0).astype(np.float32)[:, None])


class Tiles:
    """The computation over a layout's tiles, float32. Inside a tile: (rows, kv heads, repeats * queries, ...).

    `cap`: scores become cap * tanh(score / cap) (Gemma 2). `repeats`: heads of queries to one of keys.
    """

    def __init__(self, layout: Layout, scale: float, cap: float | None, repeats: int):
        self._layout, self._scale, self._cap, self._repeats = layout, scale, cap, repeats

    def forward(self, q: mx.array, k: mx.array, v: mx.array, *prefix: mx.array) -> tuple[mx.array, mx.array]:
        """Out (queries, heads, width) and lse (queries, heads, 1)."""
        outs: list[mx.array] = []
        logs: list[mx.array] = []
        for rows in self._layout.sets:
            own = _of_rows(k, rows.keys), _of_rows(v, rows.keys)
            for block in rows.blocks:
                query = self._folded(q, block) * self._scale
                scores = [self._scores(query, part)[0] for part in _parts(own, block, prefix)]
                top = largest([score.max(axis=-1, keepdims=True) for score in scores])
                weights = [exp_below(score, top) for score in scores]
                total = total_of([weight.sum(axis=-1, keepdims=True) for weight in weights])
                mixed = total_of([weight @ part[1] for weight, part in zip(weights, _parts(own, block, prefix), strict=True)])
                outs.append(self._unfolded(mixed / total, block))
                logs.append(self._unfolded(top + mx.log(total), block))
        back = self._layout.back_queries
        return mx.concatenate(outs)[back], mx.concatenate(logs)[back]

    def backward(self, primals: Sequence[mx.array], dout: mx.array, out: mx.array, lse: mx.array) -> list[mx.array]:
        """The cotangents of what `forward` was given, from that of its result."""
        q, k, v, *prefix = primals
        delta = (dout * out).sum(axis=-1, keepdims=True)
        dqs: list[mx.array] = []
        dks, dvs = [], []
        shared: list[list[mx.array]] = [[], []]
        for rows in self._layout.sets:
            own = _of_rows(k, rows.keys), _of_rows(v, rows.keys)
            dk: list[mx.array] = []
            dv: list[mx.array] = []
            for block in rows.blocks:
                query = self._folded(q, block) * self._scale
                upstream, log = self._folded(dout, block, zero=True), self._folded(lse, block)
                along = self._folded(delta, block, zero=True)
                pulled = [self._pull(query, part, upstream, log, along) for part in _parts(own, block, prefix)]
                dqs.append(self._unfolded(total_of([dq for dq, _, _ in pulled]) * self._scale, block))
                if prefix:
                    shared[0].append(pulled[0][1].sum(axis=0))
                    shared[1].append(pulled[0][2].sum(axis=0))
                mine = pulled[1:] if prefix else pulled
                dk.append(_to_length([part[1] for part in mine], rows.keys.shape[1]))
                dv.append(_to_length([part[2] for part in mine], rows.keys.shape[1]))
            dks.append(_flat(total_of(dk)))
            dvs.append(_flat(total_of(dv)))
        queries, tokens = self._layout.back_queries, self._layout.back_keys
        own_gradients = [mx.concatenate(dqs)[queries], mx.concatenate(dks)[tokens], mx.concatenate(dvs)[tokens]]
        return own_gradients + [total_of(parts) for parts in shared if parts]

    def _scores(self, query: mx.array, part: Part) -> tuple[mx.array, mx.array | None]:
        """And, where they are capped, the derivative of the cap."""
        keys, _, mask = part
        scores = query @ keys.swapaxes(-1, -2)
        slope = None
        if self._cap is not None:
            bent = mx.tanh(scores / self._cap)
            scores, slope = self._cap * bent, 1 - mx.square(bent)
        return (scores if mask is None else scores + mask), slope

    def _pull(self, query: mx.array, part: Part, upstream: mx.array, log: mx.array, along: mx.array) -> tuple[mx.array, mx.array, mx.array]:
        keys, values, _ = part
        scores, slope = self._scores(query, part)
        weights = exp_below(scores, log)
        dscores = weighted_gap(weights, upstream @ values.swapaxes(-1, -2), along)
        if slope is not None:
            dscores = dscores * slope
        return dscores @ keys, dscores.swapaxes(-1, -2) @ query, weights.swapaxes(-1, -2) @ upstream

    def _folded(self, packed: mx.array, block: Block, *, zero: bool = False) -> mx.array:
        """(n, heads, w) to (rows, kv heads, repeats * c, w): what shares a key head lies together. `zero`: nothing where no query is."""
        tile = packed[block.queries]
        if zero and block.real is not None:
            tile = tile * block.real
        rows, c, heads, width = tile.shape
        return tile.transpose(0, 2, 1, 3).reshape(rows, heads // self._repeats, self._repeats * c, width)

    def _unfolded(self, tile: mx.array, block: Block) -> mx.array:
        """(rows, kv heads, repeats * c, w) to (rows * c, heads, w)."""
        rows, kv_heads, _, width = tile.shape
        c = block.queries.shape[1]
        return tile.reshape(rows, kv_heads * self._repeats, c, width).transpose(0, 2, 1, 3).reshape(rows * c, -1, width)


def _parts(own: tuple[mx.array, mx.array], block: Block, prefix: Sequence[mx.array]) -> list[Part]:
    """The prefix first, where there is one."""
    keys, values = own
    parts: list[Part] = [(prefix[0][None], prefix[1][None], block.prefix_mask)] if prefix else []
    if block.free:
        parts.append((keys[:, :, : block.free], values[:, :, : block.free], None))
    if block.mask is not None:
        parts.append((keys[:, :, block.free : block.end], values[:, :, block.free : block.end], block.mask))
    return parts


def _of_rows(packed: mx.array, index: mx.array) -> mx.array:
    """(n, kv heads, w) to (rows, kv heads, longest, w), laid out so that a matmul reads it without another copy."""
    return mx.contiguous(packed[index].transpose(0, 2, 1, 3))


def _flat(tiles: mx.array) -> mx.array:
    """(rows, kv heads, longest, w) to (rows * longest, kv heads, w)."""
    return tiles.transpose(0, 2, 1, 3).reshape(-1, tiles.shape[1], tiles.shape[3])


def _to_length(parts: Sequence[mx.array], length: int) -> mx.array:
    """Parts along the keys, one after another, and zeros behind."""
    joined = mx.concatenate(list(parts), axis=2) if len(parts) > 1 else parts[0]
    return mx.pad(joined, [(0, 0), (0, 0), (0, length - joined.shape[2]), (0, 0)])


def _starts(sizes: Sequence[int]) -> NDArray[np.int64]:
    return np.concatenate([[0], np.cumsum(sizes)])[:-1]


def _padded(values: NDArray[np.int64] | Ids, length: int, *, fill: int = -1) -> NDArray[np.int64]:
    out = np.full(length, fill, np.int64)
    out[: len(values)] = values
    return out


def _inverse(placed: Sequence[NDArray[np.int64]]) -> mx.array:
    """For every packed index the slot that holds it."""
    slots = np.concatenate(placed)
    taken = np.flatnonzero(slots >= 0)
    back = np.empty(len(taken), np.int32)
    back[slots[taken]] = taken
    return mx.array(back)
