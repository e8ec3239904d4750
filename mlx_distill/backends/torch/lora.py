"""Low-rank adapters on PyTorch's linear layers, packed or not.

    LoRA    y = W x + s B (A (dropout x))                             Hu et al., "LoRA", 2021
    DoRA    y = m / |W + s B A| * (W x + s B (A (dropout x)))         Liu et al., "DoRA", 2024

where s is the shape's scale, and DoRA's m and | | have a number for each row of W. As the paper proposes (section 4.3) the norm is a
constant in the backward pass. A bias is added at the end, by no adapter touched. A, B and m are float32 whatever the base's type, and so
are their gradients; what they are applied to is computed in its own type. Where they come from and how they are stored: `backends.lora`.

Beside what the base keeps for its own backward pass, a layer keeps x, which all that read it share, and A x: masks of dropout are drawn
again, and the sum is made in place.
"""
# mypy: allow-subclassing-any

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn as nn
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd.function import once_differentiable

from mlx_distill.backends.base import LoraShape
from mlx_distill.backends.lora import chosen, magnitude_name, peft_name, require_of, require_there
from mlx_distill.backends.torch.packed import PackedLinear
from mlx_distill.backends.torch.wide import product

Linears = dict[str, nn.Linear]
"""The base's own projections by path, such as model.layers.0.self_attn.q_proj."""
NORM_BYTES = 64 << 20
"""How much of a weight is unpacked at a time for its norms."""


@dataclass(slots=True)
class Draw:
    """What the dropout of all layers of an adapter follows from, each by its place. None: nothing is dropped.

    Who forwards a layer again for its backward pass sets the key again that it was forwarded with.
    """

    key: int | None = None


class LoraLinear(nn.Module):
    """A linear layer with an adapter beside it; `lora_a` (rank, in), `lora_b` (out, rank). `path` is where it lies."""

    VALUES: tuple[str, ...] = ("lora_a", "lora_b")
    """What is trained."""

    def __init__(self, linear: nn.Linear, shape: LoraShape, path: str, draw: Draw):
        super().__init__()
        self.linear = linear
        self.lora_a = _value(linear, shape.rank, linear.in_features)
        self.lora_b = _value(linear, linear.out_features, shape.rank)
        self.scale = shape.scale
        self._dropout, self._place, self._draw = shape.dropout, zlib.crc32(path.encode()), draw
        self._cast: tuple[tuple[int, ...], Tensor, Tensor] | None = None

    def forward(self, x: Tensor) -> Tensor:
        """x (..., in) to (..., out)."""
        if x.ndim != 2:
            return self(x.reshape(-1, x.shape[-1])).view(*x.shape[:-1], -1)
        key = None if self._draw.key is None or not self._dropout else (self._draw.key, self._place)
        out: Tensor = _Delta.apply(self.linear(x), x, self.lora_a, self.lora_b, *self._in_type_of(x), self.scale, key, self._dropout)
        return out

    def settle(self) -> None:
        """Whatever follows from the values alone is computed now, once."""

    def _in_type_of(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """A and B, cast once for as long as they stay what they are."""
        if x.dtype == self.lora_a.dtype:
            return self.lora_a.detach(), self.lora_b.detach()
        versions = self._versions()
        if self._cast is None or self._cast[0] != versions or self._cast[1].dtype != x.dtype:
            with kept():
                self._cast = versions, self.lora_a.to(x.dtype), self.lora_b.to(x.dtype)
        return self._cast[1:]

    def _versions(self) -> tuple[int, ...]:
        """Counts every change in place of A and B."""
        return self.lora_a._version, self.lora_b._version


class DoraLinear(LoraLinear):
    """The same with a magnitude (out,) for each output.

    The norm needs no unpacked weight: |W + s B A|² = |W|² + 2 s (W Aᵀ · B) + s² (B A Aᵀ · B), row by row, where |W|² is a constant of the
    base and W Aᵀ is what the linear layer says to the rows of A, as if they were `rank` more tokens.
    """

    VALUES = ("lora_a", "lora_b", "magnitude")

    def __init__(self, linear: nn.Linear, shape: LoraShape, path: str, draw: Draw):
        super().__init__(linear, shape, path, draw)
        self._squares = squared_norms(linear)
        self.magnitude = nn.Parameter(self._squares.sqrt(), requires_grad=False)
        self._norm: tuple[tuple[int, ...], Tensor] | None = None

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim != 2:
            return super().forward(x)
        out: Tensor = _Magnified.apply(super().forward(x), self.magnitude, self.norm(), self.linear.bias)
        return out

    def settle(self) -> None:
        self.norm()

    def norm(self) -> Tensor:
        """|W + s B A|, (out,) float32, computed once for as long as A and B stay what they are."""
        versions = self._versions()
        if self._norm is None or self._norm[0] != versions:
            with kept():
                self._norm = versions, self._computed_norm()
        return self._norm[1]

    def _computed_norm(self) -> Tensor:
        a, b = self.lora_a, self.lora_b
        said = self.linear(a.to(_dtype(self.linear))).float()
        if self.linear.bias is not None:
            said -= self.linear.bias.float()
        crossed = (said.T * b).sum(1)
        own = ((b @ (a @ a.T)) * b).sum(1)
        squares: Tensor = self._squares + 2 * self.scale * crossed + self.scale**2 * own
        return squares.clamp_min(1e-12).sqrt()


class _Delta(torch.autograd.Function):
    """y + s B (A (dropout x)) of x (n, in), in place of y (n, out).

    `a` and `b` are A and B in the type of x; the gradients are of the float32 ones.
    """

    @staticmethod
    def forward(
        ctx: Any, y: Tensor, x: Tensor, _a: Tensor, _b: Tensor, a: Tensor, b: Tensor, scale: float, key: tuple[int, int] | None, p: float
    ) -> Tensor:
        dropped = x if key is None else x * _mask(x, key, p)
        h = dropped @ a.T
        y.addmm_(h, b.T, alpha=scale)
        ctx.mark_dirty(y)
        ctx.save_for_backward(x, h, a, b)
        ctx.scale, ctx.key, ctx.dropout = scale, key, p
        return y

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, h, a, b = ctx.saved_tensors
        of_y, of_x, of_a, of_b, *_ = ctx.needs_input_grad
        mask = None if ctx.key is None else _mask(x, ctx.key, ctx.dropout)
        dx = da = db = None
        if of_b:
            db = product(dy.T, h).mul_(ctx.scale)
        if of_a or of_x:
            dh = (dy @ b).mul_(ctx.scale)
        if of_a:
            da = product(dh.T, x if mask is None else x * mask)
        if of_x:
            dx = dh @ a if mask is None else (dh @ a).mul_(mask)
        return dy if of_y else None, dx, da, db, None, None, None, None, None


class _Magnified(torch.autograd.Function):
    """m / norm * (z - bias) + bias, in place of z: what stands before the bias was added is multiplied, row by row of W.

    Kept is what comes out, which gates and attention keep too; what went in follows from it, but in a row whose m is 0: there m stays 0.
    """

    @staticmethod
    def forward(ctx: Any, z: Tensor, magnitude: Tensor, norm: Tensor, bias: Tensor | None) -> Tensor:
        gain = magnitude / norm
        z.mul_(gain.to(z.dtype))
        if bias is not None:
            z.add_((bias * (1 - gain)).to(z.dtype))
        ctx.mark_dirty(z)
        ctx.save_for_backward(z, magnitude, norm, bias)
        return z

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        out, magnitude, norm, bias = ctx.saved_tensors
        dz = dy * (magnitude / norm).to(dy.dtype) if ctx.needs_input_grad[0] else None
        if not ctx.needs_input_grad[1]:
            return dz, None, None, None
        grown = out if bias is None else out - bias
        of_magnitude = (dy * grown).sum(0, dtype=torch.float32).div_(magnitude)
        return dz, of_magnitude.masked_fill_(magnitude == 0, 0.0), None, None


@contextmanager
def kept() -> Iterator[None]:
    """What is computed here is a constant of backward passes to come, even where it is a session that needs it first."""
    with torch.inference_mode(False), torch.no_grad():
        yield


def _mask(x: Tensor, key: tuple[int, int], dropout: float) -> Tensor:
    """0 or 1 / (1 - dropout), as x: it follows from the key alone."""
    seed = int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0])  # PyTorch's CPU generator reads 32 bits of it
    generator = torch.Generator(x.device).manual_seed(seed)
    return torch.empty_like(x).bernoulli_(1 - dropout, generator=generator).mul_(1 / (1 - dropout))


def _value(linear: nn.Linear, *shape: int) -> nn.Parameter:
    return nn.Parameter(torch.zeros(shape, device=linear.weight.device), requires_grad=False)


def _dtype(linear: nn.Linear) -> torch.dtype:
    """What a layer computes in."""
    return linear.scales.dtype if isinstance(linear, PackedLinear) else linear.weight.dtype


Layers = dict[str, LoraLinear]
"""One adapter's layers, by the path of what they adapt."""


def fans(linear: nn.Linear) -> tuple[int, int]:
    """(in, out) of a linear layer, packed or not."""
    return linear.in_features, linear.out_features


def squared_norms(linear: nn.Linear) -> Tensor:
    """Of each row of a layer's weight, (out,) float32; some rows are unpacked at a time."""
    step = max(1, NORM_BYTES // (4 * linear.in_features))
    parts = []
    with kept():
        for first in range(0, linear.out_features, step):
            ids = torch.arange(first, min(first + step, linear.out_features), device=linear.weight.device)
            rows = linear.rows(ids) if isinstance(linear, PackedLinear) else linear.weight[ids]
            parts.append(rows.float().square().sum(1))
    return torch.cat(parts)


def linears(net: nn.Module) -> Linears:
    """The projections that can be adapted, by path; the head is none of them."""
    return {path: module for path, module in net.named_modules() if path.startswith("model.") and isinstance(module, nn.Linear)}


def adapt(bare: Linears, shape: LoraShape, modules: Iterable[str] | None = None, *, draw: Draw) -> Layers:
    """An adapter, without values, on `modules`, or on every projection that the shape chooses. Raises BackendError on what is not there."""
    modules = chosen(bare, shape) if modules is None else list(modules)
    require_there(modules, bare)
    kind = DoraLinear if shape.dora else LoraLinear
    return {path: kind(bare[path], shape, path, draw) for path in modules}


def wear(net: nn.Module, bare: Linears, layers: Layers) -> None:
    """Take off what the model has on, and put these on (none: the bare base)."""
    for path, module in {**bare, **layers}.items():
        net.set_submodule(path, module)


@torch.no_grad()  # type: ignore[untyped-decorator]
def fill(layers: Layers, weights: Mapping[str, NDArray[np.float32]]) -> None:
    """Set the values from PEFT's names. Raises BackendError where they are not this model's, and sets none."""
    values = {peft_name(path): value for path, value in parameters(layers).items()}
    require_of({name: tuple(value.shape) for name, value in values.items()}, weights)
    for name, value in values.items():
        value.copy_(torch.from_numpy(np.array(weights[name], np.float32)))


def parameters(layers: Layers) -> dict[str, nn.Parameter]:
    """The values by their paths, ..., q_proj.lora_a, sorted: the order of every gradient list."""
    return {f"{path}.{key}": getattr(layers[path], key) for path in sorted(layers) for key in layers[path].VALUES}


def magnitudes(layers: Layers) -> dict[str, NDArray[np.float32]]:
    """DoRA's first values under PEFT's names: the norms of the base's own rows. Empty for LoRA."""
    found = [(path, layer.magnitude) for path, layer in layers.items() if isinstance(layer, DoraLinear)]
    return {magnitude_name(path): magnitude.detach().cpu().numpy() for path, magnitude in found}


def settle(layers: Layers) -> None:
    for layer in layers.values():
        layer.settle()
