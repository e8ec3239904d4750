"""What stands between matmuls, in one pass over memory each and float32 inside: norms, gates, the rotary embedding, and their way back."""
# mypy: disable-error-code="import-untyped, no-untyped-def, untyped-decorator, no-untyped-call, no-any-return, misc, no-any-unimported"

import torch
import triton
import triton.language as tl
from torch import Tensor

from mlx_distill.backends.torch.kernels.codes import plus

BLOCK = 1024
"""Numbers of one program of a gate."""
HEADS = 8
"""Heads that one program turns."""
FUSED = {"enable_fp_fusion": True}
"""A product and the sum that it goes into are rounded once. Triton's default is to change (3.9 says so, aloud)."""


@triton.jit
def _norm(out, x, weight, eps, width, WIDTH: tl.constexpr):
    """A row (width,) of x."""
    at, row = tl.arange(0, WIDTH), tl.program_id(0).to(tl.int64) * width
    inside = at < width
    value = tl.load(x + row + at, mask=inside, other=0.0).to(tl.float32)
    scale = tl.load(weight + at, mask=inside, other=0.0).to(tl.float32)
    inverse = 1.0 / tl.sqrt(tl.reduce(value * value, 0, plus) / width + eps)
    tl.store(out + row + at, (value * inverse * scale).to(out.dtype.element_ty), mask=inside)


@triton.jit
def _norm_pull(dx, x, weight, upstream, eps, width, WIDTH: tl.constexpr):
    at, row = tl.arange(0, WIDTH), tl.program_id(0).to(tl.int64) * width
    inside = at < width
    value = tl.load(x + row + at, mask=inside, other=0.0).to(tl.float32)
    scale = tl.load(weight + at, mask=inside, other=0.0).to(tl.float32)
    pulled = tl.load(upstream + row + at, mask=inside, other=0.0).to(tl.float32) * scale
    inverse = 1.0 / tl.sqrt(tl.reduce(value * value, 0, plus) / width + eps)
    along = tl.reduce(pulled * value, 0, plus) / width * inverse * inverse
    tl.store(dx + row + at, ((pulled - value * along) * inverse).to(dx.dtype.element_ty), mask=inside)


@triton.jit
def _share(gate, GELU: tl.constexpr):
    """The sigmoid that gate is multiplied with, and the slope of what is inside: gelu's tanh form is x sigmoid(2 u)."""
    inside, slope = gate, gate * 0.0 + 1.0
    if GELU:
        inside = 1.5957691216057308 * gate * (1.0 + 0.044715 * gate * gate)
        slope = 1.5957691216057308 * (1.0 + 0.134145 * gate * gate)
    return 1.0 / (1.0 + tl.exp(-inside)), slope


@triton.jit
def _gate(out, gate, up, size, GELU: tl.constexpr, BLOCK: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    value = tl.load(gate + at, mask=at < size, other=0.0).to(tl.float32)
    share, _ = _share(value, GELU)
    product = value * share * tl.load(up + at, mask=at < size, other=0.0).to(tl.float32)
    tl.store(out + at, product.to(out.dtype.element_ty), mask=at < size)


@triton.jit
def _gate_pull(dgate, dup, gate, up, upstream, size, GELU: tl.constexpr, BLOCK: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    value = tl.load(gate + at, mask=at < size, other=0.0).to(tl.float32)
    other = tl.load(up + at, mask=at < size, other=0.0).to(tl.float32)
    pulled = tl.load(upstream + at, mask=at < size, other=0.0).to(tl.float32)
    share, slope = _share(value, GELU)
    by_gate = pulled * other * share * (1.0 + value * (1.0 - share) * slope)
    tl.store(dgate + at, by_gate.to(dgate.dtype.element_ty), mask=at < size)
    tl.store(dup + at, (pulled * value * share).to(dup.dtype.element_ty), mask=at < size)


@triton.jit(do_not_specialize=["heads"])
def _turn(out, x, cos, sin, sign, heads, width, half, HEADS: tl.constexpr, HALF: tl.constexpr, WIDTH: tl.constexpr):
    """Some heads of one token: pairs (i, i + half) by their angles; what lies beyond both halves is copied."""
    token = tl.program_id(0).to(tl.int64)
    head, pair, at = tl.program_id(1) * HEADS + tl.arange(0, HEADS), tl.arange(0, HALF), tl.arange(0, WIDTH)
    c = tl.load(cos + token * half + pair, mask=pair < half, other=0.0).to(tl.float32)[None, :]
    s = tl.load(sin + token * half + pair, mask=pair < half, other=0.0).to(tl.float32)[None, :] * sign
    start = (token * heads + head)[:, None] * width
    inside = (head < heads)[:, None] & (pair < half)[None, :]
    first = tl.load(x + start + pair[None, :], mask=inside, other=0.0).to(tl.float32)
    second = tl.load(x + start + half + pair[None, :], mask=inside, other=0.0).to(tl.float32)
    tl.store(out + start + pair[None, :], (first * c - second * s).to(out.dtype.element_ty), mask=inside)
    tl.store(out + start + half + pair[None, :], (second * c + first * s).to(out.dtype.element_ty), mask=inside)
    beyond = (head < heads)[:, None] & ((at >= 2 * half) & (at < width))[None, :]
    tl.store(out + start + at[None, :], tl.load(x + start + at[None, :], mask=beyond, other=0.0), mask=beyond)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    x, width = x.contiguous(), x.shape[-1]
    out = torch.empty_like(x)
    _norm[(x.numel() // width,)](out, x, weight, eps, width, WIDTH=triton.next_power_of_2(width), num_warps=_warps(width), **FUSED)
    return out


def rms_norm_pull(x: Tensor, weight: Tensor, eps: float, upstream: Tensor) -> Tensor:
    x, width = x.contiguous(), x.shape[-1]
    dx, wide = torch.empty_like(x), triton.next_power_of_2(width)
    _norm_pull[(x.numel() // width,)](dx, x, weight, upstream.contiguous(), eps, width, WIDTH=wide, num_warps=_warps(width), **FUSED)
    return dx


def gated(gate: Tensor, up: Tensor, gelu: bool) -> Tensor:
    gate, up = gate.contiguous(), up.contiguous()
    out = torch.empty_like(gate)
    _gate[(triton.cdiv(gate.numel(), BLOCK),)](out, gate, up, gate.numel(), GELU=gelu, BLOCK=BLOCK, **FUSED)
    return out


def gated_pull(gate: Tensor, up: Tensor, gelu: bool, upstream: Tensor) -> tuple[Tensor, Tensor]:
    gate, up, upstream = gate.contiguous(), up.contiguous(), upstream.contiguous()
    dgate, dup = torch.empty_like(gate), torch.empty_like(up)
    _gate_pull[(triton.cdiv(gate.numel(), BLOCK),)](dgate, dup, gate, up, upstream, gate.numel(), GELU=gelu, BLOCK=BLOCK, **FUSED)
    return dgate, dup


def turned(x: Tensor, cos: Tensor, sin: Tensor, back: bool) -> Tensor:
    x, (tokens, heads, width), half = x.contiguous(), x.shape, cos.shape[-1]
    out = torch.empty_like(x)
    _turn[(tokens, triton.cdiv(heads, HEADS))](
        out, x, cos.contiguous(), sin.contiguous(), -1.0 if back else 1.0, heads, width, half,
        HEADS=HEADS, HALF=triton.next_power_of_2(half), WIDTH=triton.next_power_of_2(width), **FUSED,
    )  # fmt: skip
    return out


def _warps(width: int) -> int:
    """A power of two, as Triton asks: 16 numbers a thread."""
    return int(min(16, max(1, triton.next_power_of_2(width) // 512)))
