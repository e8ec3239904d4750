"""Unpacking in NumPy is MLX's own, to the bit in float32."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

from mlx_distill.models.unpack import unpack


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 8])
@pytest.mark.parametrize("group_size", [32, 64, 128])
def test_unpacked_weights_are_those_of_mlx(bits: int, group_size: int) -> None:
    weight = mx.array(np.random.default_rng(0).normal(0, 0.05, (6, 256)).astype(np.float32))
    parts = mx.quantize(weight, group_size, bits)
    ours = unpack(*(np.asarray(part) for part in parts), 256)
    np.testing.assert_array_equal(ours, np.asarray(mx.dequantize(*parts, group_size, bits)))
