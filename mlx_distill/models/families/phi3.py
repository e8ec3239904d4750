"""Phi-3, Phi-3.5 and Phi-4-mini: queries, keys and values in one projection, gate and up in another."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from mlx_distill.models.families import _decoder
from mlx_distill.models.families._decoder import Shapes, Sizes, Windows

MODEL_TYPES = ("phi3",)
ARCHITECTURES = ("Phi3ForCausalLM",)
PROJECTIONS = ("qkv_proj", "o_proj", "gate_up_proj", "down_proj")
ROPE_TYPES = ("default", "longrope", "su")
ACTIVATION = ("hidden_act", "silu")
DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "phi3": {
        "max_position_embeddings": 4096, "original_max_position_embeddings": 4096, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
        "tie_word_embeddings": False,
    }
}  # fmt: skip


def shapes(config: Mapping[str, Any]) -> Shapes:
    size = Sizes.of(config)
    layer = {
        **_decoder.linear("self_attn.qkv_proj", (size.heads + 2 * size.kv_heads) * size.head, size.hidden),
        **_decoder.linear("self_attn.o_proj", size.hidden, size.heads * size.head),
        **_decoder.linear("mlp.gate_up_proj", 2 * size.intermediate, size.hidden),
        **_decoder.linear("mlp.down_proj", size.hidden, size.intermediate),
        **_decoder.norms(size.hidden, "input_layernorm", "post_attention_layernorm"),
    }
    return _decoder.decoder(size, layer)


def windows(config: Mapping[str, Any]) -> Windows:
    return (config.get("sliding_window"),) * int(config["num_hidden_layers"])


def problems(config: Mapping[str, Any]) -> Iterator[str]:
    return _decoder.odd_head(config)
