"""Gemma 2: four norms a layer, capped logits, the head always the embedding."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from mlx_distill.models.families import _decoder
from mlx_distill.models.families._decoder import Shapes, Sizes, Windows

MODEL_TYPES = ("gemma2",)
ARCHITECTURES = ("Gemma2ForCausalLM",)
PROJECTIONS = _decoder.SEPARATE
ROPE_TYPES = ("default",)
ACTIVATION = ("hidden_activation", "gelu_pytorch_tanh")
CAPS = ("attn_logit_softcapping", "final_logit_softcapping")
DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "gemma2": {
        "num_key_value_heads": 4, "head_dim": 256, "max_position_embeddings": 8192, "rms_norm_eps": 1e-6, "rope_theta": 10000.0,
        "query_pre_attn_scalar": 256, "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0, "tie_word_embeddings": True,
        "sliding_window": 4096,
    }
}  # fmt: skip


def shapes(config: Mapping[str, Any]) -> Shapes:
    size = Sizes.of(config)
    around = ("input_layernorm", "post_attention_layernorm", "pre_feedforward_layernorm", "post_feedforward_layernorm")
    layer = {**_decoder.attention(size), **_decoder.feed_forward(size), **_decoder.norms(size.hidden, *around)}
    return _decoder.decoder(size, layer)


def windows(config: Mapping[str, Any]) -> Windows:
    """In every second layer, the first among them."""
    return _decoder.windows_of(config, [(_decoder.SLIDING, _decoder.FULL)[i % 2] for i in range(config["num_hidden_layers"])])


def problems(config: Mapping[str, Any]) -> Iterator[str]:
    if config.get("attention_bias"):
        yield "attention_bias true"
    if config.get("use_bidirectional_attention"):
        yield "use_bidirectional_attention true"
    if not config["tie_word_embeddings"]:
        yield "tie_word_embeddings false"
    yield from (f"{cap} null" for cap in CAPS if config[cap] is None)
