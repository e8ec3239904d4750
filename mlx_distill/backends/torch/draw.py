"""Noise to draw tokens with, a pure function of a row's key and the token's id: whoever else draws, and on whatever device, it is the same.

A generator's stream would have to be drawn for the whole vocabulary, row by row; here each number is a hash of its place ("SplitMix64",
Steele, Lea and Flood, 2014), so that it is computed for the tokens alone that are allowed, all rows at once.
"""

from __future__ import annotations

import torch
from torch import Tensor

BITS = 23
"""Of a uniform number: with half a step more, float32 still holds it exactly, so that it is neither 0 nor 1."""
STEP, FIRST, SECOND = (each - (1 << 64) for each in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))
"""As signed numbers: a product of int64 keeps its lowest 64 bits."""


def gumbel(keys: Tensor, ids: Tensor) -> Tensor:
    """(B, u) float32. `keys` (B, 2): int32, any bits; `ids` (u,) int64. The largest of logits with this noise is a draw by their softmax
    (Gumbel, 1954)."""
    low, high = keys.long().unbind(1)
    key = (high << 32) ^ (low & 0xFFFFFFFF)
    mixed = key[:, None] + (ids + 1) * STEP
    mixed = (mixed ^ _shifted(mixed, 30)) * FIRST
    mixed = (mixed ^ _shifted(mixed, 27)) * SECOND
    mixed = mixed ^ _shifted(mixed, 31)
    return -torch.log(-torch.log(uniform(_shifted(mixed, 64 - BITS))))


def uniform(bits: Tensor) -> Tensor:
    """Of 0 to 2 ** BITS - 1, float32 between 0 and 1 and neither."""
    return (bits.float() + 0.5) * 2.0**-BITS


def _shifted(x: Tensor, bits: int) -> Tensor:
    """To the right, zeros coming in."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)
