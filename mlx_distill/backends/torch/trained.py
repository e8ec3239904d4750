"""What is trained, or was: an adapter's values, or all weights of the model. Both can be put on a model, set, and kept in files.

It knows modules, values and files; nothing of optimizers or rows. Values are float32 by their paths in the model, which are the
checkpoint's own names, sorted: the order of every list of gradients. They are changed in place, and their gradients lie in their `grad`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn as nn
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from mlx_distill.backends import full, held
from mlx_distill.backends import lora as adapters
from mlx_distill.backends.base import LoraShape
from mlx_distill.backends.torch import lora
from mlx_distill.backends.torch.model import Model
from mlx_distill.errors import BackendError, CheckpointError


class Trained(Protocol):
    def values(self) -> dict[str, Tensor]:
        """float32 leaves; who changes them in place calls `settle` before the model computes with them."""
        ...

    def learn(self, on: bool) -> None:
        """From now on a backward pass adds each value's gradient to its `grad`, float32. Off: none does, and nothing is dropped."""
        ...

    def draw(self, key: int | None) -> None:
        """The dropout of whatever is forwarded from now on follows from this. None: nothing is dropped."""
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

    def save(self, folder: Path, *, base: str) -> None: ...

    def read(self, folder: Path) -> Mapping[str, NDArray[np.float32]]:
        """What `save` wrote. Raises CheckpointError where it is of another shape, or damaged."""
        ...


class Adapter:
    """LoRA or DoRA layers beside a model's own."""

    def __init__(self, model: Model, bare: lora.Linears, shape: LoraShape, weights: Mapping[str, NDArray[np.float32]] | None = None):
        """On the modules that `weights` are of, with these values; without them, on those that the shape chooses."""
        self._net, self._bare, self._shape, self._draw = model.net, bare, shape, lora.Draw()
        self._layers = lora.adapt(bare, shape, None if weights is None else adapters.modules_of(weights), draw=self._draw)
        if weights is not None:
            self.fill(weights)

    def start(self, seed: int) -> None:
        """First values, from the seed: those at which the base answers as it did."""
        fans = {path: lora.fans(self._bare[path]) for path in self._layers}
        self.fill(adapters.initial(fans, self._shape.rank, seed) | lora.magnitudes(self._layers))

    def values(self) -> dict[str, Tensor]:
        return dict(lora.parameters(self._layers))

    def learn(self, on: bool) -> None:
        self._draw.key = None
        for value in self.values().values():
            value.requires_grad_(on)

    def draw(self, key: int | None) -> None:
        self._draw.key = key

    def fill(self, weights: Mapping[str, NDArray[np.float32]]) -> None:
        lora.fill(self._layers, weights)

    def put_on(self) -> None:
        lora.wear(self._net, self._bare, self._layers)

    def take_off(self) -> None:
        lora.wear(self._net, self._bare, {})

    def settle(self) -> None:
        lora.settle(self._layers)

    def file_name(self, path: str) -> str:
        return adapters.peft_name(path)

    def save(self, folder: Path, *, base: str) -> None:
        weights = {self.file_name(path): to_file(value) for path, value in self.values().items()}
        adapters.save(folder, weights, self._shape, base=base)

    def read(self, folder: Path) -> Mapping[str, NDArray[np.float32]]:
        weights, shape = adapters.load(folder)
        if not adapters.same(shape, self._shape):
            raise CheckpointError(f"the checkpoint's adapter is {shape}, the recipe's {self._shape}", file=folder)
        return weights


class Whole:
    """All weights of an unquantized model.

    The values are float32 whatever the model's type, and the model computes with them in its own: a bfloat16 weight has 8 bits, so a
    step of less than 0.2 % of it would be rounded away, time and again. The weight's gradient is added to the value's as soon as a
    backward pass is done with it, and let go. A float32 model computes with the values themselves.
    """

    def __init__(self, model: Model, base: Path, *, alone: bool):
        """`alone`: nothing else will be put on the model, so its own weights are let go. Raises BackendError for a packed base."""
        if held.packed(base):
            hint = "train an adapter, or convert the checkpoint anew: bits: none in a recipe, --bits none of convert"
            raise BackendError(f"{base.name} is quantized: its weights cannot be trained", hint=hint)
        self._places = _places(model.net)
        own = {path: getattr(*places[0]) for path, places in self._places.items()}
        self._own = None if alone else own
        self._shown = own if alone else {path: _parameter(weight.detach().clone()) for path, weight in own.items()}
        self._values = {path: weight if weight.dtype == torch.float32 else _master(weight) for path, weight in self._shown.items()}
        self._versions: dict[str, int] = {}
        self._hooks: list[RemovableHandle] = []

    def values(self) -> dict[str, Tensor]:
        return dict(self._values)

    def learn(self, on: bool) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks = []
        for path, weight in self._shown.items():
            weight.requires_grad_(on)
            if on and (value := self._values[path]) is not weight:
                self._hooks.append(weight.register_post_accumulate_grad_hook(_Moved(value)))

    def draw(self, key: int | None) -> None:
        """Nothing is dropped."""

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def fill(self, weights: Mapping[str, NDArray[np.float32]]) -> None:
        full.require_of({path: tuple(value.shape) for path, value in self._values.items()}, weights)
        for path, value in self._values.items():
            value.copy_(from_file(weights[path]))
        self.settle()

    def put_on(self) -> None:
        self._place(self._shown)

    def take_off(self) -> None:
        assert self._own is not None, "the base's own weights were let go"
        self._place(self._own)

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def settle(self) -> None:
        """Round to the model's type what has changed."""
        for path, value in self._values.items():
            if value is not self._shown[path] and self._versions.get(path) != value._version:
                self._shown[path].copy_(value)
                self._versions[path] = value._version

    def file_name(self, path: str) -> str:
        return path

    def save(self, folder: Path, *, base: str) -> None:
        shapes = {path: tuple(value.shape) for path, value in self._values.items()}
        full.save(folder, shapes, ((path, to_file(value)) for path, value in self._values.items()), base=base)

    def read(self, folder: Path) -> Mapping[str, NDArray[np.float32]]:
        return full.load(folder)

    def _place(self, weights: Mapping[str, nn.Parameter]) -> None:
        for path, weight in weights.items():
            for module, name in self._places[path]:
                setattr(module, name, weight)


class _Moved:
    """A weight's gradient goes to the value that it was rounded from."""

    def __init__(self, value: Tensor):
        self._value = value

    def __call__(self, weight: Tensor) -> None:
        assert weight.grad is not None
        if self._value.grad is None:
            self._value.grad = weight.grad.float()
        else:
            self._value.grad.add_(weight.grad)
        weight.grad = None


def to_file(value: Tensor) -> NDArray[np.float32]:
    """A value, or what an optimizer keeps of it; `from_file` is the way back, on the CPU. Files have PyTorch's orientation."""
    array: NDArray[np.float32] = value.detach().cpu().numpy()
    return array


def from_file(array: NDArray[np.float32]) -> Tensor:
    return torch.from_numpy(np.array(array, np.float32))


def _places(net: nn.Module) -> dict[str, list[tuple[Any, str]]]:
    """Path: where the weight is, each as (module, name there); a head that is the embedding is the second place of the same weight.

    Sorted, by the first path of each.
    """
    found: dict[int, tuple[str, list[tuple[Any, str]]]] = {}
    for path, module in net.named_modules():
        for name, weight in module.named_parameters(recurse=False):
            found.setdefault(id(weight), (f"{path}.{name}", []))[1].append((module, name))
    return dict(sorted(found.values(), key=lambda entry: entry[0]))


def _parameter(weight: Tensor) -> nn.Parameter:
    return nn.Parameter(weight, requires_grad=False)


def _master(weight: nn.Parameter) -> nn.Parameter:
    return _parameter(weight.detach().float())
