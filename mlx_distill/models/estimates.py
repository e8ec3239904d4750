"""What a training will need, from the shape of the network: memory in bytes, before anything is loaded.

Activations are counted as what a layer keeps for its backward pass; the figure is an estimate, and said to be one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Memory:
    weights: int
    adapter: int
    """Values, gradients and two moments, float32."""
    activations: int
    logits: int

    @property
    def total(self) -> int:
        return self.weights + self.adapter + self.activations + self.logits


def training_memory(
    config: Mapping[str, Any], *, weight_bytes: int, rank: int, rows: int, tokens: int, prefix: int, learned: int, width: int
) -> Memory:
    """For micro-batches of `rows` rows of at most `tokens` tokens behind a prefix, `learned` of them read; `width` bytes a number."""
    hidden, inner, layers = config["hidden_size"], config["intermediate_size"], config["num_hidden_layers"]
    heads = config["num_attention_heads"]
    head = config.get("head_dim") or hidden // heads
    kept = 6 * hidden + 3 * inner + 3 * heads * head
    scores = heads * (prefix + tokens)
    positions = rows * tokens + prefix
    adapted = layers * rank * (5 * hidden + 3 * inner + 3 * heads * head)
    return Memory(
        weights=weight_bytes,
        adapter=4 * 4 * adapted,
        activations=layers * positions * (kept + scores) * width,
        logits=3 * learned * config["vocab_size"] * 4,
    )
