"""What a training will need, from the shape of the network and of its micro-batches: memory in bytes, before anything is loaded.

Counted is what stands when the backward pass begins, the usual peak: the weights, the trained values with their gradients and moments,
what every layer keeps, and the largest of the passing things (the tiles of attention, a piece of logits, one layer's backward pass). The
figure is compared with the measured peak after every run, and in a test. It knows no backend: what differs between them is in `Device`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mlx_distill.models.families._decoder import Sizes


@dataclass(frozen=True, slots=True)
class Learnable:
    """What is trained: `parameters` numbers in all, in the layers from `first_layer` on."""

    parameters: int
    first_layer: int
    targets: frozenset[str]
    """Projections whose inputs are kept for it."""
    state: float
    """Numbers that the optimizer keeps for each: see STATE."""
    extra: int = 0
    """Numbers more that an adapted layer keeps for each token: dropped inputs and masks, and what DoRA multiplies."""

    @property
    def bytes(self) -> int:
        """Values, the sum of gradients, those of one micro-batch, and the optimizer's state; float32."""
        return int(4 * self.parameters * (3 + self.state))


STATE = {"adamw": 2.0, "lion": 1.0, "adafactor": 0.1}


@dataclass(frozen=True, slots=True)
class Work:
    """The largest micro-batch. `tokens`: of all its rows, padding not counted; `longest`: of one row; `read`: positions learned."""

    rows: int
    tokens: int
    longest: int
    read: int
    prefix: int
    alone: bool
    """Whether it is the only micro-batch of its effective batch: then the prefix's activations stand beside the rows'."""


@dataclass(frozen=True, slots=True)
class Device:
    width: int
    """Bytes of a number in the model's computations."""
    tile: int
    """Scores of attention that exist at once ..."""
    logits: int
    """... and logits; float32 both."""


@dataclass(frozen=True, slots=True)
class Memory:
    weights: int
    learned: int
    """Trained values, gradients, the optimizer's state."""
    kept: int
    """By all layers, for the backward pass."""
    passing: int
    """The largest thing that comes and goes."""

    @property
    def total(self) -> int:
        return self.weights + self.learned + self.kept + self.passing


def training_memory(
    config: Mapping[str, Any], *, weight_bytes: int, learnable: Learnable, work: Work, device: Device, recompute: bool
) -> Memory:
    """`recompute`: layers keep their inputs alone (gradient checkpointing)."""
    size = Sizes.of(config)
    inside = _kept_inside(size, learnable, device.width)
    layers = size.layers - learnable.first_layer
    positions = work.tokens + (work.prefix if work.alone else 0)
    through = size.hidden * device.width
    shared = 2 * size.layers * 2 * size.kv_heads * size.head * work.prefix * 4  # keys, values, and their cotangents
    whole = (layers - 1) * positions * inside + _kept_last(size, learnable, work, device.width)
    alone = 0 if work.alone else layers * work.prefix * inside
    kept = max(whole, alone) if not recompute else layers * max(positions, work.prefix) * through + positions * inside
    return Memory(
        weights=weight_bytes,
        learned=learnable.bytes,
        kept=kept + shared,
        passing=max(_passing_layer(size, work, device), _passing_head(size, work, device)),
    )


def _kept_inside(size: Sizes, learnable: Learnable, width: int) -> int:
    """Bytes a token in one layer. Attention keeps queries, keys, values and its result in float32, whatever the model's type."""
    attention = size.heads * size.head + size.kv_heads * size.head
    into = {
        "attention": bool(learnable.targets & {"q_proj", "k_proj", "v_proj", "qkv_proj"}),
        "forward": bool(learnable.targets & {"gate_proj", "up_proj", "gate_up_proj"}),
    }
    residual = size.hidden * (2 + sum(into.values()))
    inner = size.intermediate * (2 + ("down_proj" in learnable.targets))
    return 2 * attention * 4 + (residual + inner + learnable.extra) * width + (attention * width if width != 4 else 0)


def _kept_last(size: Sizes, learnable: Learnable, work: Work, width: int) -> int:
    """The last layer goes on with the read positions alone."""
    every = work.tokens * (2 * size.hidden * width + 2 * size.kv_heads * size.head * 4)
    return every + work.read * _kept_inside(size, learnable, width)


def _passing_layer(size: Sizes, work: Work, device: Device) -> int:
    """One layer's backward pass: the feed-forward's derivatives, attention's, and its tiles."""
    positions = max(work.tokens, work.prefix)
    forward = 4 * size.intermediate * device.width
    attention = 3 * (2 * size.heads + 4 * size.kv_heads) * size.head * 4
    tile = min(device.tile, size.heads * work.tokens * (work.prefix + work.longest))
    return positions * (forward + attention) + 5 * 4 * tile


def _passing_head(size: Sizes, work: Work, device: Device) -> int:
    return 4 * 3 * min(device.logits, work.read * size.vocabulary) + 3 * work.read * size.hidden * 4
