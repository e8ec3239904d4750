"""Qwen3: norms on queries and keys, no biases, heads of a width of their own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from mlx_distill.models.families import _decoder
from mlx_distill.models.families._decoder import Shapes, Sizes, Windows

MODEL_TYPES = ("qwen3",)
ARCHITECTURES = ("Qwen3ForCausalLM",)
PROJECTIONS = _decoder.SEPARATE
ROPE_TYPES = _decoder.ROPE_TYPES
ACTIVATION = ("hidden_act", "silu")
DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "qwen3": {
        "num_key_value_heads": 32, "head_dim": 128, "max_position_embeddings": 32768, "rms_norm_eps": 1e-6, "rope_theta": 10000.0,
        "tie_word_embeddings": False, "use_sliding_window": False, "sliding_window": 4096, "max_window_layers": 28,
    }
}  # fmt: skip


def shapes(config: Mapping[str, Any]) -> Shapes:
    size = Sizes.of(config)
    layer = {
        **_decoder.attention(size),
        **_decoder.norms(size.head, "self_attn.q_norm", "self_attn.k_norm"),
        **_decoder.feed_forward(size),
        **_decoder.norms(size.hidden, "input_layernorm", "post_attention_layernorm"),
    }
    return _decoder.decoder(size, layer)


def windows(config: Mapping[str, Any]) -> Windows:
    return _decoder.late_windows(config)


def problems(config: Mapping[str, Any]) -> Iterator[str]:
    if config.get("attention_bias"):
        yield "attention_bias true"
