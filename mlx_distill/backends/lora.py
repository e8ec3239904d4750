"""What every backend must agree on about an adapter: its files (PEFT's format), its names, its first values.

Arrays are NumPy, float32, in PEFT's orientation: `lora_A.weight` (rank, in), `lora_B.weight` (out, rank).
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlx_distill.backends.base import LoraShape
from mlx_distill.errors import CheckpointError
from mlx_distill.files import write_bytes, write_json
from mlx_distill.models.tensors import TensorPlace, read_header

Weights = dict[str, NDArray[np.float32]]
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."
AGAIN = "copy the adapter's folder again; a Run writes its own when `train` has validated once"
UNREAD = (
    "use_dora", "use_rslora", "lora_bias", "fan_in_fan_out", "bias", "modules_to_save", "rank_pattern", "alpha_pattern",
    "layers_to_transform", "layer_replication", "trainable_token_indices", "target_parameters", "use_qalora", "alora_invocation_tokens",
)  # fmt: skip
"""Settings of PEFT under which an adapter means something else than is computed here."""


def names(module: str) -> tuple[str, str]:
    """PEFT's names of A and B for a module, such as model.layers.0.self_attn.q_proj."""
    return f"{PREFIX}{module}.lora_A.weight", f"{PREFIX}{module}.lora_B.weight"


def initial(modules: Mapping[str, tuple[int, int]], rank: int, seed: int) -> Weights:
    """First values for modules {name: (in, out)}: A uniform within 1 / sqrt(in), as PEFT draws it, B zero.

    Each tensor has a generator of its own, keyed by its name: another list of targets changes no other tensor.
    """
    weights: Weights = {}
    for module, (fan_in, fan_out) in modules.items():
        name_a, name_b = names(module)
        bound = fan_in**-0.5
        generator = np.random.default_rng([seed, zlib.crc32(name_a.encode())])
        weights[name_a] = generator.uniform(-bound, bound, (rank, fan_in)).astype(np.float32)
        weights[name_b] = np.zeros((fan_out, rank), np.float32)
    return weights


def save(folder: Path, weights: Weights, shape: LoraShape, *, base: str) -> None:
    """Two files that PEFT loads, each written atomically; the weights first, so that a config never stands without them."""
    from safetensors.numpy import save as serialize

    folder.mkdir(parents=True, exist_ok=True)
    write_bytes(folder / WEIGHTS, serialize({name: np.ascontiguousarray(weights[name]) for name in sorted(weights)}, {"format": "pt"}))
    write_json(folder / CONFIG, _config(shape, base))


def load(folder: Path) -> tuple[Weights, LoraShape]:
    """An adapter folder. Raises CheckpointError for one that is missing, damaged, or of a kind that is not read here."""
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        weights = {name: _float32(place) for name, place in read_header(folder / WEIGHTS).items()}
    except (OSError, ValueError) as error:
        raise CheckpointError(f"no adapter can be read: {error}", file=folder, hint=AGAIN) from None
    except CheckpointError as error:
        raise CheckpointError(f"no adapter can be read: {error.message}", file=error.file, hint=AGAIN) from None
    return weights, _shape(config, folder / CONFIG)


def same(one: LoraShape, other: LoraShape) -> bool:
    """The order of targets means nothing, and the file keeps none."""
    return replace(one, targets=()) == replace(other, targets=()) and set(one.targets) == set(other.targets)


def _shape(config: Any, file: Path) -> LoraShape:
    """Raises CheckpointError on an adapter of a kind that would compute something else than y = W x + alpha / r * B A x."""
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        kind = config.get("peft_type") if isinstance(config, dict) else None
        raise CheckpointError(f"peft_type is {kind!r}, not 'LORA'", file=file, hint="adapters of PEFT's type LORA are read")
    for key in UNREAD:
        if config.get(key) not in (None, False, "none", {}, []):
            raise CheckpointError(f"adapters with {key} are not supported", file=file, hint="train one without it")
    targets = config.get("target_modules")
    targets = [targets] if isinstance(targets, str) else targets
    if not (isinstance(targets, list) and isinstance(config.get("r"), int) and isinstance(config.get("lora_alpha"), (int, float))):
        raise CheckpointError("r, lora_alpha or target_modules is missing", file=file, hint=AGAIN)
    return LoraShape(config["r"], config["lora_alpha"], config.get("lora_dropout") or 0.0, tuple(targets))


def _float32(place: TensorPlace) -> NDArray[np.float32]:
    """A tensor of a file, whatever floating type it has there."""
    raw = place.rows(0, place.shape[0]).data
    if place.dtype == "BF16":
        return (raw.astype(np.uint32) << 16).view(np.float32)
    return raw.astype(np.float32)


def _config(shape: LoraShape, base: str) -> dict[str, object]:
    return {
        "base_model_name_or_path": base,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "lora_alpha": shape.alpha,
        "lora_dropout": shape.dropout,
        "modules_to_save": None,
        "peft_type": "LORA",
        "r": shape.rank,
        "target_modules": sorted(shape.targets),
        "task_type": "CAUSAL_LM",
        "use_dora": False,
        "use_rslora": False,
    }
