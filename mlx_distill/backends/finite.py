"""Weights that are no numbers are refused, by every backend alike. It knows tensors as files hold them; no tensor library."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from mlx_distill.errors import CheckpointError
from mlx_distill.records import RawTensor

EXPONENTS: Mapping[str, np.uint32 | np.uint16] = {"F32": np.uint32(0x7F800000), "F16": np.uint16(0x7C00), "BF16": np.uint16(0x7F80)}
"""The bits of a type that are all set in infinities and NaN, and only there."""
NAMES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}


def require_finite(name: str, tensor: RawTensor, what: str = "") -> None:
    """Raises CheckpointError where a number is infinite or NaN. `what`: what of `name` the tensor is, where it is not the thing itself."""
    bits = EXPONENTS.get(tensor.dtype)
    if bits is None or not tensor.data.size or np.bitwise_and(tensor.data.view(bits.dtype), bits).max() != bits:
        return
    hint = "fetch the checkpoint again; where its own weights are finite, float16 holds none above 65,504: take bfloat16 (--dtype)"
    raise CheckpointError(f"{what}{name} has infinities or NaN in {NAMES[tensor.dtype]}: whatever it answered would be NaN", hint=hint)
