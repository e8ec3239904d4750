"""Low-rank adapters on MLX's linear layers, packed or not (Hu et al., "LoRA", 2021).

    y = W x + (alpha / rank) * B (A (dropout x))

A and B are float32 whatever the base's type. Where they come from and how they are stored: `backends.lora`.
"""

from __future__ import annotations

from collections.abc import Mapping

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten, tree_unflatten
from numpy.typing import NDArray

from mlx_distill.backends.base import LoraShape
from mlx_distill.backends.lora import names
from mlx_distill.errors import BackendError


class LoraLinear(nn.Module):
    """A linear layer with an adapter beside it; `lora_a` (in, rank), `lora_b` (rank, out)."""

    def __init__(self, linear: nn.Module, rank: int, scale: float, dropout: float):
        super().__init__()
        fan_in, fan_out = fans(linear)
        self.linear = linear
        self.lora_a = mx.zeros((fan_in, rank))
        self.lora_b = mx.zeros((rank, fan_out))
        self._scale = scale
        self.dropout = nn.Dropout(dropout)

    def __call__(self, x: mx.array) -> mx.array:
        y = self.linear(x)
        z = (self.dropout(x) @ self.lora_a) @ self.lora_b
        out: mx.array = y + (self._scale * z).astype(y.dtype)
        return out


def fans(linear: nn.Module) -> tuple[int, int]:
    """(in, out) of a linear layer, packed or not."""
    rows, columns = linear.weight.shape
    return (columns * 32 // linear.bits if "scales" in linear else columns), rows


def attach(model: nn.Module, shape: LoraShape) -> dict[str, tuple[int, int]]:
    """Put an adapter on every projection named in `shape.targets`; {module: (in, out)} of those adapted."""
    found = {
        path: module
        for path, module in model.named_modules()
        if path.rpartition(".")[2] in shape.targets and isinstance(module, (nn.Linear, nn.QuantizedLinear))
    }
    if missing := set(shape.targets) - {path.rpartition(".")[2] for path in found}:
        there = sorted(
            {p.rpartition(".")[2] for p, m in model.named_modules() if isinstance(m, (nn.Linear, nn.QuantizedLinear))} - {"lm_head"}
        )
        raise BackendError(f"this base has no projection {', '.join(sorted(missing))}", hint=f"lora.targets may name {', '.join(there)}")
    adapted = {path: LoraLinear(module, shape.rank, shape.alpha / shape.rank, shape.dropout) for path, module in found.items()}
    model.update_modules(tree_unflatten(list(adapted.items())))
    return {path: fans(module) for path, module in found.items()}


def detach(model: nn.Module) -> None:
    """Take every adapter off again."""
    bare = [(path, module.linear) for path, module in model.named_modules() if isinstance(module, LoraLinear)]
    model.update_modules(tree_unflatten(bare))


def fill(model: nn.Module, weights: Mapping[str, NDArray[np.float32]]) -> None:
    """Set the adapters' values from PEFT's names and orientation. Raises BackendError where they are not the model's."""
    wanted = {name for path, module in model.named_modules() if isinstance(module, LoraLinear) for name in names(path)}
    if odd := wanted.symmetric_difference(weights):
        raise BackendError(
            f"the adapter is not of this base: {sorted(odd)[0]} and {len(odd) - 1} more differ", hint="open the base it was trained on"
        )
    flat = []
    for path, module in model.named_modules():
        if isinstance(module, LoraLinear):
            for name, key in zip(names(path), ("lora_a", "lora_b"), strict=True):
                value = np.ascontiguousarray(weights[name].T)
                if value.shape != module[key].shape:
                    raise BackendError(f"{name} is {weights[name].shape}; this base needs {tuple(reversed(module[key].shape))}")
                flat.append((f"{path}.{key}", mx.array(value)))
    model.update(tree_unflatten(flat))


def parameters(model: nn.Module) -> dict[str, mx.array]:
    """The adapters' values by MLX's own paths, ..., q_proj.lora_a, sorted: the order of every gradient list."""
    return {path: value for path, value in sorted(tree_flatten(model.parameters())) if path.endswith((".lora_a", ".lora_b"))}


def peft_name(path: str) -> str:
    """model.layers.0.self_attn.q_proj.lora_a becomes PEFT's name of it."""
    module, _, which = path.rpartition(".")
    return names(module)[which == "lora_b"]
