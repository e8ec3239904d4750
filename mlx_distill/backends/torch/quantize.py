"""Weights as MLX packs them, bit for bit what its quantizer writes on a CPU: cast first, then quantize.

It knows arrays; nothing of models, files, or which tensors are packed. It works on the CPU wherever it runs, so that a base has the same
bytes on every machine; one core packs some 400 million weights a second, about as quick as a disk brings them.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from mlx_distill.backends.finite import require_finite
from mlx_distill.records import RawTensor

CODES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.uint32: "U32"}
LEAST = 1e-7
"""No scale that is reckoned from a group's span is smaller than this."""
CHUNK = 1 << 18
"""Weights that are packed at once: what is computed on the way stays in the cores' caches."""


def quantize(shard: Mapping[str, RawTensor], *, bits: int | None, group_size: int, dtype: str | None) -> dict[str, RawTensor]:
    """Cast floating tensors to `dtype` (None: leave them); with `bits`, pack every one of them, shape (N, K).

    Raises CheckpointError where a weight, cast, or a scale is not finite.
    """
    out: dict[str, RawTensor] = {}
    for name, raw in shard.items():
        weight = _tensor(raw)
        if dtype is not None and weight.is_floating_point():
            weight = weight.to(getattr(torch, dtype))
        cast = _raw(weight)
        require_finite(name, cast)
        if bits is None:
            out[name] = cast
            continue
        stem = name.removesuffix("weight")
        words, scales, biases = _packed(weight, bits, group_size)
        require_finite(name, _raw(scales), "the scale of ")
        out |= {name: RawTensor("U32", words), f"{stem}scales": _raw(scales), f"{stem}biases": _raw(biases)}
    return out


def _packed(weight: Tensor, bits: int, group_size: int) -> tuple[np.ndarray, Tensor, Tensor]:
    """Words uint32 (N, K * bits / 32); scales and biases (N, K / group_size) in the weight's type."""
    rows, columns = weight.shape
    groups = weight.reshape(-1, group_size)
    scales, biases = (torch.empty(len(groups), dtype=weight.dtype) for _ in range(2))
    stream = torch.empty(len(groups), group_size * bits // 8, dtype=torch.uint8)
    step = max(1, CHUNK // group_size)
    for first in range(0, len(groups), step):
        part = slice(first, first + step)
        values = groups[part].float()
        scale, bias = _scale_and_bias(values, 2**bits - 1)
        codes = values.sub(bias).div_(scale).round_()
        # One that is not finite is 0 / 0, of a group of one huge value: MLX's is 0 as well.
        stream[part] = _bytes(codes.nan_to_num_(0.0).clamp_(0, 2**bits - 1), bits)
        scales[part], biases[part] = scale[:, 0], bias[:, 0]
    words = stream.numpy().view("<u4").reshape(rows, columns * bits // 32)
    return words, *(array.reshape(rows, columns // group_size) for array in (scales, biases))


def _scale_and_bias(values: Tensor, largest: int) -> tuple[Tensor, Tensor]:
    """Of each group, (n, 1), for codes 0 to `largest`: the value farther from 0 is met exactly, and 0 too where it is within the span.

    `mlx/backend/cpu/quantized.cpp` has the same steps, each rounded to float32. MLX's Metal kernel rounds halves away from 0, not to even.
    """
    low, high = values.amin(1, keepdim=True), values.amax(1, keepdim=True)  # aminmax is eight times slower
    negative = low.abs() > high.abs()
    scale = ((high - low) / largest).clamp_min_(LEAST)
    scale = torch.where(negative, scale, -scale)
    edge = torch.where(negative, low, high)
    steps = (edge / scale).round_()
    at_zero = steps == 0
    return torch.where(at_zero, scale, edge / steps), torch.where(at_zero, 0.0, edge)


def _bytes(codes: Tensor, bits: int) -> Tensor:
    """Codes (n, group_size), whole numbers in float32, as a stream of bits, least significant first: uint8 (n, group_size * bits / 8)."""
    if bits == 8:
        return codes.to(torch.uint8)
    # Four codes have 24 bits at most, which float32 holds exactly; eight have `bits` bytes.
    places = torch.tensor([float(1 << (bits * i)) for i in range(4)])
    halves = (codes.view(-1, 4) @ places).to(torch.int64).view(-1, 2)
    eights = halves[:, 0] | halves[:, 1] << (4 * bits)
    return eights.view(torch.uint8).view(-1, 8)[:, :bits].reshape(len(codes), -1)


def _tensor(raw: RawTensor) -> Tensor:
    data = np.require(raw.data, requirements=("C", "W"))  # PyTorch knows no array that is read-only
    return torch.from_numpy(data.view(np.int16)).view(torch.bfloat16) if raw.dtype == "BF16" else torch.from_numpy(data)


def _raw(array: Tensor) -> RawTensor:
    code = CODES[array.dtype]
    return RawTensor(code, array.view(torch.int16).numpy().view(np.uint16) if code == "BF16" else array.numpy())
