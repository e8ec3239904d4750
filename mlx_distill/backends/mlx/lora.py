"""Low-rank adapters on MLX's linear layers, packed or not.

    LoRA    y = W x + s B (A (dropout x))                             Hu et al., "LoRA", 2021
    DoRA    y = m / |W + s B A| * (W x + s B (A (dropout x)))         Liu et al., "DoRA", 2024

where s is the shape's scale, and DoRA's m and | | have a number for each row of W. As the paper proposes (section 4.3) the norm is a
constant in the backward pass. A bias is added at the end, by no adapter touched. A, B and m are float32 whatever the base's type. Where
they come from and how they are stored: `backends.lora`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_unflatten
from numpy.typing import NDArray

from mlx_distill.backends.base import LoraShape
from mlx_distill.backends.lora import chosen, magnitude_name, peft_name, require_of, require_there

Linears = dict[str, nn.Module]
"""The base's own projections by path, such as model.layers.0.self_attn.q_proj."""
NORM_BYTES = 64 << 20
"""How much of a weight is unpacked at a time for its norms."""


class LoraLinear(nn.Module):
    """A linear layer with an adapter beside it; `lora_a` (in, rank), `lora_b` (rank, out)."""

    VALUES: tuple[str, ...] = ("lora_a", "lora_b")
    """What is trained."""

    def __init__(self, linear: nn.Module, shape: LoraShape):
        super().__init__()
        fan_in, fan_out = fans(linear)
        self.linear = linear
        self.lora_a = mx.zeros((fan_in, shape.rank))
        self.lora_b = mx.zeros((shape.rank, fan_out))
        self._scale = shape.scale
        self.dropout = nn.Dropout(shape.dropout)

    def __call__(self, x: mx.array) -> mx.array:
        y = self.linear(x)
        z = (self.dropout(x) @ self.lora_a) @ self.lora_b
        out: mx.array = y + (self._scale * z).astype(y.dtype)
        return out

    def settle(self) -> None:
        """Whatever follows from the values alone is computed now, once."""


class DoraLinear(LoraLinear):
    """The same with a magnitude (out,) for each output.

    The norm needs no unpacked weight: |W + s B A|² = |W|² + 2 s (W Aᵀ · B) + s² (B A Aᵀ · B), row by row, where |W|² is a constant of the
    base and W Aᵀ is what the linear layer says to the rows of A, as if they were `rank` more tokens.
    """

    VALUES = ("lora_a", "lora_b", "magnitude")

    def __init__(self, linear: nn.Module, shape: LoraShape):
        super().__init__(linear, shape)
        self._squares = squared_norms(linear)
        self.magnitude = mx.sqrt(self._squares)
        self._settled: tuple[mx.array, ...] | None = None

    def __call__(self, x: mx.array) -> mx.array:
        gain = self._gain()
        out = super().__call__(x) * gain.astype(x.dtype)
        return out + (self.linear.bias * (1 - gain)).astype(out.dtype) if "bias" in self.linear else out

    def settle(self) -> None:
        """The gain holds as long as the values are these very arrays; what is traced never gets in here."""
        if not self._is_settled():
            gain = self._computed_gain()
            mx.eval(gain)
            self._settled = (self.lora_a, self.lora_b, self.magnitude, gain)

    def _gain(self) -> mx.array:
        """What an output is multiplied by, (out,)."""
        return self._settled[-1] if self._settled is not None and self._is_settled() else self._computed_gain()

    def _is_settled(self) -> bool:
        current = (self.lora_a, self.lora_b, self.magnitude)
        return self._settled is not None and all(a is b for a, b in zip(self._settled, current, strict=False))

    def _computed_gain(self) -> mx.array:
        a, b = mx.stop_gradient(self.lora_a.T), mx.stop_gradient(self.lora_b.T)
        said = (self.linear(a) - self.linear.bias if "bias" in self.linear else self.linear(a)).astype(mx.float32)
        crossed = mx.sum(said.T * b, axis=1)
        own = mx.sum((b @ (a @ a.T)) * b, axis=1)
        squares = self._squares + 2 * self._scale * crossed + self._scale**2 * own
        return self.magnitude / mx.sqrt(mx.maximum(squares, 1e-12))


Layers = dict[str, LoraLinear]
"""One adapter's layers, by the path of what they adapt."""


def fans(linear: nn.Module) -> tuple[int, int]:
    """(in, out) of a linear layer, packed or not."""
    rows, columns = linear.weight.shape
    return (columns * 32 // linear.bits if "scales" in linear else columns), rows


def squared_norms(linear: nn.Module) -> mx.array:
    """Of each row of a layer's weight, (out,) float32; some rows are unpacked at a time."""
    columns, rows = fans(linear)
    step = max(1, NORM_BYTES // (4 * columns))
    parts = []
    for first in range(0, rows, step):
        parts.append(mx.sum(mx.square(_dense(linear, slice(first, first + step))), axis=1))
        mx.eval(parts[-1])
    return mx.concatenate(parts)


def _dense(linear: nn.Module, rows: slice) -> mx.array:
    """Rows of a layer's weight in float32, whatever they lie packed in."""
    weight: mx.array = linear.weight[rows]
    if "scales" in linear:
        weight = mx.dequantize(weight, linear.scales[rows], linear.biases[rows], linear.group_size, linear.bits)
    return weight.astype(mx.float32)


def linears(model: nn.Module) -> Linears:
    """The projections that can be adapted, by path; the head is none of them."""
    return {
        path: module
        for path, module in model.named_modules()
        if path.startswith("model.") and isinstance(module, (nn.Linear, nn.QuantizedLinear))
    }


def adapt(bare: Linears, shape: LoraShape, modules: Iterable[str] | None = None) -> Layers:
    """An adapter, without values, on `modules`, or on every projection that the shape chooses. Raises BackendError on what is not there."""
    modules = chosen(bare, shape) if modules is None else list(modules)
    require_there(modules, bare)
    kind = DoraLinear if shape.dora else LoraLinear
    return {path: kind(bare[path], shape) for path in modules}


def wear(model: nn.Module, bare: Linears, layers: Layers) -> None:
    """Take off what the model has on, and put these on (none: the bare base)."""
    model.update_modules(tree_unflatten(list((bare | layers).items())))


def fill(layers: Layers, weights: Mapping[str, NDArray[np.float32]]) -> None:
    """Set the values from PEFT's names and orientation. Raises BackendError where they are not this model's, and sets none."""
    wanted = {peft_name(path): value for path, value in parameters(layers).items()}
    require_of({name: value.shape[::-1] for name, value in wanted.items()}, weights)
    values = {path: mx.array(np.ascontiguousarray(weights[peft_name(path)].T)) for path in parameters(layers)}
    mx.eval(list(values.values()))
    assign(layers, values)


def parameters(layers: Layers) -> dict[str, mx.array]:
    """The values by MLX's own paths, ..., q_proj.lora_a, sorted: the order of every gradient list."""
    return {f"{path}.{key}": layers[path][key] for path in sorted(layers) for key in layers[path].VALUES}


def magnitudes(layers: Layers) -> dict[str, NDArray[np.float32]]:
    """DoRA's first values under PEFT's names: the norms of the base's own rows. Empty for LoRA."""
    found = [(path, layer.magnitude) for path, layer in layers.items() if isinstance(layer, DoraLinear)]
    return {magnitude_name(path): np.asarray(magnitude) for path, magnitude in found}


def settle(layers: Layers) -> None:
    for layer in layers.values():
        layer.settle()


def assign(layers: Layers, values: Mapping[str, mx.array]) -> None:
    for path, value in values.items():
        module, _, key = path.rpartition(".")
        layers[module][key] = value
