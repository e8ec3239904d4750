"""The shapes that decoder-only families have in common: attention, feed-forward, and the frame around the layers.

A linear layer's weight is (outputs, inputs). It knows configs, and no family.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mlx_distill.errors import CheckpointError

Shapes = dict[str, tuple[int, ...]]
Windows = tuple[int | None, ...]
"""Of each layer: how many tokens a query sees, itself among them; None: all before it."""

SLIDING, FULL = "sliding_attention", "full_attention"
"""transformers' names of what a layer attends to."""

SEPARATE = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""Projections of a family that keeps queries, keys, values, gate and up apart."""
ROPE_TYPES = ("default", "linear", "dynamic", "llama3", "yarn")


@dataclass(frozen=True, slots=True)
class Sizes:
    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head: int
    """Numbers of one head."""
    vocabulary: int
    tied: bool

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Sizes:
        """Raises CheckpointError where a size is missing or no whole number above 0."""
        hidden, heads = _size(config, "hidden_size"), _size(config, "num_attention_heads")
        return cls(
            hidden=hidden,
            intermediate=_size(config, "intermediate_size"),
            layers=_size(config, "num_hidden_layers"),
            heads=heads,
            kv_heads=_size(config, "num_key_value_heads"),
            head=hidden // heads if config.get("head_dim") is None else _size(config, "head_dim"),
            vocabulary=_size(config, "vocab_size"),
            tied=bool(config["tie_word_embeddings"]),
        )


def linear(name: str, outputs: int, inputs: int, *, bias: bool = False) -> Shapes:
    return {f"{name}.weight": (outputs, inputs)} | ({f"{name}.bias": (outputs,)} if bias else {})


def attention(size: Sizes, *, bias: tuple[str, ...] = ()) -> Shapes:
    """`bias`: the projections that have one."""
    return {
        **linear("self_attn.q_proj", size.heads * size.head, size.hidden, bias="q_proj" in bias),
        **linear("self_attn.k_proj", size.kv_heads * size.head, size.hidden, bias="k_proj" in bias),
        **linear("self_attn.v_proj", size.kv_heads * size.head, size.hidden, bias="v_proj" in bias),
        **linear("self_attn.o_proj", size.hidden, size.heads * size.head, bias="o_proj" in bias),
    }


def feed_forward(size: Sizes, *, bias: bool = False) -> Shapes:
    return {
        **linear("mlp.gate_proj", size.intermediate, size.hidden, bias=bias),
        **linear("mlp.up_proj", size.intermediate, size.hidden, bias=bias),
        **linear("mlp.down_proj", size.hidden, size.intermediate, bias=bias),
    }


def windows_of(config: Mapping[str, Any], kinds: Sequence[str]) -> Windows:
    """Of each layer, from what kind of attention it has: `layer_types` where the config lists them, `kinds` where it is silent.

    None where the whole text is seen. A config without a `sliding_window` has none, whatever its layers are called.
    """
    listed = config.get("layer_types") or kinds
    return tuple(config.get("sliding_window") if kind == SLIDING else None for kind in listed)


def late_windows(config: Mapping[str, Any]) -> Windows:
    """Qwen's: none unless they are switched on, and then from layer `max_window_layers` on."""
    late = [SLIDING if i >= config["max_window_layers"] else FULL for i in range(config["num_hidden_layers"])]
    return windows_of(config if config.get("use_sliding_window") else {**config, "sliding_window": None}, late)


def norms(width: int, *names: str) -> Shapes:
    return {f"{name}.weight": (width,) for name in names}


def decoder(size: Sizes, layer: Shapes) -> Shapes:
    """The embedding, the layers, the last norm, and the head where it is not the embedding."""
    layers = {f"model.layers.{index}.{name}": shape for index in range(size.layers) for name, shape in layer.items()}
    table = (size.vocabulary, size.hidden)
    head = {} if size.tied else {"lm_head.weight": table}
    return {"model.embed_tokens.weight": table, **layers, "model.norm.weight": (size.hidden,), **head}


def odd_head(config: Mapping[str, Any]) -> Iterator[str]:
    """Readers of some families take hidden_size / num_attention_heads for a head's width, whatever head_dim says."""
    size = Sizes.of(config)
    if size.head * size.heads != size.hidden:
        yield f"head_dim {size.head}, with {size.heads} heads in {size.hidden}"


def _size(config: Mapping[str, Any], key: str) -> int:
    value = config.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        what = f"lacks {key}" if value is None else f"has {key} {value!r}"
        raise CheckpointError(f"config.json {what}", hint=f"{key} is a whole number above 0")
    return value
