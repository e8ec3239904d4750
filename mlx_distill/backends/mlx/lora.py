"""Low-rank adapters on MLX's linear layers, packed or not (Hu et al., "LoRA", 2021).

    y = W x + (alpha / rank) * B (A (dropout x))

A and B are float32 whatever the base's type. Where they come from and how they are stored: `backends.lora`.
"""

from __future__ import annotations

from collections.abc import Mapping

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_unflatten
from numpy.typing import NDArray

from mlx_distill.backends.base import LoraShape
from mlx_distill.backends.lora import names
from mlx_distill.errors import BackendError

Linears = dict[str, nn.Module]
"""The base's own projections by path, such as model.layers.0.self_attn.q_proj."""


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


Layers = dict[str, LoraLinear]
"""One adapter's layers, by the path of what they adapt."""


def fans(linear: nn.Module) -> tuple[int, int]:
    """(in, out) of a linear layer, packed or not."""
    rows, columns = linear.weight.shape
    return (columns * 32 // linear.bits if "scales" in linear else columns), rows


def linears(model: nn.Module) -> Linears:
    """The projections that can be adapted, by path; the head is none of them."""
    return {
        path: module
        for path, module in model.named_modules()
        if path.startswith("model.") and isinstance(module, (nn.Linear, nn.QuantizedLinear))
    }


def adapt(bare: Linears, shape: LoraShape) -> Layers:
    """An adapter, without values, for every projection that `shape.targets` names. Raises BackendError on a name that is not there."""
    there = {last_name(path) for path in bare}
    if missing := set(shape.targets) - there:
        raise BackendError(
            f"this base has no projection {', '.join(sorted(missing))}", hint=f"lora.targets may name {', '.join(sorted(there))}"
        )
    scale = shape.alpha / shape.rank
    return {path: LoraLinear(linear, shape.rank, scale, shape.dropout) for path, linear in bare.items() if last_name(path) in shape.targets}


def last_name(path: str) -> str:
    return path.rpartition(".")[2]


def wear(model: nn.Module, bare: Linears, layers: Layers) -> None:
    """Take off what the model has on, and put these on (none: the bare base)."""
    model.update_modules(tree_unflatten(list((bare | layers).items())))


def fill(layers: Layers, weights: Mapping[str, NDArray[np.float32]]) -> None:
    """Set the values from PEFT's names and orientation. Raises BackendError where they are not this model's, and sets none."""
    wanted = {name for path in layers for name in names(path)}
    if odd := wanted.symmetric_difference(weights):
        raise BackendError(
            f"the adapter is not of this base: {sorted(odd)[0]} and {len(odd) - 1} more differ", hint="open the base it was trained on"
        )
    values: dict[str, mx.array] = {}
    for path, current in parameters(layers).items():
        name = peft_name(path)
        value = np.ascontiguousarray(weights[name].T)
        if value.shape != current.shape:
            raise BackendError(
                f"{name} is {weights[name].shape}; this base needs {tuple(reversed(current.shape))}", hint="open the base it was trained on"
            )
        values[path] = mx.array(value)
    mx.eval(list(values.values()))
    assign(layers, values)


def parameters(layers: Layers) -> dict[str, mx.array]:
    """The values by MLX's own paths, ..., q_proj.lora_a, sorted: the order of every gradient list."""
    return {f"{path}.{key}": layers[path][key] for path in sorted(layers) for key in ("lora_a", "lora_b")}


def assign(layers: Layers, values: Mapping[str, mx.array]) -> None:
    for path, value in values.items():
        module, _, key = path.rpartition(".")
        layers[module][key] = value


def peft_name(path: str) -> str:
    """model.layers.0.self_attn.q_proj.lora_a becomes PEFT's name of it."""
    module, _, which = path.rpartition(".")
    return names(module)[which == "lora_b"]
