"""What every backend must agree on about an adapter: its files (PEFT's format), its names, its first values.

Arrays are NumPy, float32, in PEFT's orientation: `lora_A.weight` (rank, in), `lora_B.weight` (out, rank), and DoRA's
`lora_magnitude_vector` (out,). Which projections an adapter has follows from its tensors' names: `target_modules` and
`layers_to_transform` say nothing that they do not.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlx_distill.backends.base import LoraShape
from mlx_distill.errors import BackendError, CheckpointError
from mlx_distill.files import write_bytes, write_json
from mlx_distill.models.tensors import Shape, TensorPlace, read_header
from mlx_distill.records import RawTensor

Weights = dict[str, NDArray[np.float32]]
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."
AGAIN = "copy the adapter's folder again; a Run writes its own when `train` has validated once"
OTHER_BASE = "open the base it was trained on"
UNREAD = (
    "lora_bias", "fan_in_fan_out", "bias", "modules_to_save", "rank_pattern", "alpha_pattern", "layer_replication",
    "trainable_token_indices", "target_parameters", "use_qalora", "alora_invocation_tokens", "kasa_config", "monteclora_config",
    "use_bdlora", "arrow_config",
)  # fmt: skip
"""Settings of PEFT under which an adapter means something else than is computed here."""
STARTS = (True, False, None, "gaussian", "eva", "orthogonal")
"""PEFT's `init_lora_weights` that leave the base as it is; the others (pissa, olora, loftq, ...) change its weights."""
_TENSOR = re.compile(r"base_model\.model\.(.+)\.(?:lora_[AB]\.weight|lora_magnitude_vector)")
_LAYER = re.compile(r"(?:^|\.)layers\.(\d+)\.")


def names(module: str) -> tuple[str, str]:
    """PEFT's names of A and B for a module, such as model.layers.0.self_attn.q_proj."""
    return f"{PREFIX}{module}.lora_A.weight", f"{PREFIX}{module}.lora_B.weight"


def magnitude_name(module: str) -> str:
    """PEFT's name of DoRA's magnitudes."""
    return f"{PREFIX}{module}.lora_magnitude_vector"


def peft_name(path: str) -> str:
    """PEFT's name of a value of a layer, by its path: model.layers.0.self_attn.q_proj.lora_a, or .lora_b, or .magnitude."""
    module, _, which = path.rpartition(".")
    return magnitude_name(module) if which == "magnitude" else names(module)[which == "lora_b"]


def modules_of(weights: Iterable[str]) -> list[str]:
    """The modules that an adapter's tensors belong to, sorted. Raises ValueError on a name that is none of an adapter's."""
    found = set()
    for name in weights:
        if (match := _TENSOR.fullmatch(name)) is None:
            raise ValueError(f"{name} is no tensor of a linear layer's adapter")
        found.add(match[1])
    return sorted(found)


def chosen(modules: Iterable[str], shape: LoraShape) -> list[str]:
    """Those of a base's projections that get an adapter. Raises BackendError where the base lacks a target, or has too few layers."""
    modules = list(modules)
    there = {last_name(module) for module in modules}
    if missing := set(shape.targets) - there:
        raise BackendError(
            f"this base has no projection {', '.join(sorted(missing))}", hint=f"lora.targets may name {', '.join(sorted(there))}"
        )
    depth = 1 + max(map(layer_of, modules))
    if (last := depth if shape.layers is None else shape.layers) > depth:
        raise BackendError(f"this base has {depth} layers; got last {last}", hint="lora.layers: all")
    return [module for module in modules if last_name(module) in shape.targets and layer_of(module) >= depth - last]


def require_there(modules: Iterable[str], base: Collection[str]) -> None:
    """Raises BackendError where the base has not every one of an adapter's modules."""
    if missing := [module for module in modules if module not in base]:
        raise _foreign(missing)


def require_of(shapes: Mapping[str, Shape], weights: Mapping[str, NDArray[np.float32]]) -> None:
    """Raises BackendError where an adapter's values are not those that a base needs, which has `shapes` by PEFT's names."""
    if odd := shapes.keys() ^ weights.keys():
        raise _foreign(sorted(odd))
    for name, shape in shapes.items():
        if weights[name].shape != shape:
            raise BackendError(f"{name} is {weights[name].shape}; this base needs {shape}", hint=OTHER_BASE)


def _foreign(odd: Sequence[str]) -> BackendError:
    more = f" and {len(odd) - 1} more differ" if len(odd) > 1 else " differs"
    return BackendError(f"the adapter is not of this base: {odd[0]}{more}", hint=OTHER_BASE)


def last_name(module: str) -> str:
    return module.rpartition(".")[2]


def layer_of(module: str) -> int:
    """The number of the layer that a module lies in; -1 for one that lies in none."""
    found = _LAYER.search(module)
    return int(found[1]) if found else -1


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
    write_json(folder / CONFIG, _config(shape, base, sorted({layer_of(module) for module in modules_of(weights)})))


def load(folder: Path) -> tuple[Weights, LoraShape]:
    """An adapter folder. Raises CheckpointError for one that is missing, damaged, or of a kind that is not read here.

    `shape.layers` counts the layers that the adapter was restricted to; only for one of ours it is known that they are the last.
    """
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        weights = {name: float32(place) for name, place in read_header(folder / WEIGHTS).items()}
    except (OSError, ValueError) as error:
        raise CheckpointError(f"no adapter can be read: {error}", file=folder, hint=AGAIN) from None
    except CheckpointError as error:
        raise CheckpointError(f"no adapter can be read: {error.message}", file=error.file, hint=AGAIN) from None
    shape = _shape(config, weights, folder / CONFIG)
    check(weights, shape, folder / WEIGHTS)
    if odd := next((module for module in modules_of(weights) if not _targeted(config, module)), None):
        raise CheckpointError(f"the adapter has tensors for {odd}, which its config does not target", file=folder / CONFIG, hint=AGAIN)
    return weights, shape


def base_of(folder: Path) -> str:
    """The name of the base that an adapter was trained on, as its config tells it; empty where it does not."""
    try:
        return str(json.loads((folder / CONFIG).read_text(encoding="utf-8")).get("base_model_name_or_path") or "")
    except (OSError, ValueError, AttributeError):
        return ""


def same(one: LoraShape, other: LoraShape) -> bool:
    """The order of targets means nothing, and the file keeps none."""
    return replace(one, targets=()) == replace(other, targets=()) and set(one.targets) == set(other.targets)


def _shape(config: Any, weights: Weights, file: Path) -> LoraShape:
    """Raises CheckpointError on an adapter of a kind that would compute something else than LoRA or DoRA."""
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        kind = config.get("peft_type") if isinstance(config, dict) else None
        raise CheckpointError(f"peft_type is {kind!r}, not 'LORA'", file=file, hint="adapters of PEFT's type LORA are read")
    for key in UNREAD:
        if config.get(key) not in (None, False, "none", {}, []):
            raise CheckpointError(f"adapters with {key} are not supported", file=file, hint="train one without it")
    if (start := config.get("init_lora_weights")) not in STARTS:
        hint = "save it with PEFT's path_initial_model_for_weight_conversion, which makes a plain adapter of it"
        raise CheckpointError(f"an adapter that began as {start!r} goes with a base whose weights that changed", file=file, hint=hint)
    targets = isinstance(config.get("target_modules"), (str, list))
    if not (targets and isinstance(config.get("r"), int) and isinstance(config.get("lora_alpha"), (int, float))):
        raise CheckpointError("r, lora_alpha or target_modules is missing", file=file, hint=AGAIN)
    return LoraShape(
        rank=config["r"],
        alpha=config["lora_alpha"],
        dropout=config.get("lora_dropout") or 0.0,
        targets=tuple(sorted({last_name(module) for module in _modules(weights, file)})),
        layers=len({layer_of(module) for module in _modules(weights, file)}) if _restricted(config) else None,
        rslora=bool(config.get("use_rslora")),
        dora=bool(config.get("use_dora")),
    )


def _modules(weights: Weights, file: Path) -> list[str]:
    try:
        found = modules_of(weights)
    except ValueError as error:
        raise CheckpointError(str(error), file=file, hint="adapters of the projections of a block are read") from None
    if not found:
        raise CheckpointError("the adapter has no tensors", file=file, hint=AGAIN)
    return found


def _restricted(config: Mapping[str, Any]) -> list[int]:
    """The layers that alone are adapted; empty: all."""
    layers = config.get("layers_to_transform")
    return [layers] if isinstance(layers, int) else list(layers or ())


def _targeted(config: Mapping[str, Any], module: str) -> bool:
    """Whether PEFT would adapt it. Targets that are a text are a regular expression: what it matched, the tensors say."""
    targets, layers = config["target_modules"], _restricted(config)
    named = isinstance(targets, str) or any(module == target or module.endswith(f".{target}") for target in targets)
    return named and (not layers or layer_of(module) in layers)


def check(weights: Weights, shape: LoraShape, file: Path) -> None:
    """Raises CheckpointError where config and tensors contradict each other."""
    for module in _modules(weights, file):
        expected = {*names(module), *((magnitude_name(module),) if shape.dora else ())}
        there = {name for name in (*names(module), magnitude_name(module)) if name in weights}
        if odd := sorted(expected ^ there):
            what = "lacks" if odd[0] in expected else f"has use_dora {str(shape.dora).lower()} and yet"
            raise CheckpointError(f"the adapter {what} {odd[0]}", file=file, hint=AGAIN)
        name_a, name_b = names(module)
        if (ranks := (weights[name_a].shape[0], weights[name_b].shape[-1])) != (shape.rank, shape.rank):
            raise CheckpointError(f"{module} has the ranks {ranks}; r is {shape.rank}", file=file, hint=AGAIN)


def float32(tensor: TensorPlace | RawTensor) -> NDArray[np.float32]:
    """Whatever floating type it has in its file."""
    raw = tensor if isinstance(tensor, RawTensor) else tensor.rows(0, tensor.shape[0])
    if raw.dtype == "BF16":
        return (raw.data.astype(np.uint32) << 16).view(np.float32)
    return raw.data.astype(np.float32)


def _config(shape: LoraShape, base: str, layers: list[int]) -> dict[str, object]:
    """`layers`: those that have an adapter; PEFT, too, is told of them only where that is not all."""
    return {
        "base_model_name_or_path": base,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "layers_to_transform": None if shape.layers is None else layers,
        "lora_alpha": shape.alpha,
        "lora_dropout": shape.dropout,
        "modules_to_save": None,
        "peft_type": "LORA",
        "r": shape.rank,
        "target_modules": sorted(shape.targets),
        "task_type": "CAUSAL_LM",
        "use_dora": shape.dora,
        "use_rslora": shape.rslora,
    }
