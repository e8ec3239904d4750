"""Llama (2, 3, 3.1, 3.2) and Mistral, which share one architecture: no biases unless the config asks for them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from mlx_distill.models.families import _decoder
from mlx_distill.models.families._decoder import Shapes, Sizes, Windows

MODEL_TYPES = ("llama", "mistral")
ARCHITECTURES = ("LlamaForCausalLM", "MistralForCausalLM")
PROJECTIONS = _decoder.SEPARATE
ROPE_TYPES = _decoder.ROPE_TYPES
ACTIVATION = ("hidden_act", "silu")
_COMMON = {"rms_norm_eps": 1e-6, "rope_theta": 10000.0, "tie_word_embeddings": False}
DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "llama": {"max_position_embeddings": 2048, **_COMMON},
    "mistral": {"num_key_value_heads": 8, "max_position_embeddings": 131072, "sliding_window": 4096, **_COMMON},
}


def shapes(config: Mapping[str, Any]) -> Shapes:
    size = Sizes.of(config)
    attention_bias = ("q_proj", "k_proj", "v_proj", "o_proj") if config.get("attention_bias") else ()
    layer = {
        **_decoder.attention(size, bias=attention_bias),
        **_decoder.feed_forward(size, bias=bool(config.get("mlp_bias"))),
        **_decoder.norms(size.hidden, "input_layernorm", "post_attention_layernorm"),
    }
    return _decoder.decoder(size, layer)


def windows(config: Mapping[str, Any]) -> Windows:
    """Mistral's in every layer. Llama has none; a config that lists kinds of layers all the same means them, as mlx-lm reads it."""
    if config["model_type"] == "mistral":
        return (config.get("sliding_window"),) * int(config["num_hidden_layers"])
    return _decoder.windows_of(config, [_decoder.FULL] * config["num_hidden_layers"])


def problems(config: Mapping[str, Any]) -> Iterator[str]:
    yield from ()
