"""Linear layers and embeddings whose weights stay packed, as MLX lays them out: they are dequantized on the way into a matmul.

They are `nn.Linear` and `nn.Embedding` to whoever asks (PEFT does), with tensors under the names that a base's files give them: `weight`,
the words, as int32 (a file's uint32, viewed); `scales` and `biases`; and `bias`, which is a layer's own. Gradients pass through to what
comes in; the weights have none, and the backward pass dequantizes them again. How a product is computed is in `kernels`.
"""
# mypy: allow-subclassing-any

from __future__ import annotations

from typing import Any

import torch
import torch.nn as nn
from torch import Tensor
from torch.autograd.function import once_differentiable

from mlx_distill.backends.torch.kernels import routes
from mlx_distill.backends.torch.kernels.plain import Packed

BITS = (2, 3, 4, 5, 6, 8)
GROUP_SIZES = (32, 64, 128)


class _PackedTable(nn.Module):
    """A packed matrix (N, K): what a layer and an embedding have in common. Its tensors are empty, on `meta`, until a file fills them."""

    weight: Tensor
    scales: Tensor
    biases: Tensor

    def _hold(self, rows: int, columns: int, bits: int, group_size: int, dtype: torch.dtype) -> None:
        assert bits in BITS and group_size in GROUP_SIZES and columns % group_size == 0, f"{columns} columns, {bits} bits, {group_size}"
        self.bits, self.group_size = bits, group_size
        self.register_buffer("weight", torch.empty((rows, columns * bits // 32), dtype=torch.int32, device="meta"))
        for name in ("scales", "biases"):
            self.register_buffer(name, torch.empty((rows, columns // group_size), dtype=dtype, device="meta"))

    @property
    def packed(self) -> Packed:
        return Packed(self.weight, self.scales, self.biases, self.bits)

    def dequantized(self) -> Tensor:
        """The whole of it, (N, K)."""
        return routes.dequantize(self.packed)

    def rows(self, ids: Tensor) -> Tensor:
        """Some of its rows, ids (...) to (..., K)."""
        return routes.rows(ids.reshape(-1), self.packed).view(*ids.shape, self.packed.columns)

    def product(self, x: Tensor, rows: Tensor | None = None) -> Tensor:
        """x (..., K) to (..., N), or (..., k) for those of its rows (k,) alone; differentiable in x. A bias is added."""
        packed, bias = self.packed, getattr(self, "bias", None)
        if rows is not None:
            packed, bias = packed.at(rows), None if bias is None else bias[rows]
        out: Tensor = _Product.apply(x, packed, bias)
        return out

    def mixed(self, weights: Tensor) -> Tensor:
        """Weighted sums of its rows: weights (m, N), any type, to (m, K). No gradient."""
        with torch.no_grad():
            return routes.mixed(weights.to(self.scales.dtype), self.packed)

    def extra_repr(self) -> str:
        packed = self.packed
        return f"{packed.columns}, {packed.rows}, bits={self.bits}, group_size={self.group_size}"


class PackedLinear(_PackedTable, nn.Linear):
    """x (..., in) to (..., out): x Wᵀ + bias."""

    def __init__(self, in_features: int, out_features: int, bias: bool, *, bits: int, group_size: int, dtype: torch.dtype):
        nn.Module.__init__(self)  # that of Linear would make a weight of floats
        self.in_features, self.out_features = in_features, out_features
        self._hold(out_features, in_features, bits, group_size, dtype)
        value = nn.Parameter(torch.empty(out_features, dtype=dtype, device="meta"), requires_grad=False) if bias else None
        self.register_parameter("bias", value)

    def forward(self, input: Tensor) -> Tensor:  # Linear's own name for it
        return self.product(input)


class PackedEmbedding(_PackedTable, nn.Embedding):
    """ids (...) to (..., width). A head that is tied to it is this very module: see `product`."""

    def __init__(self, num_embeddings: int, embedding_dim: int, *, bits: int, group_size: int, dtype: torch.dtype):
        nn.Module.__init__(self)
        self.num_embeddings, self.embedding_dim = num_embeddings, embedding_dim
        self.padding_idx = self.max_norm = None
        self.norm_type, self.scale_grad_by_freq, self.sparse = 2.0, False, False
        self._hold(num_embeddings, embedding_dim, bits, group_size, dtype)

    def forward(self, input: Tensor) -> Tensor:
        return self.rows(input)


class _Product(torch.autograd.Function):
    """x Wᵀ + bias. The way back needs W alone, which the layer has."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, packed: Packed, bias: Tensor | None) -> Tensor:
        ctx.packed = packed
        out = routes.product(x.reshape(-1, x.shape[-1]), packed, bias)
        return out if x.ndim == 2 else out.view(*x.shape[:-1], packed.rows)  # a view cannot be added to in place (lora)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, None, Tensor | None]:
        flat, dx, dbias = upstream.reshape(-1, upstream.shape[-1]), None, None
        if ctx.needs_input_grad[0]:
            dx = routes.mixed(flat, ctx.packed).view(*upstream.shape[:-1], ctx.packed.columns)
        if ctx.needs_input_grad[2]:
            dbias = flat.sum(0)
        return dx, None, dbias
