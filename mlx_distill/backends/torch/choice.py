"""Which kernel of attention computes here: PyTorch's flash attention where it has been right on this very device, else plain matmuls."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from mlx_distill.backends.torch.flash import AMPERE, FLASH_WIDTH, CpuFlash, CudaFlash, Kernel, Plain, additive, aten, heads_first
from mlx_distill.backends.torch.kernels import proof
from mlx_distill.backends.torch.wide import product

if TYPE_CHECKING:
    from mlx_distill.backends.torch.attention import Layout


def kernel_of(q: Tensor, *, cap: float | None, scale: float, masked: bool) -> Kernel:
    """For queries of this kind. `masked`: a window hides something."""
    flash = flash_for(q.device, q.dtype, q.shape[-1])
    if flash is None or cap is not None or (masked and flash is CudaFlash):
        return Plain(scale, cap)
    return flash(scale)


def flash_for(device: torch.device, dtype: torch.dtype, width: int) -> type[Kernel] | None:
    """The kernel for heads of that width. None: no other than plain matmuls."""
    if device.type == "cpu":
        return CpuFlash if dtype == torch.float32 and _proved(CpuFlash, device, dtype) else None
    fits = dtype in (torch.float16, torch.bfloat16) and width <= FLASH_WIDTH and width % 8 == 0 and native(device)
    return CudaFlash if fits and _proved(CudaFlash, device, dtype, width) else None


@cache
def native(device: torch.device) -> bool:
    """Whether a CUDA device has the tensor cores that FlashAttention, and Triton's matmuls, are written for."""
    return bool(torch.cuda.get_device_capability(device) >= AMPERE)


def over(q: Tensor, k: Tensor, v: Tensor, *, scale: float, mask: Tensor | None = None, cap: float | None = None) -> tuple[Tensor, Tensor]:
    """Many rows at once: queries (r, h, m, w) over keys and values (r, g, e, w). out like q, lse (r, h, m) float32. No gradient.

    `mask`: True where a query sees a key, broadcastable to (r, 1, m, e); a query that sees nothing gets 0 and -inf.
    """
    if cap is None and flash_for(q.device, q.dtype, q.shape[-1]) is CpuFlash:
        out, lse = aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, 0.0, False, attn_mask=additive(mask, q), scale=scale)
        if mask is not None:
            lse = lse.masked_fill(~mask.any(-1), -torch.inf)
        return out, lse
    r, h, m, w = q.shape
    g, e = k.shape[1:3]
    scores = product(q.reshape(r * g, -1, w), k.reshape(r * g, e, w).mT).mul_(scale).view(r, h, m, e)
    if cap is not None:
        scores = scores.div_(cap).tanh_().mul_(cap)
    if mask is not None:
        scores.masked_fill_(~mask, -torch.inf)
    lse = scores.logsumexp(-1)
    weights = scores.sub_(lse.clamp_min(torch.finfo(torch.float32).min)[..., None]).exp_()
    out = product(weights.view(r * g, -1, e).to(v.dtype), v.reshape(r * g, e, w))
    return out.view(r, h, m, w).to(q.dtype), lse


@cache
def _proved(kernel: type[Kernel], device: torch.device, dtype: torch.dtype, width: int = 16) -> bool:
    """Whether it gives what `Plain` gives in float32, for heads of that width: for each it is another kernel."""
    scale, limit = width**-0.5, 1e-5 if dtype == torch.float32 else 3e-2

    def difference() -> str | None:
        worst = max(_differences(kernel(scale), Plain(scale), device, dtype, width))
        return f"it differs by {worst:.1e}" if worst > limit else None

    return proof.holds(f"{kernel.__name__}, attention for heads of {width}, on {proof.called(device)},", difference)


def _differences(kernel: Kernel, plain: Kernel, device: torch.device, dtype: torch.dtype, width: int) -> list[float]:
    """Of what they compute over a few rows, forward and back, relative to the largest number."""
    from mlx_distill.backends.rows.batch import Places
    from mlx_distill.backends.torch.attention import Layout

    draw = torch.Generator().manual_seed(0)
    rows = [np.zeros(n, np.int32) for n in (5, 37, 130)]
    found: list[float] = []
    for read in (None, ([4], [3, 30, 36], [0, 60]), ([4], [36], [129])):  # one query of each row is a way of its own in FlashAttention
        places = Places(rows, [np.array(of, np.int32) for of in read or ([], [], [])], 19)
        layout = Layout(places, read=read is not None, device=device)
        asking = (sum(layout.counts), 4, width)
        sizes = [asking, (172, 2, width), (172, 2, width), (2, 19, width), (2, 19, width), asking]
        q, k, v, pk, pv, dout = (torch.randn(size, generator=draw).to(device, dtype) for size in sizes)
        results = []
        for each in (kernel, plain):
            given = [x if each is kernel else x.float() for x in (q, k, v, pk, pv, heads_first(dout))]
            results.append(_both_ways(each, given, layout))
        found += [float((a.float() - b).abs().max() / b.abs().max()) for a, b in zip(*results, strict=True)]
    return found


def _both_ways(kernel: Kernel, given: Sequence[Tensor], layout: Layout) -> list[Tensor]:
    q, k, v, prefix_k, prefix_v, dout = given
    out, lse = kernel.own(q, k, v, layout, None)
    first, of = kernel.over(heads_first(q), prefix_k, prefix_v, None)
    alone = kernel.over(heads_first(q[:1]), prefix_k, prefix_v, None)
    pulled = kernel.own_back(dout, q, k, v, out, lse, layout, None)
    return [out, lse, first, of, *alone, *pulled, *kernel.back(dout, heads_first(q), prefix_k, prefix_v, first, of, None)]
