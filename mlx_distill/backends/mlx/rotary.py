"""Turning queries and keys by their positions where mlx-lm's own modules do it otherwise than the original model."""

from __future__ import annotations

import mlx.core as mx
import numpy as np

from mlx_distill.models.rotary import Rotary


class Rope:
    """What stands at `self_attn.rope`: rows (n, heads, 1, width) at offsets (n,). Angles are float32 whatever the model's type."""

    def __init__(self, rotary: Rotary):
        self._width, self._gain = 2 * len(rotary.frequencies), rotary.gain
        self._periods = mx.array((1 / rotary.frequencies).astype(np.float32))

    def __call__(self, x: mx.array, *, offset: mx.array) -> mx.array:
        turned = mx.fast.rope(x, self._width, traditional=False, base=None, scale=1.0, offset=offset, freqs=self._periods)
        if self._gain == 1:
            return turned
        return mx.concatenate([turned[..., : self._width] * self._gain, turned[..., self._width :]], axis=-1)
