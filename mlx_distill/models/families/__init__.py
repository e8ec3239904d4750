"""Model families, one file each: which tensors a checkpoint has, and what config.json means where it is silent.

A family's file offers what `Family` lists. This module finds the family of a config and completes the config; it knows nothing of
files and tensors' contents.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, Protocol, cast

from mlx_distill.catalog import find, names, nearest
from mlx_distill.errors import CheckpointError

Config = Mapping[str, Any]
UNUSED = ("rotary_emb.inv_freq",)
"""Parts of names of tensors which old checkpoints carry, and nobody reads."""


class Family(Protocol):
    """What a file in this folder has."""

    __name__: str
    MODEL_TYPES: tuple[str, ...]
    """config.json's `model_type`."""
    ARCHITECTURES: tuple[str, ...]
    """config.json's `architectures`."""
    PROJECTIONS: tuple[str, ...]
    """The linear layers of a block, which an adapter may target."""
    DEFAULTS: Mapping[str, Mapping[str, Any]]
    """By model type: what transformers assumes for keys that config.json lacks. Readers assume different things, so it is written out."""
    ROPE_TYPES: tuple[str, ...]
    """The kinds of rotary embedding that readers of a base compute."""
    ACTIVATION: tuple[str, str]
    """The config's key for the activation, and the only value that readers of a base compute."""

    def shapes(self, config: Config) -> dict[str, tuple[int, ...]]:
        """Every tensor of the checkpoint and its shape, in the order of the forward pass."""
        ...

    def windows(self, config: Config) -> tuple[int | None, ...]:
        """Of each layer of a completed config: see `windows` below."""
        ...

    def problems(self, config: Config) -> Iterator[str]:
        """What the config asks for and readers of a base do not compute."""
        ...


def family_of(config: Config) -> Family:
    """The family of a config.json. Raises CheckpointError for a model type, or an architecture, that is not supported."""
    families = [cast(Family, find("models.families", name)) for name in names("models.families")]
    kind = config.get("model_type")
    if not isinstance(kind, str):
        raise CheckpointError("config.json names no model_type", hint="a checkpoint that transformers reads has one")
    family = next((family for family in families if kind in family.MODEL_TYPES), None)
    if family is None:
        known = sorted(name for family in families for name in family.MODEL_TYPES)
        raise CheckpointError(f"models of the type {kind!r} are not supported", hint=nearest(kind, known))
    architectures = config.get("architectures") or ()
    if architectures and not set(architectures) & set(family.ARCHITECTURES):
        named = ", ".join(map(str, architectures))
        raise CheckpointError(f"{named} is no causal language model", hint=f"a {kind} checkpoint has {' or '.join(family.ARCHITECTURES)}")
    return family


def name_of(family: Family) -> str:
    return family.__name__.rpartition(".")[2]


def complete(config: Config, family: Family) -> dict[str, Any]:
    """The config with everything written out that readers would otherwise guess, each differently."""
    flat = _flat_rope(config)
    whole = {**family.DEFAULTS[flat["model_type"]], **flat}
    if whole.get("num_key_value_heads") is None:
        whole["num_key_value_heads"] = whole.get("num_attention_heads")
    return whole


def problems(config: Config, family: Family) -> Iterator[str]:
    """Why a base of this (completed) config would not compute what the original does."""
    scaling = config.get("rope_scaling") or {}
    kind = scaling.get("rope_type", scaling.get("type", "default")) if isinstance(scaling, Mapping) else scaling
    if kind not in family.ROPE_TYPES:
        yield f"rotary embeddings of the type {kind!r} (this family: {', '.join(family.ROPE_TYPES)})"
    key, activation = family.ACTIVATION
    if config.get(key, activation) != activation:
        yield f"{key} {config[key]!r} (this family: {activation})"
    yield from family.problems(config)


def windows(config: Config) -> tuple[int | None, ...]:
    """How many tokens a query of each layer sees, itself among them; None: all before it. As transformers reads the config.

    >>> base = {"model_type": "gemma2", "num_hidden_layers": 3, "num_attention_heads": 4}
    >>> windows(base | {"sliding_window": 6})
    (6, None, 6)
    """
    family = family_of(config)
    return family.windows(complete(config, family))


def parameters(config: Config) -> int:
    """How many numbers the model has, tied ones counted once."""
    family = family_of(config)
    return sum(math.prod(shape) for shape in family.shapes(complete(config, family)).values())


def _flat_rope(config: Config) -> dict[str, Any]:
    """`rope_parameters`, which transformers 5 writes, as `rope_theta` and `rope_scaling`, which every reader knows.

    `rope_parameters` stays. A `rope_scaling` beside it wins, as it does in transformers.
    """
    flat, rope = dict(config), config.get("rope_parameters")
    if not isinstance(rope, Mapping) or not rope or flat.get("rope_scaling"):
        return flat
    for key in ("rope_theta", "partial_rotary_factor"):
        if key in rope:
            flat[key] = rope[key]
    scaling = {key: value for key, value in rope.items() if key not in ("rope_theta", "partial_rotary_factor")}
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    if kind != "default":
        flat["rope_scaling"] = {**scaling, "rope_type": kind, "type": kind}
    return flat
