"""Attention of packed rows over a shared prefix and their own tokens: exact, the prefix never copied per row.

Row i's query at position t sees the whole prefix and the row's own tokens 0 ... t. With scores s = q·k * scale,

    out = sum_j exp(s_j - lse) v_j        lse = log sum_j exp(s_j)

is computed over two parts of the keys, each by a kernel that tells its log-sum-exp (`flash`), and merged:

    prefix    all queries of all rows together over the same keys
    own       row by row, causal

Backward keeps queries, keys, values, out and lse. A part's derivative needs the whole's out and lse alone, so each kernel is handed those
("FlashAttention", Dao et al., 2022; the same is done across devices by ring attention, Liu et al., 2023):

    dv_j = p dout     dp = dout·v_j     ds = p (dp - dout·out)     dq = ds k * scale     dk = ds q * scale       p = exp(s - lse)

Layout: tokens of all rows one after another, (n, heads, width); the prefix (kv heads, p, width); lse (heads, m) float32.
"""
# mypy: allow-subclassing-any

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd.function import once_differentiable

from mlx_distill.backends.rows.batch import Places
from mlx_distill.backends.torch.choice import kernel_of
from mlx_distill.backends.torch.flash import Kernel, Tails, heads_first
from mlx_distill.backends.torch.model import Layer
from mlx_distill.backends.torch.upload import uploaded


class Layout:
    """Which query sees what, worked out once for all layers. `read`: the queries are the read positions alone."""

    def __init__(self, places: Places, *, read: bool, device: torch.device):
        self.prefix, self.lengths, self.device = places.prefix, places.lengths, device
        self.starts: list[int] = places.starts.tolist()
        self.asked = places.read_at if read else None
        """Of each row the positions of its queries, ascending; None: every token."""
        counts = places.lengths if self.asked is None else [len(of) for of in self.asked]
        self.counts: list[int] = counts
        self.firsts: list[int] = (np.cumsum(counts) - counts).tolist()
        self._masks: dict[int | None, list[Tensor | None]] = {}
        self._prefix_masks: dict[int, Tensor] = {}
        self._tails: Tails | None = None

    def window(self, window: int | None) -> int | None:
        """None where it hides nothing."""
        return window if window is not None and self.prefix + max(self.lengths) > window else None

    def masks(self, window: int | None) -> list[Tensor | None]:
        """Of each row, (queries, keys) True where a query sees a key; None where it is plainly causal."""
        if window not in self._masks:
            masks = [self._mask(i, window) for i in range(len(self.lengths))]
            sent = iter(uploaded([mask for mask in masks if mask is not None], self.device))
            self._masks[window] = [None if mask is None else next(sent) for mask in masks]
        return self._masks[window]

    def _mask(self, i: int, window: int | None) -> NDArray[np.bool_] | None:
        if self.asked is None and window is None:
            return None
        at, keys = self._positions(i)[:, None], np.arange(self.lengths[i])
        seen: NDArray[np.bool_] = keys <= at
        if window is not None:
            seen &= keys > at - window
        return seen

    def prefix_mask(self, window: int | None) -> Tensor | None:
        """(m, p) of all queries; None where they all see all of it."""
        if window is None or not self.prefix:
            return None
        if window not in self._prefix_masks:
            at = self.prefix + np.concatenate([self._positions(i) for i in range(len(self.lengths))])
            (self._prefix_masks[window],) = uploaded([np.arange(self.prefix) > at[:, None] - window], self.device)
        return self._prefix_masks[window]

    def tails(self) -> Tails:
        """The same for a kernel that knows no other mask than the causal one."""
        if self._tails is None:
            self._tails = Tails(self.lengths, self.asked, self.device)
        return self._tails

    def _positions(self, i: int) -> np.ndarray:
        return np.arange(self.lengths[i]) if self.asked is None else self.asked[i]


def attended(q: Tensor, k: Tensor, v: Tensor, prefix: Sequence[Tensor], layout: Layout, layer: Layer) -> Tensor:
    """(m, heads, width) of queries (m, heads, width), keys and values (n, kv heads, width), and none or two of the prefix."""
    out: Tensor = _Attended.apply(q, k, v, *(prefix or (None, None)), layout, layer)
    return out


def merged(parts: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """Of (out (..., heads, m, width), lse (..., heads, m)) over parts of the keys, the out over all of them."""
    return _merged(parts)[0]


def _merged(parts: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    out, lse = parts[0]
    if len(parts) == 1:
        return out, lse
    total = torch.logsumexp(torch.stack([lse for _, lse in parts]), dim=0)
    summed = out.float() * (lse - total).exp_()[..., None]
    for more, of in parts[1:]:
        summed.addcmul_(more.float(), (of - total).exp_()[..., None])
    return summed.to(out.dtype), total


class _Attended(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, prefix_k: Tensor | None, prefix_v: Tensor | None, layout: Layout, layer: Layer
    ) -> Tensor:
        window = layout.window(layer.window)
        kernel = kernel_of(q, cap=layer.cap, scale=layer.scale, masked=window is not None)
        parts = [kernel.own(q, k, v, layout, window)]
        if prefix_k is not None and prefix_v is not None:
            parts.append(kernel.over(heads_first(q), prefix_k, prefix_v, layout.prefix_mask(window)))
        out, lse = _merged(parts)
        ctx.save_for_backward(q, k, v, prefix_k, prefix_v, out, lse)
        ctx.kernel, ctx.layout, ctx.window = kernel, layout, window
        return out.transpose(0, 1)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, prefix_k, prefix_v, out, lse = ctx.saved_tensors
        kernel: Kernel = ctx.kernel
        dout = heads_first(upstream)
        dq, dk, dv = kernel.own_back(dout, q, k, v, out, lse, ctx.layout, ctx.window)
        if prefix_k is None:
            return dq, dk, dv, None, None, None, None
        more, prefix_dk, prefix_dv = kernel.back(dout, heads_first(q), prefix_k, prefix_v, out, lse, ctx.layout.prefix_mask(ctx.window))
        return dq + more.transpose(0, 1), dk, dv, prefix_dk, prefix_dv, None, None
