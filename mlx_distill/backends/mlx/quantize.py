"""Weights as MLX packs them, bit for bit what `mlx_lm.convert` writes on the same machine: cast first, then quantize.

It knows arrays; nothing of models, files, or which tensors are packed.
"""

from __future__ import annotations

from collections.abc import Mapping

import mlx.core as mx
import numpy as np

from mlx_distill.records import RawTensor

CODES = {mx.float32: "F32", mx.float16: "F16", mx.bfloat16: "BF16", mx.uint32: "U32"}


def quantize(shard: Mapping[str, RawTensor], *, bits: int | None, group_size: int, dtype: str | None) -> dict[str, RawTensor]:
    """Cast floating tensors to `dtype` (None: leave them); with `bits`, pack every one of them, shape (N, K)."""
    out: dict[str, RawTensor] = {}
    for name, raw in shard.items():
        array = _array(raw)
        if dtype is not None and mx.issubdtype(array.dtype, mx.floating):
            array = array.astype(getattr(mx, dtype))
        if bits is None:
            out[name] = _raw(array)
            continue
        stem = name.removesuffix("weight")
        weight, scales, biases = mx.quantize(array, group_size, bits)
        mx.eval(weight, scales, biases)
        out |= {name: _raw(weight), f"{stem}scales": _raw(scales), f"{stem}biases": _raw(biases)}
    return out


def _array(raw: RawTensor) -> mx.array:
    array = mx.array(raw.data)
    return array.view(mx.bfloat16) if raw.dtype == "BF16" else array


def _raw(array: mx.array) -> RawTensor:
    code = CODES[array.dtype]
    return RawTensor(code, np.array(array.view(mx.uint16) if code == "BF16" else array))
