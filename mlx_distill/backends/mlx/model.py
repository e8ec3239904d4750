"""mlx-lm's models, opened from a Base, and their heads: all rows of the vocabulary, or only those that are allowed.

It knows weights and shapes; nothing of adapters, rows, losses or caches.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.utils import dequantize_model, load_model

from mlx_distill.backends.mlx.rotary import Rope
from mlx_distill.errors import CheckpointError
from mlx_distill.models.families import windows
from mlx_distill.models.rotary import rotary


def open_model(base: Path, cast: str | None, *, unpack: bool = False) -> nn.Module:
    """The base in evaluation mode, frozen. `cast`: compute in that type; `unpack`: hold packed weights as what they stand for.

    The numbers are the same. On CPUs a packed matmul is 30 times slower than one by BLAS, so there unpacking is worth its memory.
    """
    if not (base / "config.json").is_file():
        raise CheckpointError("this is no base", file=base, hint="make one: mlx-distill convert MODEL OUT")
    try:
        model, _ = load_model(base, lazy=True)
    except (ValueError, OSError, RuntimeError) as error:
        raise CheckpointError(f"the base cannot be opened: {error}", file=base, hint="convert it again") from None
    _as_the_original(model, json.loads((base / "config.json").read_text(encoding="utf-8")))
    if cast is not None:
        model.set_dtype(getattr(mx, cast))
    if unpack:
        model = dequantize_model(model)
    model.freeze()
    model.eval()
    mx.eval(model.parameters())
    return model


def _as_the_original(model: nn.Module, config: Mapping[str, Any]) -> None:
    """What mlx-lm's classes leave out: each layer's `window`, and positions turned otherwise than by default; `longest` row."""
    turned = rotary(config)
    model.longest = turned.longest
    for layer, window in zip(model.layers, windows(config), strict=True):
        layer.window = window
        if turned.kind != "default":
            layer.self_attn.rope = Rope(turned)


class Head:
    """The last matmul of a model: hidden states to logits."""

    def __init__(self, model: nn.Module):
        self.table: Any = model.lm_head if "lm_head" in model else model.model.embed_tokens
        self._cap: float | None = getattr(model, "final_logit_softcapping", None)
        self.vocabulary = int(self.table.weight.shape[0])

    def logits(self, hidden: mx.array, rows: mx.array | None = None) -> mx.array:
        """(k, hidden) to float32 logits: (k, V), or (k, len(rows)) for those rows of the head alone, packed ones too."""
        return self._capped(self._product(hidden, rows))[0]

    def bent(self, hidden: mx.array) -> tuple[mx.array, mx.array | None]:
        """Logits (k, V), and their derivative by what the matmul gave, where they are capped."""
        return self._capped(self._product(hidden, None))

    def mixed(self, weights: mx.array) -> mx.array:
        """(k, V) weights to the weighted sum of the head's rows, (k, hidden) float32."""
        table = self.table
        if "scales" in table:
            packed = {"transpose": False, "group_size": table.group_size, "bits": table.bits}
            out = mx.quantized_matmul(weights.astype(table.scales.dtype), table.weight, table.scales, table.biases, **packed)
        else:
            out = weights.astype(table.weight.dtype) @ table.weight
        return out.astype(mx.float32)

    def rows(self, ids: mx.array) -> mx.array:
        """The head's rows of some tokens, (k, hidden) float32."""
        table = self.table
        if "scales" in table:
            parts = (table.weight[ids], table.scales[ids], table.biases[ids])
            return mx.dequantize(*parts, group_size=table.group_size, bits=table.bits).astype(mx.float32)
        rows: mx.array = table.weight[ids]
        return rows.astype(mx.float32)

    def _product(self, hidden: mx.array, rows: mx.array | None) -> mx.array:
        table = self.table
        if "scales" in table:
            weight, scales, biases = (part if rows is None else part[rows] for part in (table.weight, table.scales, table.biases))
            out = mx.quantized_matmul(hidden, weight, scales, biases, transpose=True, group_size=table.group_size, bits=table.bits)
        else:
            out = hidden @ (table.weight if rows is None else table.weight[rows]).T
        if "bias" in table:
            out = out + (table.bias if rows is None else table.bias[rows])
        return out.astype(mx.float32)

    def _capped(self, logits: mx.array) -> tuple[mx.array, mx.array | None]:
        if self._cap is None:
            return logits, None
        bent = mx.tanh(logits / self._cap)
        return self._cap * bent, 1 - mx.square(bent)
