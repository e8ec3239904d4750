"""mlx-lm's own format of adapters, read and written: `adapters.safetensors` and an `adapter_config.json` of another kind than PEFT's.

    ours (PEFT's)                         mlx-lm's
    lora_A (rank, in), lora_B (out, rank) lora_a (in, rank), lora_b (rank, out)
    lora_magnitude_vector                 m
    alpha / rank, alpha / sqrt(rank)      scale
    target_modules, layers_to_transform   keys (paths within a layer, or whole ones), num_layers (so many of the last)
    use_dora                              fine_tune_type: dora

rsLoRA is a scale like any other there, so an adapter that was exported and imported again is a plain one with another alpha.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mlx_distill.backends.base import LoraShape
from mlx_distill.backends.lora import Weights, check, float32, last_name, layer_of, magnitude_name, modules_of, names
from mlx_distill.errors import CheckpointError
from mlx_distill.files import write_bytes, write_json
from mlx_distill.models.tensors import read_header

CONFIG, WEIGHTS = "adapter_config.json", "adapters.safetensors"
_TENSOR = re.compile(r"(.+)\.(lora_a|lora_b|m)")
_MODULE = re.compile(r"model\.layers\.\d+\.(.+)")


def load(path: Path) -> tuple[Weights, LoraShape, str]:
    """A folder of mlx-lm's, or one of the files of weights in it: weights under PEFT's names, shape, and the base's name.

    Raises CheckpointError for one that is missing, damaged, or says what PEFT's format has no place for.
    """
    folder, file = (path.parent, path) if path.is_file() else (path, path / WEIGHTS)
    config = _read(folder / CONFIG)
    kind = config.get("fine_tune_type", "lora")
    if kind not in ("lora", "dora"):
        hint = "make a model of it with mlx_lm.fuse" if kind == "full" else "fine_tune_type is lora or dora"
        raise CheckpointError(f"fine_tune_type is {kind!r}: no adapter", file=folder / CONFIG, hint=hint)
    try:
        told = config["lora_parameters"]
        rank, scale, dropout = int(told["rank"]), float(told["scale"]), float(told.get("dropout", 0.0))
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"lora_parameters cannot be read: {error!r}", file=folder / CONFIG, hint="rank and scale stand there"
        ) from None
    weights = _weights(file)
    modules = modules_of(weights)
    depth = sorted({layer_of(module) for module in modules})
    shape = LoraShape(
        rank=rank,
        alpha=scale * rank,
        dropout=dropout,
        targets=tuple(sorted({last_name(module) for module in modules})),
        layers=None if depth[0] == 0 else len(depth),
        dora=kind == "dora",
    )
    check(weights, shape, file)
    _require_even(modules, depth, file)
    return weights, shape, str(config.get("model", ""))


def save(folder: Path, weights: Weights, shape: LoraShape, *, base: str) -> None:
    """Two files that `mlx_lm.load(base, adapter_path=folder)` reads, each written atomically."""
    from safetensors.numpy import save as serialize

    folder.mkdir(parents=True, exist_ok=True)
    tensors = {}
    for module in modules_of(weights):
        for name, key in zip(names(module), ("lora_a", "lora_b"), strict=True):
            tensors[f"{module}.{key}"] = np.ascontiguousarray(weights[name].T)
        if shape.dora:
            tensors[f"{module}.m"] = weights[magnitude_name(module)]
    write_bytes(folder / WEIGHTS, serialize(tensors, {"format": "mlx"}))
    write_json(folder / CONFIG, _config(modules_of(weights), shape, base))


def is_one(path: Path) -> bool:
    """Whether a folder holds an adapter of mlx-lm's."""
    return (path / WEIGHTS).is_file()


def _config(modules: list[str], shape: LoraShape, base: str) -> dict[str, Any]:
    """Of some layers, each module is named whole: mlx-lm counts `num_layers` from the last one, which an adapter alone does not know."""
    within = sorted({found[1] for module in modules if (found := _MODULE.fullmatch(module))})
    parameters = {"rank": shape.rank, "scale": shape.scale, "dropout": shape.dropout}
    return {
        "fine_tune_type": "dora" if shape.dora else "lora",
        "lora_parameters": parameters | {"keys": within if shape.layers is None else modules},
        "model": base,
        "num_layers": 1 + max(map(layer_of, modules)),
    }


def _read(file: Path) -> Mapping[str, Any]:
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        hint = "name a folder with adapters.safetensors and adapter_config.json"
        raise CheckpointError(f"no adapter of mlx-lm's can be read: {error}", file=file, hint=hint) from None
    if not isinstance(config, dict):
        raise CheckpointError("adapter_config.json holds no mapping", file=file)
    if "peft_type" in config:
        raise CheckpointError("this is an adapter in PEFT's format already", file=file, hint="there is nothing to import")
    return config


def _weights(file: Path) -> Weights:
    weights: Weights = {}
    for name, place in read_header(file).items():
        found, within = _TENSOR.fullmatch(name), _MODULE.fullmatch(name)
        if found is None or within is None or len(place.shape) != (1 if found[2] == "m" else 2):
            hint = "adapters of the projections of a block are imported; not of embeddings, heads or experts"
            raise CheckpointError(f"{name} {list(place.shape)} has no place in PEFT's format here", file=file, hint=hint)
        value = float32(place)
        if found[2] == "m":
            weights[magnitude_name(found[1])] = value
        else:
            weights[names(found[1])[found[2] == "lora_b"]] = np.ascontiguousarray(value.T)
    if not weights:
        raise CheckpointError("the adapter has no tensors", file=file)
    return weights


def _require_even(modules: list[str], layers: list[int], file: Path) -> None:
    """PEFT's `target_modules` and `layers_to_transform` say which names and which layers, and not which name in which layer."""
    within = {module.split(".", 3)[3] for module in modules}
    if len(modules) != len(within) * len(layers):
        message = f"its {len(layers)} layers do not all adapt the same projections ({', '.join(sorted(within))})"
        raise CheckpointError(message, file=file, hint="train it again with the same keys in every layer")
