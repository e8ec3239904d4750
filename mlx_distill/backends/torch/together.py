"""Rows that go on, of all cohorts together: on a GPU, by the kernels of `kernels.ragged`, once these have been right there.

They are proved against plain PyTorch, on a few rows of heads like the model's, the first time that they are asked for. Where they fail to
compile, to run or to agree, cohorts are computed one after another (`mixed`), and `kernels.notes` says so.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mlx_distill.backends.rows.asked import Asked
from mlx_distill.backends.torch.choice import native, over
from mlx_distill.backends.torch.kernels import proof
from mlx_distill.backends.torch.kernels.routes import has_kernels
from mlx_distill.backends.torch.model import Layer, Model
from mlx_distill.backends.torch.pieces import TOGETHER, Pieces

ALIGNED = 8
"""Heads are as wide as a multiple of this, so that every key begins where 16 bytes can be loaded at once."""
CLOSE = 3e-2
"""Of 16-bit numbers, relative to the largest, as in `flash`; of float32 a thousandth of it."""
Cohorts = Sequence[tuple[slice, slice, Asked[Tensor]]]


class Together:
    """`cohorts`: each with the places of its queries, and of its new tokens."""

    def __init__(self, model: Model, cohorts: Cohorts):
        layer = model.layers[0]
        asked = [(queries.start, new.start, each) for queries, new, each in cohorts]
        repeats = layer.heads // layer.kv_heads
        self._pieces = Pieces(asked, kv_heads=layer.kv_heads, width=layer.width, size=model.dtype.itemsize, repeats=repeats)

    def arrays(self) -> list[NDArray[Any]]:
        return [self._pieces.table, self._pieces.seen]

    def land(self, sent: Iterator[Tensor]) -> None:
        self._table, self._seen = next(sent), next(sent).view(torch.uint8)

    def attended(self, i: int, layer: Layer, q: Tensor, k: Tensor, v: Tensor, shared: tuple[Tensor, Tensor] | None) -> Tensor:
        from mlx_distill.backends.torch.kernels.ragged import attended

        return attended(i, layer, q, k, v, shared, self._table, self._seen, slots=self._pieces.slots, most=self._pieces.most)


def runs_together(model: Model) -> bool:
    layer = model.layers[0]
    if not has_kernels(model.device) or not native(model.device) or layer.width % ALIGNED:
        return False  # for older cards Triton has no matmuls
    return proved(model.device, model.dtype, layer.heads, layer.kv_heads, layer.width, layer.cap)


@cache
def proved(device: torch.device, dtype: torch.dtype, heads: int, kv_heads: int, width: int, cap: float | None) -> bool:
    layer = Layer(None, heads, kv_heads, width, width**-0.5, cap, None)
    limit = CLOSE if dtype.itemsize == 2 else CLOSE / 1000

    def wrong() -> str | None:
        worst = max(difference(layer, device, dtype, queries) for queries in (1, max(2, TOGETHER // (heads // kv_heads))))
        return f"it differs by {worst:.1e}" if worst > limit else None

    return proof.holds(f"the kernel for rows that go on (without it they are computed cohort by cohort), on {proof.called(device)},", wrong)


def difference(layer: Layer, device: torch.device, dtype: torch.dtype, queries: int) -> float:
    """Of what the kernels give from float32 by plain PyTorch, relative to the largest: a row over two pieces, of which one has a hole, and
    the shared prefix."""
    from mlx_distill.backends.torch.kernels.ragged import attended

    draw = torch.Generator().manual_seed(queries)
    sizes = [(queries, layer.heads), (2, layer.kv_heads, 75), (2, layer.kv_heads, 9), (2, layer.kv_heads, 5)]
    q, *parts = (torch.randn((*size, layer.width), generator=draw).to(device, dtype) for size in sizes)
    seen = torch.ones((queries, 75), dtype=torch.bool)
    seen[:, 40:70] = torch.arange(30) % 3 > 0
    table = np.array([_entry(queries, parts[0], (0, 75), 0), _entry(queries, parts[1], (-1, 0), 1)])
    first, lse = over(q.transpose(0, 1)[None], *(x[None] for x in parts[2]), scale=layer.scale, cap=layer.cap)
    shared = first[0].transpose(0, 1), lse[0].T
    flat = seen.view(torch.uint8).reshape(-1).to(device)
    new = q[:, : layer.kv_heads]
    out = attended(0, layer, q, new, new, shared, torch.from_numpy(table).to(device), flat, slots=2, most=queries)
    keys, values = (torch.cat([part[j] for part in parts], dim=1).float()[None] for j in (0, 1))
    shown = torch.cat([seen, torch.ones((queries, 14), dtype=torch.bool)], dim=1).to(device)
    wanted = over(q.float().transpose(0, 1)[None], keys, values, scale=layer.scale, mask=shown[None, None], cap=layer.cap)[0][0].transpose(
        0, 1
    )
    return float((out.float() - wanted).abs().max() / wanted.abs().max())


def _entry(queries: int, part: Tensor, mask: tuple[int, int], slot: int) -> list[int]:
    """Of `pieces`: all of a stretch's only row. part (2, kv heads, n, width)."""
    n, width = part.shape[2:]
    return [0, queries, part.data_ptr(), part.stride(0) * part.element_size(), n, width, n * width, *mask, slot]
