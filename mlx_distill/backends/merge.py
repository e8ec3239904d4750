"""A base with what was trained merged into its weights: the same files, tensor by tensor, some rows at a time; and what rounding loses.

    LoRA  W + s B A        DoRA  m / |W + s B A| * (W + s B A)        full fine-tuning  the trained weight itself

The new weights are stored as the old ones were: in 16 bits, or packed anew, they are not quite what was computed. How far off they are is
told in units of what the training changed: a loss of 0.5 means that rounding moves a layer's weights half as far as the adapter does.
It knows weights and layouts; nothing of runs, of other files of a base, or where anything is written.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlx_distill.backends.base import Backend, LoraShape
from mlx_distill.backends.lora import Weights, float32, magnitude_name, modules_of, names
from mlx_distill.errors import CheckpointError
from mlx_distill.models.tensors import TensorPlace, read_header
from mlx_distill.models.unpack import unpack
from mlx_distill.records import RawTensor

Array = NDArray[np.float32]
Change = Callable[[Array, slice], Array]
"""Rows of a weight, and which rows they are, to what they become."""
PIECE_BYTES = 64 << 20
"""Of a weight in float32: how much is worked on at a time."""
DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}


@dataclass(frozen=True, slots=True)
class Loss:
    """Of one tensor: the norm of what rounding adds, by the norm of what the training changed; None where it changed nothing."""

    name: str
    relative: float | None


@dataclass(slots=True)
class Merged:
    """What becomes of a base's tensors. `losses` are known for those that have been gone through."""

    backend: Backend
    tensors: Mapping[str, TensorPlace]
    changes: Mapping[str, tuple[int, Change]]
    """By the tensor's name: its columns, and what becomes of its rows."""
    losses: dict[str, Loss] = field(default_factory=dict)

    @property
    def packed(self) -> bool:
        return any(_scales(name) in self.tensors for name in self.changes)

    def pieces(self, name: str) -> Iterator[tuple[str, RawTensor]]:
        """The tensors that `name` becomes, in pieces of rows. Of a packed weight, its scales and biases come with it."""
        place = self.tensors[name]
        if name in self.changes:
            yield from self._changed(name, place)
        elif _owner(name) not in self.changes:
            for rows in _rows(place, place.nbytes):
                yield name, place.rows(rows.start, rows.stop)

    def measure(self) -> list[Loss]:
        """Go through all that changes, and keep nothing but the losses."""
        for name in self.changes:
            for _ in self.pieces(name):
                pass
        return list(self.losses.values())

    def _changed(self, name: str, place: TensorPlace) -> Iterator[tuple[str, RawTensor]]:
        columns, change = self.changes[name]
        off = moved = 0.0
        for rows in _rows(place, 4 * place.shape[0] * columns):
            old = self._dense(name, rows, columns)
            new = change(old, rows)
            stored = self._stored(name, new, columns)
            kept = _unpacked(stored, name, columns)
            off, moved = (
                off + float(np.square(kept - new, dtype=np.float64).sum()),
                moved + float(np.square(new - old, dtype=np.float64).sum()),
            )
            yield from stored.items()
        self.losses[name] = Loss(name, (off / moved) ** 0.5 if moved else None)

    def _dense(self, name: str, rows: slice, columns: int) -> Array:
        parts = {key: self.tensors[key].rows(rows.start, rows.stop) for key in (name, _scales(name), _biases(name)) if key in self.tensors}
        return _unpacked(parts, name, columns)

    def _stored(self, name: str, weight: Array, columns: int) -> dict[str, RawTensor]:
        """As the base stores it: cast, or packed with the same bits and groups."""
        scales = self.tensors.get(_scales(name))
        if scales is None:
            cast = DTYPES[self.tensors[name].dtype]
            return self.backend.quantize({name: RawTensor("F32", weight)}, bits=None, group_size=0, dtype=cast)
        bits, group_size = self.tensors[name].shape[1] * 32 // columns, columns // scales.shape[1]
        return self.backend.quantize({name: RawTensor("F32", weight)}, bits=bits, group_size=group_size, dtype=DTYPES[scales.dtype])


def merged(base: Path, changes: Mapping[str, tuple[tuple[int, ...], Change]], backend: Backend) -> Merged:
    """`changes`: by name, the whole shape of the weight that it is meant for, and what becomes of it.

    Raises CheckpointError where the base has other weights, or is packed in a way of which there are several.
    """
    mode = _config(base).get("quantization", {}).get("mode", "affine")
    if mode != "affine":
        raise CheckpointError(
            f"weights packed as {mode} are not merged into", file=base, hint="merge into the unquantized checkpoint: --base"
        )
    tensors: dict[str, TensorPlace] = {}
    for file in sorted(base.glob("model*.safetensors")):
        tensors |= read_header(file)
    for name, (shape, _) in changes.items():
        hint = "name the base that the adapter was trained on: --base"
        if name not in tensors:
            raise CheckpointError(f"this base has no {name}", file=base, hint=hint)
        place, packed = tensors[name], _scales(name) in tensors
        if place.shape[:1] != shape[:1] or (not packed and place.shape != shape):
            raise CheckpointError(f"{name} is {list(place.shape)} here; what was trained is for {list(shape)}", file=base, hint=hint)
    return Merged(backend, tensors, {name: (shape[-1], change) for name, (shape, change) in changes.items()})


def adapter_changes(weights: Weights, shape: LoraShape) -> dict[str, tuple[tuple[int, ...], Change]]:
    """What an adapter does to each weight that it is on."""
    return {f"{module}.weight": _adapter_change(weights, shape, module) for module in modules_of(weights)}


def _adapter_change(weights: Weights, shape: LoraShape, module: str) -> tuple[tuple[int, ...], Change]:
    a, b = (weights[name] for name in names(module))
    magnitude = weights.get(magnitude_name(module))

    def change(old: Array, rows: slice) -> Array:
        new = old + np.float32(shape.scale) * (b[rows] @ a)
        if magnitude is None:
            return new
        gains: Array = magnitude[rows] / np.maximum(np.linalg.norm(new, axis=1), 1e-6)
        return new * gains[:, None]

    return (b.shape[0], a.shape[1]), change


def full_changes(weights: Mapping[str, Array]) -> dict[str, tuple[tuple[int, ...], Change]]:
    """Of a full fine-tuning: every weight becomes what was trained."""

    def put(weight: Array) -> Change:
        return lambda _, rows: np.asarray(weight[rows])

    return {name: (weight.shape, put(weight)) for name, weight in weights.items()}


def worst_and_mean(losses: Sequence[Loss]) -> tuple[Loss | None, float | None]:
    told = [(loss.relative, loss) for loss in losses if loss.relative is not None]
    if not told:
        return None, None
    return max(told, key=lambda pair: pair[0])[1], sum(relative for relative, _ in told) / len(told)


def _unpacked(parts: Mapping[str, RawTensor], name: str, columns: int) -> Array:
    if _scales(name) not in parts:
        return float32(parts[name])
    scales, biases = float32(parts[_scales(name)]), float32(parts[_biases(name)])
    return unpack(parts[name].data.astype(np.uint32, copy=False), scales, biases, columns)


def _rows(place: TensorPlace, nbytes: int) -> Iterator[slice]:
    """Runs of rows, of which the whole has `nbytes`."""
    count = place.shape[0]
    step = max(1, PIECE_BYTES * count // max(nbytes, 1))
    for first in range(0, count, step):
        yield slice(first, min(first + step, count))


def _config(base: Path) -> dict[str, Any]:
    try:
        config = json.loads((base / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"this is no base: {error}", file=base, hint="make one: mlx-distill convert MODEL OUT") from None
    return config if isinstance(config, dict) else {}


def _scales(name: str) -> str:
    return f"{name.removesuffix('weight')}scales"


def _biases(name: str) -> str:
    return f"{name.removesuffix('weight')}biases"


def _owner(name: str) -> str:
    """The packed weight that scales or biases belong to; any other name is its own."""
    for suffix in (".scales", ".biases"):
        if name.endswith(suffix):
            return f"{name.removesuffix(suffix)}.weight"
    return name
