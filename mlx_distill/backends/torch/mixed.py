"""One forward of rows at different places: some bring whole prompts, others a few tokens behind what they have.

All their tokens lie one after another, (n, hidden), so that no linear layer sees padding and the weights are read once. New rows attend as
in training (`attention`). The queries of rows that go on ask

    the prefix           all of them together, (heads, queries, width): it is never copied per row
    each stretch         of their cohort, row by row
    the new tokens       row by row, causal

and the parts are merged by their log-sum-exps; on a GPU the last two are done for all cohorts at once (`together`). Among the new tokens
of a row some may stand aside: they see the row, and their own branch, and nothing that follows sees them. They are read, and not kept.

Which rows and queries are computed together is worked out in NumPy (`backends.rows.asked`) and sent to the device once a forward.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mlx_distill.backends.rows.asked import Asked
from mlx_distill.backends.rows.batch import Places
from mlx_distill.backends.rows.growth import Growth
from mlx_distill.backends.rows.within import require_within
from mlx_distill.backends.torch.attention import Layout, attended, merged
from mlx_distill.backends.torch.choice import kernel_of, over
from mlx_distill.backends.torch.flash import tile
from mlx_distill.backends.torch.model import Layer, Model
from mlx_distill.backends.torch.together import Together, runs_together
from mlx_distill.backends.torch.upload import uploaded

Part = tuple[Tensor, Tensor]
"""What queries have of some keys: out (..., width) and lse (...)."""


class Mixed:
    """A forward's rows, as the decoder takes them: those that go on, then the new ones, each cohort a growth."""

    def __init__(self, model: Model, growths: Sequence[Growth[Tensor]], prefix: int):
        going, fresh = ([growth for growth in growths if growth.fresh == is_fresh] for is_fresh in (False, True))
        assert [*going, *fresh] == list(growths), "new rows stand behind those that go on"
        self._tokens = going[-1].tokens.stop if going else 0
        self._reads = going[-1].reads.stop if going else 0
        whole = [
            np.concatenate([each.ids for growth in growths for each in growth.additions.values()]),
            np.concatenate([growth.positions for growth in growths]).astype(np.int32),
            np.concatenate([growth.read() for growth in growths]),
        ]
        require_within(model.longest, int(whole[1].max()) + 1)
        ways = dict.fromkeys((layer is model.layers[-1], layer.window) for layer in model.layers) if going else {}
        asked = {way: _Going(model, going, read=way[0], window=way[1], prefix=prefix) for way in ways}
        sent = iter(uploaded([*whole, *(array for each in asked.values() for array in each.arrays())], model.device))
        self.tokens, self.positions, self.read = next(sent), next(sent), next(sent)
        self._going = {way: each.landed(sent) for way, each in asked.items()}
        self._layouts = {read: _layout(fresh, prefix, read, model.device) for read in (False, True)} if fresh else {}

    def attended(
        self, i: int, layer: Layer, queries: Tensor, keys: Tensor, values: Tensor, prefix: Sequence[Tensor], *, read: bool
    ) -> Tensor:
        m, n = self._reads if read else self._tokens, self._tokens
        parts: list[Tensor] = []
        if m:
            parts.append(self._going[read, layer.window].attended(i, layer, queries[:m], keys[:n], values[:n], prefix))
        if m < len(queries):
            parts.append(attended(queries[m:], keys[n:], values[n:], prefix, self._layouts[read], layer))
        return parts[0] if len(parts) == 1 else torch.cat(parts)


def _layout(growths: Sequence[Growth[Tensor]], prefix: int, read: bool, device: torch.device) -> Layout:
    rows = [each for growth in growths for each in growth.additions.values()]
    places = Places([each.ids for each in rows], [np.asarray(each.read, np.int32) for each in rows], prefix)
    return Layout(places, read=read, device=device)


class _Going:
    """All rows that go on, in layers that attend alike."""

    def __init__(self, model: Model, growths: Sequence[Growth[Tensor]], *, read: bool, window: int | None, prefix: int):
        cohorts = [
            (growth.reads if read else growth.tokens, growth.tokens, Asked(growth, read=read, window=window, prefix=prefix))
            for growth in growths
            if growth.reads.stop > growth.reads.start or not read
        ]
        masks = [each.prefix_mask for _, _, each in cohorts]
        self._masks = [np.concatenate([_of_queries(each, prefix) for _, _, each in cohorts])] if any(m is not None for m in masks) else []
        self._mask: Tensor | None = None
        self._own: Together | _Apart = Together(model, cohorts) if runs_together(model) else _Apart(cohorts)

    def arrays(self) -> list[NDArray[Any]]:
        """What is needed on the device."""
        return [*self._masks, *self._own.arrays()]

    def landed(self, sent: Iterator[Tensor]) -> _Going:
        """What `arrays` said, in its order."""
        self._mask = next(sent) if self._masks else None
        self._own.land(sent)
        return self

    def attended(self, i: int, layer: Layer, q: Tensor, k: Tensor, v: Tensor, prefix: Sequence[Tensor]) -> Tensor:
        """(m, heads, width) of queries (m, heads, width); keys and values (n, kv heads, width) of their rows' new tokens."""
        shared: tuple[Tensor, Tensor] | None = None
        if prefix:
            kernel = kernel_of(q, cap=layer.cap, scale=layer.scale, masked=self._mask is not None)
            out, lse = kernel.over(q.transpose(0, 1), prefix[0], prefix[1], self._mask)
            shared = out.transpose(0, 1), lse.transpose(0, 1)
        return self._own.attended(i, layer, q, k, v, shared)


def _of_queries(asked: Asked[Tensor], prefix: int) -> NDArray[np.bool_]:
    """(m, p): which tokens of the prefix each query sees, one query after another."""
    mask = asked.prefix_mask
    return np.ones((len(asked.back), prefix), bool) if mask is None else mask.reshape(-1, prefix)[asked.back]


class _Apart:
    """One cohort after another, one part of its keys after another."""

    def __init__(self, cohorts: Sequence[tuple[slice, slice, Asked[Tensor]]]):
        self._cohorts = [(asked, new, _Queries(each)) for asked, new, each in cohorts]

    def arrays(self) -> list[NDArray[Any]]:
        return [array for _, _, each in self._cohorts for array in each.arrays()]

    def land(self, sent: Iterator[Tensor]) -> None:
        for _, _, each in self._cohorts:
            each.land(sent)

    def attended(self, i: int, layer: Layer, q: Tensor, k: Tensor, v: Tensor, shared: Part | None) -> Tensor:
        """`shared`: of the prefix, out (m, heads, width) and lse (m, heads)."""
        outs = [
            each.attended(i, layer, q[asked], k[new], v[new], None if shared is None else (shared[0][asked], shared[1][asked]))
            for asked, new, each in self._cohorts
        ]
        return outs[0] if len(outs) == 1 else torch.cat(outs)


class _Queries:
    """The queries of a cohort, over all that they see, some rows and some queries at a time."""

    def __init__(self, asked: Asked[Tensor]):
        self.asked = asked
        self._alone = asked.c == 1 and len(asked.back) == asked.rows
        """Every row asks once: nothing is to be put into place."""
        self._masks: list[Tensor | None] = []

    def arrays(self) -> list[NDArray[Any]]:
        asked = self.asked
        return [asked.index, asked.back, asked.new, *(mask for mask in self._all_masks() if mask is not None)]

    def land(self, sent: Iterator[Tensor]) -> None:
        self._index, self._back, self._new = next(sent), next(sent), next(sent)
        self._masks = [None if mask is None else next(sent) for mask in self._all_masks()]

    def _all_masks(self) -> list[NDArray[np.bool_] | None]:
        """Of the stretches, and of the new tokens; None where all is seen."""
        new = self.asked.new_mask
        return [*self.asked.stretch_masks, None if new.all() else new]

    def attended(self, i: int, layer: Layer, q: Tensor, k: Tensor, v: Tensor, shared: Part | None) -> Tensor:
        asked = self.asked
        tiled = self._tiled(q)
        first = [] if shared is None else [(self._tiled(shared[0]), self._tiled(shared[1]))]
        stretches = [(stretch.layers[2 * i], stretch.layers[2 * i + 1]) for stretch in asked.cohort.stretches]
        keys = [*stretches, (k[self._new].transpose(1, 2), v[self._new].transpose(1, 2))]
        out: list[Tensor] = []
        size = tile(q.device)
        for rows in asked.row_blocks(size, layer.heads):
            columns = []
            for some in asked.query_blocks(size, layer.heads, rows):
                before = [(out[rows, :, some], lse[rows, :, some]) for out, lse in first]
                parts = [self._part(tiled, rows, some, each, mask, layer) for each, mask in zip(keys, self._masks, strict=True)]
                columns.append(merged([*before, *parts]))
            out.append(columns[0] if len(columns) == 1 else torch.cat(columns, dim=2))
        whole = (out[0] if len(out) == 1 else torch.cat(out)).transpose(1, 2).flatten(0, 1)
        return whole if self._alone else whole[self._back]

    def _tiled(self, x: Tensor) -> Tensor:
        """(m, heads, ...) of the queries to (rows, heads, c, ...)."""
        return x.unsqueeze(2) if self._alone else x[self._index].transpose(1, 2)

    def _part(self, q: Tensor, rows: slice, some: slice, keys: tuple[Tensor, Tensor], mask: Tensor | None, layer: Layer) -> Part:
        """Some queries over keys (r, kv heads, n, width), of which one row may stand for several neighbours."""
        fan = self.asked.rows // keys[0].shape[0]
        own = slice(rows.start // fan, rows.stop // fan)
        query = q[rows, :, some]
        if mask is not None and mask.shape[0] == self.asked.rows and (fan > 1 or mask.shape[1] > 1):
            mask = mask[rows, some].reshape(own.stop - own.start, 1, -1, mask.shape[-1])
        elif mask is not None:
            mask = mask[own, None]
        out, lse = over(_folded(query, fan), keys[0][own], keys[1][own], scale=layer.scale, mask=mask, cap=layer.cap)
        return _unfolded(out, fan), _unfolded(lse, fan)


def _folded(x: Tensor, fan: int) -> Tensor:
    """(r * fan, heads, c, ...) to (r, heads, fan * c, ...): neighbours that see the same keys ask together."""
    return x if fan == 1 else x.unflatten(0, (-1, fan)).transpose(1, 2).flatten(2, 3)


def _unfolded(x: Tensor, fan: int) -> Tensor:
    """The way back."""
    return x if fan == 1 else x.unflatten(2, (fan, -1)).transpose(1, 2).flatten(0, 1)
