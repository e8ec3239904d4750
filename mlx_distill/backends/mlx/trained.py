"""What is trained, or was: an adapter's values, or all weights of the model. Both can be put on a model, set, and kept in files.

It knows modules, values and files; nothing of gradients, optimizers or rows. Values are float32 by MLX's own paths, sorted: the order of
every list of gradients.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten
from numpy.typing import NDArray

from mlx_distill.backends import full, held
from mlx_distill.backends import lora as adapters
from mlx_distill.backends.base import LoraShape
from mlx_distill.backends.mlx import lora
from mlx_distill.errors import BackendError, CheckpointError


class Trained(Protocol):
    transposed: bool
    """Files hold the transpose of a matrix."""

    def values(self) -> dict[str, mx.array]: ...

    def set(self, values: Mapping[str, mx.array]) -> None:
        """Some of the values, traced ones too; the model computes with them as long as it has this on."""
        ...

    def fill(self, weights: Mapping[str, NDArray[np.float32]]) -> None:
        """All values, under their names in files. Raises BackendError where they are not this model's, and sets none."""
        ...

    def put_on(self) -> None:
        """On a model that has nothing else on."""
        ...

    def take_off(self) -> None: ...

    def settle(self) -> None:
        """Compute now, once, whatever follows from the values alone."""
        ...

    def file_name(self, path: str) -> str:
        """What a value is called in files."""
        ...

    def to_file(self, value: mx.array) -> NDArray[np.float32]:
        """A value, or what an optimizer keeps of it, in the orientation of files; `from_file` is the way back."""
        ...

    def from_file(self, array: NDArray[np.float32]) -> mx.array: ...

    def save(self, folder: Path, *, base: str) -> None: ...

    def read(self, folder: Path) -> Mapping[str, NDArray[np.float32]]:
        """What `save` wrote. Raises CheckpointError where it is of another shape, or damaged."""
        ...


class Adapter:
    """LoRA or DoRA layers beside a model's own."""

    transposed = True

    def __init__(self, model: nn.Module, bare: lora.Linears, shape: LoraShape, weights: Mapping[str, NDArray[np.float32]] | None = None):
        """On the modules that `weights` are of, with these values; without them, on those that the shape chooses."""
        self._model, self._bare, self._shape = model, bare, shape
        self._layers = lora.adapt(bare, shape, None if weights is None else adapters.modules_of(weights))
        if weights is not None:
            self.fill(weights)

    def start(self, seed: int) -> None:
        """First values, from the seed: those at which the base answers as it did."""
        fans = {path: lora.fans(self._bare[path]) for path in self._layers}
        self.fill(adapters.initial(fans, self._shape.rank, seed) | lora.magnitudes(self._layers))

    def values(self) -> dict[str, mx.array]:
        return lora.parameters(self._layers)

    def set(self, values: Mapping[str, mx.array]) -> None:
        lora.assign(self._layers, values)

    def fill(self, weights: Mapping[str, NDArray[np.float32]]) -> None:
        lora.fill(self._layers, weights)

    def put_on(self) -> None:
        lora.wear(self._model, self._bare, self._layers)

    def take_off(self) -> None:
        lora.wear(self._model, self._bare, {})

    def settle(self) -> None:
        lora.settle(self._layers)

    def file_name(self, path: str) -> str:
        return adapters.peft_name(path)

    def to_file(self, value: mx.array) -> NDArray[np.float32]:
        return np.ascontiguousarray(np.asarray(value).T)

    def from_file(self, array: NDArray[np.float32]) -> mx.array:
        return mx.array(np.ascontiguousarray(array.T))

    def save(self, folder: Path, *, base: str) -> None:
        weights = {self.file_name(path): self.to_file(value) for path, value in self.values().items()}
        adapters.save(folder, weights, self._shape, base=base)

    def read(self, folder: Path) -> Mapping[str, NDArray[np.float32]]:
        weights, shape = adapters.load(folder)
        if not adapters.same(shape, self._shape):
            raise CheckpointError(f"the checkpoint's adapter is {shape}, the recipe's {self._shape}", file=folder)
        return weights


class Whole:
    """All weights of an unquantized model.

    The values are float32 whatever the model's type, and the model computes with them in its own: a bfloat16 weight has 8 bits, so a
    step of less than 0.2 % of it would be rounded away, time and again. Gradients come back through the cast in float32.
    """

    transposed = False

    def __init__(self, model: nn.Module, base: Path, *, alone: bool):
        """`alone`: nothing else will be put on the model, so its own weights are let go. Raises BackendError for a packed base."""
        if held.packed(base):
            hint = "train an adapter, or convert the checkpoint anew: bits: none in a recipe, --bits none of convert"
            raise BackendError(f"{base.name} is quantized: its weights cannot be trained", hint=hint)
        self._model, self._places = model, _places(model)
        own = {path: module[key] for path, (module, key) in self._places.items()}
        self._types = {path: weight.dtype for path, weight in own.items()}
        self._own = None if alone else own
        self._values = {path: weight.astype(mx.float32) for path, weight in own.items()}
        self._is_on = False

    def values(self) -> dict[str, mx.array]:
        return dict(self._values)

    def set(self, values: Mapping[str, mx.array]) -> None:
        self._values.update(values)
        if self._is_on:
            self._show(values)

    def fill(self, weights: Mapping[str, NDArray[np.float32]]) -> None:
        full.require_of({path: tuple(value.shape) for path, value in self._values.items()}, weights)
        for path, weight in weights.items():
            self.set({path: mx.array(weight)})

    def put_on(self) -> None:
        self._is_on = True
        self._show(self._values)
        self._model.unfreeze()  # whoever takes a short way through a frozen weight sees that it is none

    def take_off(self) -> None:
        assert self._own is not None, "the base's own weights were let go"
        self._is_on = False
        self._model.freeze()
        for path, weight in self._own.items():
            module, key = self._places[path]
            module[key] = weight

    def settle(self) -> None:
        pass

    def file_name(self, path: str) -> str:
        return path

    def to_file(self, value: mx.array) -> NDArray[np.float32]:
        return np.asarray(value)

    def from_file(self, array: NDArray[np.float32]) -> mx.array:
        return mx.array(array)

    def save(self, folder: Path, *, base: str) -> None:
        shapes = {path: tuple(value.shape) for path, value in self._values.items()}
        full.save(folder, shapes, ((path, np.asarray(value)) for path, value in self._values.items()), base=base)

    def read(self, folder: Path) -> Mapping[str, NDArray[np.float32]]:
        return full.load(folder)

    def _show(self, values: Mapping[str, mx.array]) -> None:
        for path, value in values.items():
            module, key = self._places[path]
            module[key] = value.astype(self._types[path])


def _places(model: nn.Module) -> dict[str, tuple[nn.Module, str]]:
    """Path: the module that holds the weight, and its name there; sorted."""
    modules = dict(model.named_modules())
    paths = sorted(path for path, _ in tree_flatten(model.parameters()))
    return {path: (modules[path.rpartition(".")[0]], path.rpartition(".")[2]) for path in paths}
