"""The functions between the matmuls, for autograd: of each the inputs alone are kept, and its derivative is written out (`kernels`).

Autograd would keep every intermediate result. It knows nothing of models.
"""
# mypy: allow-subclassing-any

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from mlx_distill.backends.torch.kernels import elementwise as kernels

Grads = tuple[Tensor | None, ...]


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x / rms(x) * weight over the last axis (Zhang and Sennrich, 2019)."""
    out: Tensor = _RmsNorm.apply(x, weight, eps)
    return out


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) * up"""
    out: Tensor = _Gated.apply(gate, up, False)
    return out


def geglu(gate: Tensor, up: Tensor) -> Tensor:
    """gelu(gate) * up, the tanh form"""
    out: Tensor = _Gated.apply(gate, up, True)
    return out


def turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding of (n, heads, width) by (n, 1, turned / 2) cosines and sines; what lies beyond `turned` stays."""
    out: Tensor = _Turned.apply(x, cos, sin)
    return out


class _RmsNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.eps = eps
        return kernels.rms_norm(x, weight, eps)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, upstream: Tensor) -> Grads:
        x, weight = ctx.saved_tensors
        dx = kernels.rms_norm_pull(x, weight, ctx.eps, upstream) if ctx.needs_input_grad[0] else None
        if not ctx.needs_input_grad[1]:
            return dx, None, None
        wide = x.float()
        normed = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + ctx.eps)
        return dx, (upstream.float() * normed).reshape(-1, x.shape[-1]).sum(0).to(weight.dtype), None


class _Gated(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor, gelu: bool) -> Tensor:
        ctx.save_for_backward(gate, up)
        ctx.gelu = gelu
        return kernels.gated(gate, up, gelu)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, upstream: Tensor) -> Grads:
        gate, up = ctx.saved_tensors
        return *kernels.gated_pull(gate, up, ctx.gelu, upstream), None


class _Turned(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return kernels.turned(x, cos, sin)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, upstream: Tensor) -> Grads:
        cos, sin = ctx.saved_tensors
        return kernels.turned(upstream, cos, sin, back=True), None, None
