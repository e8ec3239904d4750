"""Norms, gates and the rotary embedding with their way back, without autograd: a kernel where one is proved, else plain PyTorch.

Forward and back keep nothing for each other but the inputs. Everything is float32 inside, and rounded once.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

from mlx_distill.backends.torch.kernels import proof

NAMES = ("rms_norm", "rms_norm_pull", "gated", "gated_pull", "turned")


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x / rms(x) * weight over the last axis (Zhang and Sennrich, 2019)."""
    out: Tensor = _way("rms_norm", x)(x, weight, eps)
    return out


def rms_norm_pull(x: Tensor, weight: Tensor, eps: float, upstream: Tensor) -> Tensor:
    """The cotangent of x; a weight's is not needed where it is frozen."""
    out: Tensor = _way("rms_norm_pull", x)(x, weight, eps, upstream)
    return out


def gated(gate: Tensor, up: Tensor, gelu: bool) -> Tensor:
    """silu(gate) * up, or gelu(gate) * up (the tanh form)."""
    out: Tensor = _way("gated", gate)(gate, up, gelu)
    return out


def gated_pull(gate: Tensor, up: Tensor, gelu: bool, upstream: Tensor) -> tuple[Tensor, Tensor]:
    """The cotangents of both."""
    out: tuple[Tensor, Tensor] = _way("gated_pull", gate)(gate, up, gelu, upstream)
    return out


def turned(x: Tensor, cos: Tensor, sin: Tensor, back: bool = False) -> Tensor:
    """Rotary embedding of (n, heads, width) by (n, 1, half) cosines and sines, or its way back; what lies beyond both halves stays."""
    out: Tensor = _way("turned", x)(x, cos, sin, back)
    return out


def _plain_rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    wide = x.float()
    return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)).mul_(weight.float()).to(x.dtype)


def _plain_rms_norm_pull(x: Tensor, weight: Tensor, eps: float, upstream: Tensor) -> Tensor:
    wide, pulled = x.float(), upstream.float() * weight.float()
    inverse = torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
    along = (pulled * wide).mean(-1, keepdim=True) * inverse.square()
    return (pulled - wide * along).mul_(inverse).to(x.dtype)


def _plain_gated(gate: Tensor, up: Tensor, gelu: bool) -> Tensor:
    return _activated(gate.float(), gelu).mul_(up).to(gate.dtype)


def _plain_gated_pull(gate: Tensor, up: Tensor, gelu: bool, upstream: Tensor) -> tuple[Tensor, Tensor]:
    wide, pulled = gate.float(), upstream.float() * up
    aten: Any = torch.ops.aten
    dgate = aten.gelu_backward(pulled, wide, approximate="tanh") if gelu else aten.silu_backward(pulled, wide)
    return dgate.to(gate.dtype), _activated(wide, gelu).mul_(upstream).to(up.dtype)


def _activated(wide: Tensor, gelu: bool) -> Tensor:
    return torch.nn.functional.gelu(wide, approximate="tanh") if gelu else torch.nn.functional.silu(wide)


def _plain_turned(x: Tensor, cos: Tensor, sin: Tensor, back: bool) -> Tensor:
    half, sin = cos.shape[-1], -sin if back else sin
    first, second = x[..., :half].float(), x[..., half : 2 * half].float()
    return torch.cat([(first * cos - second * sin).to(x.dtype), (second * cos + first * sin).to(x.dtype), x[..., 2 * half :]], -1)


def _way(name: str, x: Tensor) -> Callable[..., Any]:
    from mlx_distill.backends.torch.kernels import routes

    if routes.has_kernels(x.device) and x.numel() and _proved(name, x.dtype, x.device):
        return routes.on_its_device(_kernel(name), x.device)
    return plain(name)


def plain(name: str) -> Callable[..., Any]:
    """The reference: `rms_norm` and so on, in plain PyTorch."""
    return globals()[f"_plain_{name}"]  # type: ignore[no-any-return]


def _kernel(name: str) -> Callable[..., Any]:
    from mlx_distill.backends.torch.kernels import passes

    return getattr(passes, name)  # type: ignore[no-any-return]


@cache
def _proved(name: str, dtype: torch.dtype, device: torch.device) -> bool:
    kind = str(dtype).removeprefix("torch.")
    return proof.holds(f"the kernel {name} for {kind} on {proof.called(device)}", lambda: _difference(name, dtype, device))


def _difference(name: str, dtype: torch.dtype, device: torch.device) -> str | None:
    """Ragged shapes, and two units in the last place, in float32 a few more: exp and sums are not rounded alike."""
    unit = max(torch.finfo(dtype).eps, 1e-5)
    for arguments in cases(name, dtype, device):
        got, wanted = ([*out] if isinstance(out, tuple) else [out] for out in (_kernel(name)(*arguments), plain(name)(*arguments)))
        for one, other in zip(got, wanted, strict=True):
            if not torch.allclose(one.float(), other.float(), rtol=2 * unit, atol=unit):
                return f"it differs by up to {float((one.float() - other.float()).abs().max()):.3g}"
    return None


def cases(name: str, dtype: torch.dtype, device: torch.device) -> list[tuple[Any, ...]]:
    """Arguments to prove a kernel with."""
    draw = torch.Generator().manual_seed(0)

    def some(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw).to(device, dtype)

    if name.startswith("rms_norm"):
        return [(some(3, width), some(width), 1e-6, *([some(3, width)] if name.endswith("pull") else [])) for width in (77, 1536)]
    if name.startswith("gated"):
        pulled = [some(7, 300)] if name.endswith("pull") else []
        return [(some(7, 300), some(7, 300), gelu, *pulled) for gelu in (False, True)]
    angles = torch.randn(5, 1, 12, generator=draw).to(device)
    return [(some(5, heads, width), angles.cos(), angles.sin(), back) for heads, width in ((9, 24), (2, 40)) for back in (False, True)]
