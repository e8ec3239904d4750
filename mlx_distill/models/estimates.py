"""What a training will need, from the shape of the network and of its micro-batches: memory in bytes, before anything is loaded.

Counted are the two moments that can be the peak. When the backward pass begins, there stand the weights, the trained values with the sum of
their gradients and the optimizer's state, what every layer keeps, and the largest of the passing things (the tiles of attention, a piece of
logits, one layer's backward pass). When the optimizer steps, gradients and new values stand in the place of what the layers kept.

The figure is compared with the measured peak after every run, and in a test. It knows no backend: what differs between them is in `Device`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mlx_distill.models.families import family_of, windows
from mlx_distill.models.families._decoder import Sizes

STATE = {"adamw": 2.0, "lion": 1.0, "adafactor": 0.1}
"""Numbers that an optimizer keeps for each one it trains."""
LEAST = 64
"""Positions whose logits exist at once, however large the vocabulary: a matmul of fewer reads the head more often than it is worth."""
KEPT = frozenset({"v_proj", "gate_proj", "up_proj", "gate_up_proj"})
"""Projections whose results attention or gates keep as they are."""
FORWARD = 2048
"""Tokens of one forward in answering: on most devices a matmul of more is no quicker, and what it keeps in passing grows with them."""


@dataclass(frozen=True, slots=True)
class Learnable:
    """What is trained: `parameters` numbers in all, in the layers from `first_layer` on."""

    parameters: int
    first_layer: int
    targets: frozenset[str]
    """Projections whose inputs are kept for it."""
    state: float
    """Numbers that the optimizer keeps for each: see STATE."""
    whole: bool = False
    """All weights of the model. In float32 the trained values are the weights themselves."""
    beside: int = 0
    """Numbers a token that the adapters of one layer keep for themselves: A x of each, and of DoRA what it multiplies, where nobody else
    keeps it (see KEPT)."""


@dataclass(frozen=True, slots=True)
class Work:
    """The largest micro-batch. `tokens`: of all its rows; `longest`: of one row; `read`: positions learned; `prefix`: tokens shared."""

    rows: int
    tokens: int
    longest: int
    read: int
    prefix: int


@dataclass(frozen=True, slots=True)
class Device:
    width: int
    """Bytes of a number in the model's computations."""
    tile: int
    """Scores of attention that exist at once ..."""
    logits: int
    """... and logits; float32 both."""
    attention: int = 4
    """Bytes of a number that attention keeps."""
    forward: int = FORWARD
    """Tokens of one forward in answering."""
    passes: int = 8
    """Arrays of the size of a tile, or of a piece of logits, that stand at once while it is computed (measured); where a cap bends them,
    one more."""
    fused: bool = False
    """Attention has no tiles, but where scores are capped or a window hides some."""
    eager: bool = False
    """One thing after another: logits are gone before a layer is computed again, one half of its backward pass stands at a time, one row
    attends, gradients are added to where their sum lies, and values are changed where they are."""
    block: int = 0
    """Bytes of packed weights that are unpacked at a time, at most."""
    counted: bool = True
    """The backend counts what arrays take. False: what it tells is what the process has grown by."""


@dataclass(frozen=True, slots=True)
class Memory:
    weights: int
    learned: int
    """Trained values, the sum of their gradients, the optimizer's state."""
    kept: int
    """By all layers, for the backward pass; at its end, the gradients of a micro-batch."""
    passing: int
    """The largest thing that comes and goes in the backward pass."""
    applying: int
    """In place of the two: what comes and goes when the optimizer steps."""

    @property
    def total(self) -> int:
        return self.weights + self.learned + max(self.kept + self.passing, self.applying)


def training_memory(
    config: Mapping[str, Any], *, weight_bytes: int, learnable: Learnable, work: Work, device: Device, recompute: bool
) -> Memory:
    """Of a completed config. `recompute`: layers keep their inputs alone (gradient checkpointing)."""
    size, numbers = Sizes.of(config), 4 * learnable.parameters
    inside = _kept_inside(config, size, learnable, device)
    layers = size.layers - learnable.first_layer
    positions = work.tokens + work.prefix
    cotangents = 2 * layers * 2 * size.kv_heads * size.head * work.prefix * 4  # of the prefix's keys and values: the sum, and one's own
    layer, head = _passing_layer(config, size, work, device), _passing_head(config, size, learnable, work, device)
    if recompute:
        fixed = 2 * size.layers * size.kv_heads * size.head * work.prefix * device.width
        kept, again = layers * positions * size.hidden * device.width + fixed, max(work.tokens, work.prefix) * inside
        layer, kept = (layer + again, kept) if device.eager else (layer, kept + again)
    else:
        kept = (layers - 1) * positions * inside + _kept_last(size, work, inside, device)
    in_layer, in_head = _unpacked(config, weight_bytes, device)
    return Memory(
        weights=weight_bytes,
        learned=int(numbers * ((0 if learnable.whole and device.width == 4 else 1) + 1 + learnable.state)),
        kept=max(kept + cotangents, 0 if device.eager else numbers),
        passing=max(layer + in_layer, head, in_head + 4 * min(device.logits, work.read * size.vocabulary)),
        applying=0 if device.eager else 3 * numbers,  # the gradient, shortened, and new values or state before the old ones go
    )


def _kept_inside(config: Mapping[str, Any], size: Sizes, learnable: Learnable, device: Device) -> int:
    """Bytes a token in one layer: inputs of norms, attention and gates, and of the projections that are trained.

    Attention keeps queries, keys, values and its result, in its own type; where that is another one than the model's, some stand in both.
    """
    width = device.width
    attention = size.heads * size.head + size.kv_heads * size.head
    residual = size.hidden * (bool(learnable.targets & {"q_proj", "k_proj", "v_proj", "qkv_proj"}))
    residual += size.hidden * bool(learnable.targets & {"gate_proj", "up_proj", "gate_up_proj"})
    inner = size.intermediate * (2 + ("down_proj" in learnable.targets))
    copies = attention * width if width != device.attention else 0
    return 2 * attention * device.attention + (_normed(config, size) + residual + inner + learnable.beside) * width + copies


def _normed(config: Mapping[str, Any], size: Sizes) -> int:
    """Numbers a token that go into the norms of one layer."""
    heads = {"q_norm": size.heads * size.head, "k_norm": size.kv_heads * size.head}
    names = [name.split(".")[-2] for name in family_of(config).shapes(config) if name.startswith("model.layers.0.")]
    return sum(heads.get(name, size.hidden) for name in names if name.endswith("norm"))


def _kept_last(size: Sizes, work: Work, inside: int, device: Device) -> int:
    """The last layer goes on with the read positions alone, and of a prefix with none."""
    every = (work.tokens + work.prefix) * (2 * size.hidden * device.width + 2 * size.kv_heads * size.head * device.attention)
    return every + work.read * inside


def _passing_layer(config: Mapping[str, Any], size: Sizes, work: Work, device: Device) -> int:
    """One layer's backward pass: the feed-forward's derivatives, attention's, and its tiles."""
    positions = max(work.tokens, work.prefix)
    forward = 4 * size.intermediate * device.width
    attention = 3 * (2 * size.heads + 4 * size.kv_heads) * size.head * 4
    passes = device.passes + (config.get("attn_logit_softcapping") is not None)
    halves = max(forward, attention) if device.eager else forward + attention
    return positions * halves + passes * 4 * _tile(config, size, work, device)


def _tile(config: Mapping[str, Any], size: Sizes, work: Work, device: Device) -> int:
    """Scores that exist at once."""
    seen = work.prefix + work.longest
    plain = config.get("attn_logit_softcapping") is not None or any(seen > window for window in windows(config) if window is not None)
    scores = max(work.tokens * work.prefix, work.prefix**2, work.longest**2) if device.eager else work.tokens * seen
    return 0 if device.fused and not plain else min(device.tile, size.heads * scores)


def _unpacked(config: Mapping[str, Any], weight_bytes: int, device: Device) -> tuple[int, int]:
    """Of the largest matrix of a layer, and of the head, where the base's weights stay packed."""
    sizes = {name: math.prod(shape) for name, shape in family_of(config).shapes(config).items()}
    if weight_bytes >= device.width * sum(sizes.values()):
        return 0, 0
    layer, head = (max(n for name, n in sizes.items() if name.startswith("model.layers.") == is_layer) for is_layer in (True, False))
    return min(device.block, device.width * layer), min(device.block, device.width * head)


def _passing_head(config: Mapping[str, Any], size: Sizes, learnable: Learnable, work: Work, device: Device) -> int:
    """A piece of logits; where the head is trained, the gradient of its table."""
    table = (2 if device.eager else 4) * 4 * size.vocabulary * size.hidden if learnable.whole else 0
    piece = min(max(device.logits, LEAST * size.vocabulary), work.read * size.vocabulary)
    passes = device.passes + (config.get("final_logit_softcapping") is not None)
    return passes * 4 * piece + 3 * work.read * size.hidden * 4 + table


HELD = 1 << 18
"""Tokens whose keys and values are kept at most: enough rows for every forward to be full."""


def answering_capacity(config: Mapping[str, Any], *, free: int, device: Device) -> tuple[int, int]:
    """Tokens of one forward, and tokens whose keys and values may be kept, where so many bytes are free beside the weights.

    A third of what is left after the tiles, and a matrix that is unpacked, goes to the forward at most; of the rest, half is kept free for
    copies as rows come and go.
    """
    size = Sizes.of(config)
    cached = 2 * size.layers * size.kv_heads * size.head * device.width
    queries = (size.heads + 2 * size.kv_heads) * size.head
    passing = (4 * size.hidden + 4 * size.intermediate) * device.width + 3 * queries * 4 + cached
    left = free - device.passes * 4 * (device.tile + max(device.logits, LEAST * size.vocabulary))
    left -= max(_unpacked(config, 0, device)) if "quantization" in config else 0
    forward = max(LEAST, min(device.forward, left // 3 // passing))
    return forward, max(forward, min(HELD, (left - forward * passing) // (2 * cached)))
