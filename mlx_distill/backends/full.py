"""What every backend must agree on about a full fine-tuning: its files.

    full_config.json   the base that it began from, and how many weights were trained
    model.safetensors  every one of them in float32, under the checkpoint's names

Float32 whatever the base's type: what goes on after a resume is exactly what stopped. `adapter merge` makes a base of it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mlx_distill.errors import BackendError, CheckpointError
from mlx_distill.files import write_json
from mlx_distill.models.tensors import Shape, read_header, tensor_file
from mlx_distill.records import RawTensor

CONFIG, WEIGHTS = "full_config.json", "model.safetensors"
AGAIN = "copy the folder again; a Run writes its own when `train` has validated once"


def is_full(folder: Path) -> bool:
    """Whether a folder holds trained weights, rather than an adapter."""
    return (folder / CONFIG).is_file()


def save(folder: Path, shapes: Mapping[str, Shape], weights: Iterable[tuple[str, NDArray[np.float32]]], *, base: str) -> None:
    """Two files, each written atomically; the weights first, one after another, so that none but one is held twice."""
    folder.mkdir(parents=True, exist_ok=True)
    with tensor_file(folder / WEIGHTS, {name: ("F32", shape) for name, shape in shapes.items()}) as writer:
        for name, weight in weights:
            writer.write(name, RawTensor("F32", weight))
    write_json(folder / CONFIG, {"base": base, "parameters": sum(map(math.prod, shapes.values()))})


def require_of(shapes: Mapping[str, Shape], weights: Mapping[str, NDArray[np.float32]]) -> None:
    """Raises BackendError where trained weights are not those of a base, which has `shapes` by the same names."""
    hint = "open the base that they were trained on"
    if odd := sorted(shapes.keys() ^ weights.keys()):
        raise BackendError(f"the weights are not of this base: {odd[0]} and {len(odd) - 1} more differ", hint=hint)
    for name, shape in shapes.items():
        if weights[name].shape != shape:
            raise BackendError(f"{name} is {weights[name].shape}; this base needs {shape}", hint=hint)


def load(folder: Path) -> dict[str, NDArray[np.float32]]:
    """The weights, read from the disk when they are looked at. Raises CheckpointError where the folder is damaged."""
    try:
        json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        places = read_header(folder / WEIGHTS)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"no trained weights can be read: {error}", file=folder, hint=AGAIN) from None
    except CheckpointError as error:
        raise CheckpointError(f"no trained weights can be read: {error.message}", file=error.file, hint=AGAIN) from None
    if odd := next((name for name, place in places.items() if place.dtype != "F32"), None):
        raise CheckpointError(f"{odd} has the type {places[odd].dtype}; trained weights are F32", file=folder / WEIGHTS, hint=AGAIN)
    return {name: np.memmap(place.file, np.float32, "r", place.start, place.shape) for name, place in places.items()}
