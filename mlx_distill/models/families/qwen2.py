"""Qwen2 and Qwen2.5: biases on queries, keys and values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from mlx_distill.models.families import _decoder
from mlx_distill.models.families._decoder import Shapes, Sizes, Windows

MODEL_TYPES = ("qwen2",)
ARCHITECTURES = ("Qwen2ForCausalLM",)
PROJECTIONS = _decoder.SEPARATE
ROPE_TYPES = _decoder.ROPE_TYPES
ACTIVATION = ("hidden_act", "silu")
DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "qwen2": {
        "num_key_value_heads": 32, "max_position_embeddings": 32768, "rms_norm_eps": 1e-6, "rope_theta": 10000.0,
        "tie_word_embeddings": False, "use_sliding_window": False, "sliding_window": 4096, "max_window_layers": 28,
    }
}  # fmt: skip


def shapes(config: Mapping[str, Any]) -> Shapes:
    size = Sizes.of(config)
    layer = {
        **_decoder.attention(size, bias=("q_proj", "k_proj", "v_proj")),
        **_decoder.feed_forward(size),
        **_decoder.norms(size.hidden, "input_layernorm", "post_attention_layernorm"),
    }
    return _decoder.decoder(size, layer)


def windows(config: Mapping[str, Any]) -> Windows:
    return _decoder.late_windows(config)


def problems(config: Mapping[str, Any]) -> Iterator[str]:
    return _decoder.odd_head(config)
