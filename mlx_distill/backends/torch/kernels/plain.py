"""Packed weights in plain PyTorch: what they stand for, and products with them. The CPU's path, and the reference of every kernel.

MLX's layout: a row of codes is one little-endian stream of bits, least significant bit first, held as int32 words; W = scale * code + bias,
group by group. Codes become float32, are multiplied, rounded, added to, rounded (bit for bit what MLX gives in float32), and only then cast
to the type that is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

AT_ONCE = 1 << 18
"""Weights whose codes exist at a time: 1 MB of int32, which stays in a core's cache. Twice as quick on CPUs as whole matrices."""
BLOCK_BYTES = 1 << 26
"""Of dequantized weights that exist at a time, where a product needs them: 64 MB."""


@dataclass(frozen=True, slots=True)
class Packed:
    """A matrix (N, K) of `bits` per weight."""

    weight: Tensor
    """int32 (N, K * bits / 32)"""
    scales: Tensor
    """(N, K / group size), in the compute type, as are the biases."""
    biases: Tensor
    bits: int

    @property
    def rows(self) -> int:
        """N"""
        return int(self.weight.shape[0])

    @property
    def columns(self) -> int:
        """K"""
        return int(self.weight.shape[1]) * 32 // self.bits

    @property
    def group_size(self) -> int:
        return self.columns // int(self.scales.shape[1])

    @property
    def dtype(self) -> torch.dtype:
        return self.scales.dtype

    def at(self, rows: Tensor | slice) -> Packed:
        """Those rows: ids (k,) or a slice. Only packed words are copied, and for a slice nothing."""
        return Packed(self.weight[rows], self.scales[rows], self.biases[rows], self.bits)

    def blocks(self, limit: int = BLOCK_BYTES) -> Iterator[slice]:
        """Its rows in blocks whose dequantized weights take at most `limit` bytes each, one row at least."""
        step = max(1, limit // (self.columns * self.scales.element_size()))
        return (slice(at, min(at + step, self.rows)) for at in range(0, self.rows, step))


Unpack = Callable[[Packed], Tensor]


def dequantize(packed: Packed) -> Tensor:
    """(N, K) in the type of the scales."""
    out = packed.scales.new_empty((packed.rows, packed.columns))
    step = max(1, AT_ONCE // packed.columns)
    for at in range(0, packed.rows, step):
        rows = slice(at, at + step)
        _dequantize_into(out[rows], packed.at(rows))
    return out


def _dequantize_into(out: Tensor, packed: Packed) -> None:
    words, each = _words(packed.weight, packed.bits)
    shifts = torch.arange(0, each * packed.bits, packed.bits, dtype=words.dtype, device=words.device)
    codes = (words[..., None] >> shifts).bitwise_and_((1 << packed.bits) - 1)
    exact = out if out.dtype == torch.float32 else out.new_empty(out.shape, dtype=torch.float32)
    exact.view(codes.shape).copy_(codes)
    groups = exact.view(*packed.scales.shape, -1)
    groups.mul_(packed.scales[..., None]).add_(packed.biases[..., None])
    if exact is not out:
        out.copy_(exact)


def _words(weight: Tensor, bits: int) -> tuple[Tensor, int]:
    """Words (N, K / each) that hold whole codes, and how many each.

    Where bits do not divide 32, eight codes are `bits` bytes, which get a word of their own.
    """
    if 32 % bits == 0:
        return weight, 32 // bits
    wide = torch.int32 if bits <= 4 else torch.int64
    stream = weight.contiguous().view(torch.uint8).view(len(weight), -1, bits)
    padded = stream.new_zeros((*stream.shape[:2], wide.itemsize))
    padded[..., :bits] = stream
    return padded.view(wide)[..., 0], 8


def product(x: Tensor, packed: Packed, *, unpack: Unpack = dequantize, limit: int = BLOCK_BYTES) -> Tensor:
    """(m, K) to (m, N): x times the transposed matrix."""
    blocks = list(packed.blocks(limit))
    if len(blocks) == 1:
        return x @ unpack(packed).T
    out = x.new_empty((len(x), packed.rows))
    for rows in blocks:
        out[:, rows] = x @ unpack(packed.at(rows)).T
    return out


def mixed(weights: Tensor, packed: Packed, *, unpack: Unpack = dequantize, limit: int = BLOCK_BYTES) -> Tensor:
    """(m, N) to (m, K): weighted sums of the rows. Blocks are added up in float32."""
    blocks = list(packed.blocks(limit))
    if len(blocks) == 1:
        return weights @ unpack(packed)
    out = weights.new_zeros((len(weights), packed.columns), dtype=torch.float32)
    for rows in blocks:
        out += weights[:, rows] @ unpack(packed.at(rows))
    return out.to(weights.dtype)
