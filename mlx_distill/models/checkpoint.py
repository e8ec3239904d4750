"""A checkpoint in Hugging Face's layout: its config, where each tensor lies, and the files that go with it.

Everything is checked before a weight is read: shards against the index, files against their headers, tensors against the family.
It knows nothing of hubs, backends, or what is done with the weights.
"""

from __future__ import annotations

import fnmatch
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlx_distill.errors import CheckpointError
from mlx_distill.models.families import UNUSED, Config, Family, complete, family_of, name_of, problems
from mlx_distill.models.tensors import AGAIN, Shape, TensorPlace, read_header

TOKENIZER = (
    "tokenizer*", "vocab*", "merges.txt", "special_tokens_map.json", "added_tokens.json", "*.model", "*.tiktoken", "chat_template*",
)  # fmt: skip
LICENCES = ("LICENSE*", "License*", "license*", "LICENCE*", "NOTICE*")
KEPT = (*TOKENIZER, "generation_config.json", *LICENCES)
"""Files beside config and weights that belong to a model, as patterns of their names."""
TERMS = ("Licence*", "licence*", "Notice*", "notice*", "COPYING*", "USE_POLICY*")
"""More texts on what one may do with a model. They are kept beside it, and are no part of what it is: its hash leaves them out."""
INDEX = "model.safetensors.index.json"
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.gguf", "*.h5", "*.msgpack")
FLOATS = ("F32", "F16", "BF16")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    folder: Path
    config: Mapping[str, Any]
    """config.json, with what it leaves to its readers' guess written out."""
    family: Family
    tensors: Mapping[str, TensorPlace]
    """Those that the family reads, in the order of the forward pass."""
    shards: Sequence[Path]
    kept: Sequence[Path]
    """Tokenizer, generation config and licence texts."""
    terms: Sequence[Path]
    """Licence texts of other names; not among `files`."""

    @property
    def family_name(self) -> str:
        return name_of(self.family)

    @property
    def tokenizer(self) -> list[Path]:
        return [path for path in self.kept if matches(path, TOKENIZER)]

    @property
    def files(self) -> list[Path]:
        """All files that make up the model, sorted by name."""
        return sorted({self.folder / "config.json", *self.shards, *self.kept})


def open_checkpoint(folder: Path) -> Checkpoint:
    """Raises CheckpointError for whatever is no complete, unquantized safetensors checkpoint of a supported family."""
    raw = _read_config(folder)
    _refuse_quantized(folder, raw)
    try:
        family = family_of(raw)
        config = complete(raw, family)
        unlike = list(problems(config, family))
        shapes = family.shapes(config)
    except CheckpointError as error:
        raise CheckpointError(error.message, hint=error.hint, file=folder / "config.json") from None
    if unlike:
        message = f"this {config['model_type']} is of a kind that is not supported: {'; '.join(unlike)}"
        raise CheckpointError(message, hint="take another model", file=folder / "config.json")
    shards = _shards(folder)
    tensors = _match(folder, config, shapes, _read_shards(folder, shards))
    there = sorted(path for path in folder.iterdir() if path.is_file())
    kept = [path for path in there if matches(path, KEPT)]
    terms = [path for path in there if matches(path, TERMS) and path not in kept]
    return Checkpoint(folder, config, family, tensors, shards, kept, terms)


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    if not folder.is_dir():
        what = "is a file; a checkpoint is a folder" if folder.exists() else "does not exist"
        raise CheckpointError(f"the checkpoint {what}", hint="name a folder with config.json and *.safetensors", file=folder)
    if not path.is_file():
        raise CheckpointError("no checkpoint: the folder has no config.json", hint=_what_else(folder), file=folder)
    try:
        config = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise CheckpointError(f"cannot be read: {error.strerror}", file=path) from None
    except json.JSONDecodeError as error:
        raise CheckpointError(f"no JSON: {error.msg}", file=path, line=error.lineno) from None
    except ValueError:
        raise CheckpointError("no JSON: not UTF-8", file=path) from None
    if not isinstance(config, dict):
        raise CheckpointError("config.json holds no mapping", file=path)
    return config


def _what_else(folder: Path) -> str:
    """The likely mistake behind a folder without config.json."""
    adapter = folder / "adapter_config.json"
    if adapter.is_file():
        return "it holds an adapter; name the model that the adapter was made for"
    inner = sorted(path.parent.name for path in folder.glob("*/config.json"))
    return f"did you mean its folder {inner[0]}?" if inner else "a checkpoint has config.json, *.safetensors and a tokenizer"


def _refuse_quantized(folder: Path, config: Mapping[str, Any]) -> None:
    if "quantization" in config:
        hint = "convert the checkpoint that it was made from"
        raise CheckpointError("this is a quantized MLX model, and packing it again loses precision", hint=hint, file=folder)
    quantization = config.get("quantization_config")
    if quantization or (folder / "hf_quant_config.json").is_file():
        method = quantization.get("quant_method", "unknown") if isinstance(quantization, Mapping) else "unknown"
        hint = "take the checkpoint that it was quantized from; bits are chosen here"
        raise CheckpointError(f"the checkpoint is quantized already (method {method})", hint=hint, file=folder / "config.json")


def _shards(folder: Path) -> list[Path]:
    """The weight files: those that the index names, or all there are where there is no index."""
    if (folder / INDEX).is_file():
        shards = [folder / name for name in sorted(set(_read_index(folder)["weight_map"].values()))]
    else:
        shards = sorted(folder.glob("model*.safetensors"))
        counts = {int(found[1]) for path in shards if (found := re.search(r"-of-(\d+)\.safetensors$", path.name))}
        shards += [folder / _shard_name(i + 1, n) for n in counts for i in range(n) if folder / _shard_name(i + 1, n) not in shards]
    if not shards:
        pickles = sorted(path.name for path in folder.iterdir() if matches(path, PICKLES))
        if pickles:
            hint = "pickle can run code: take a revision with safetensors, or save it anew with transformers (save_pretrained)"
            raise CheckpointError(f"the weights are in {pickles[0]}, and only safetensors is read", hint=hint, file=folder)
        raise CheckpointError("the folder has a config.json and no weights", hint="weights are in model*.safetensors", file=folder)
    if missing := [path.name for path in shards if not path.is_file()]:
        message = f"of {len(shards)} weight files, {_first(missing)} cannot be found"
        raise CheckpointError(message, hint="fetch the checkpoint again", file=folder)
    return shards


def _shard_name(index: int, count: int) -> str:
    return f"model-{index:05d}-of-{count:05d}.safetensors"


def _read_index(folder: Path) -> dict[str, Any]:
    path = folder / INDEX
    try:
        index = json.loads(path.read_text("utf-8"))
        names = index["weight_map"].values()
        sound = bool(names) and all(isinstance(name, str) and Path(name).name == name for name in names)
    except OSError as error:
        raise CheckpointError(f"cannot be read: {error.strerror}", file=path) from None
    except (ValueError, KeyError, TypeError, AttributeError):
        sound = False
    if not sound:
        raise CheckpointError("the index of the weights cannot be read", hint=AGAIN, file=path)
    return dict(index)


def _read_shards(folder: Path, shards: Sequence[Path]) -> dict[str, TensorPlace]:
    """Every tensor of every shard; checked against the index where there is one."""
    places: dict[str, TensorPlace] = {}
    for shard in shards:
        places.update(read_header(shard))
    if (folder / INDEX).is_file():
        _check_index(folder / INDEX, _read_index(folder), places)
    return places


def _check_index(path: Path, index: Mapping[str, Any], places: Mapping[str, TensorPlace]) -> None:
    for name, shard in index["weight_map"].items():
        if name not in places or places[name].file.name != shard:
            raise CheckpointError(f"the index says that {name} is in {shard}, which has no such tensor", hint=AGAIN, file=path)
    total = (index.get("metadata") or {}).get("total_size")
    actual = sum(place.nbytes for place in places.values())
    if isinstance(total, int | float) and int(total) != actual:
        hint = f"fetch it again; if the weights are right and the index is not, remove {path.name}"
        raise CheckpointError(f"the index counts {int(total):,} bytes of weights, the files have {actual:,}", hint=hint, file=path)


def _match(folder: Path, config: Config, shapes: Mapping[str, Shape], found: Mapping[str, TensorPlace]) -> dict[str, TensorPlace]:
    """The tensors that the family reads; refuses a checkpoint that has fewer, others, or of another shape or type."""
    if missing := [name for name in shapes if name not in found]:
        raise CheckpointError(f"the weights lack {_first(missing)}", hint="fetch the checkpoint again", file=folder)
    known = {*shapes, *({"lm_head.weight"} if config["tie_word_embeddings"] else ())}
    if extra := [name for name in found if name not in known and not any(part in name for part in UNUSED)]:
        raise CheckpointError(f"the weights have {_first(extra)}, which config.json does not provide for", file=found[extra[0]].file)
    for name, shape in shapes.items():
        place = found[name]
        if place.shape != shape:
            raise CheckpointError(f"{name} has the shape {list(place.shape)}; config.json makes it {list(shape)}", file=place.file)
        if place.dtype not in FLOATS:
            raise CheckpointError(f"{name} has the type {place.dtype}; weights are {', '.join(FLOATS)}", file=place.file)
    return {name: found[name] for name in shapes}


def _first(names: Sequence[str]) -> str:
    return f"{names[0]} and {len(names) - 1} more" if len(names) > 1 else names[0]


def matches(path: Path, patterns: Sequence[str]) -> bool:
    """By its name."""
    return any(fnmatch.fnmatchcase(path.name, pattern) for pattern in patterns)
