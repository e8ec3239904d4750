"""Random rows, and the adapters that tests of backends train: NumPy alone, no backend."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mlx_distill.backends.base import LoraShape
from mlx_distill.records import Group, Ids, TokenRow
from tests.checkpoints import VOCABULARY

FAMILIES = ("qwen2", "qwen3", "llama", "phi3", "gemma2")
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
TARGETS_OF = {"phi3": ("qkv_proj", "o_proj", "gate_up_proj", "down_proj")}
"""Every projection; `TARGETS` for the other families."""


def shape_of(family: str = "qwen2", *, rank: int = 4, dropout: float = 0.0, dora: bool = False) -> LoraShape:
    return LoraShape(rank, 2.0 * rank, dropout, TARGETS_OF.get(family, TARGETS), dora=dora)


def random_ids(generator: np.random.Generator, length: int) -> Ids:
    return generator.integers(3, VOCABULARY, length).astype(np.int32)


def random_row(generator: np.random.Generator, name: str, length: int, *, closed: bool = False) -> TokenRow:
    """Learned from a random position on, with uneven weights; `closed`: among few allowed ids at every other position."""
    start = int(generator.integers(0, length))
    read_at = np.arange(start, length, dtype=np.int32)
    targets = random_ids(generator, len(read_at))
    weight = generator.uniform(0.5, 2.0, len(read_at)).astype(np.float32)
    everything = np.arange(VOCABULARY, dtype=np.int32)
    allowed = [
        np.unique([target, *random_ids(generator, 4)]).astype(np.int32) if i % 2 == 0 else everything for i, target in enumerate(targets)
    ]
    return TokenRow(name, random_ids(generator, length), read_at, targets, weight, allowed if closed else None)


def random_group(generator: np.random.Generator, prefix: int, lengths: Sequence[Sequence[int]], *, closed: bool = False) -> Group:
    """Micro-batches of rows of these lengths behind a prefix of that many tokens."""
    tag = generator.integers(1 << 30)
    batches = [
        [random_row(generator, f"{tag}-{m}-{i}", length, closed=closed) for i, length in enumerate(batch)]
        for m, batch in enumerate(lengths)
    ]
    return Group(random_ids(generator, prefix), batches)
