"""What every backend must agree on about an adapter: its files (PEFT's format), its names, its first values.

Arrays are NumPy, float32, in PEFT's orientation: `lora_A.weight` (rank, in), `lora_B.weight` (out, rank).
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mlx_distill.backends.base import LoraShape
from mlx_distill.errors import CheckpointError
from mlx_distill.files import write_bytes, write_json

Weights = dict[str, NDArray[np.float32]]
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."


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
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        weights = {name: array.astype(np.float32) for name, array in load_file(folder / WEIGHTS).items()}
    except (OSError, ValueError, SafetensorError) as error:
        raise CheckpointError(
            f"no adapter can be read: {error}", file=folder, hint="a Run's adapter is written when `train` has validated once"
        ) from None
    for key in ("use_dora", "use_rslora"):
        if config.get(key):
            raise CheckpointError(f"adapters with {key} are not supported yet", file=folder / CONFIG)
    if config.get("peft_type") != "LORA":
        raise CheckpointError(f"peft_type is {config.get('peft_type')!r}, not 'LORA'", file=folder / CONFIG)
    targets = tuple(config["target_modules"]) if isinstance(config["target_modules"], list) else (config["target_modules"],)
    return weights, LoraShape(config["r"], config["lora_alpha"], config.get("lora_dropout", 0.0), targets)


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
