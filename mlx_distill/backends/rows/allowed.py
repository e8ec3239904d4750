"""Which tokens may be read or chosen, as arrays; and what seeds a draw. It knows ids and masks; nothing of logits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mlx_distill.backends.rows.cohort import Bools
from mlx_distill.records import Ids

FEW = 8
"""Where less than one in so many tokens of the vocabulary is allowed, their rows of the head are taken out and multiplied alone."""


def union_of(allowed: Sequence[Ids]) -> tuple[Ids, Bools]:
    """All ids that are allowed anywhere, (u,) ascending, and where each is allowed, (k, u).

    >>> union, mask = union_of([np.array([9, 2]), np.array([5, 9])])
    >>> union.tolist(), mask.tolist()
    ([2, 5, 9], [[True, False, True], [False, True, True]])
    """
    union = np.unique(np.concatenate(allowed)).astype(np.int32)
    mask = np.zeros((len(allowed), len(union)), bool)
    for i, ids in enumerate(allowed):
        mask[i, np.searchsorted(union, ids)] = True
    return union, mask


@dataclass(frozen=True, slots=True)
class Choice:
    """What some rows choose from."""

    masks: NDArray[np.uint32]
    """(B, ceil(V / 32)), least significant bit first."""
    few: tuple[Ids, Bools] | None
    """As `union_of`, where few tokens are allowed."""
    temperature: float
    keys: NDArray[np.uint32]
    """(B, 2): what each row's draw follows from."""


def choice(masks: NDArray[np.uint32], vocabulary: int, *, temperature: float, keys: NDArray[np.uint32]) -> Choice:
    assert masks.any(axis=1).all(), "a row has no token to choose from"
    some = np.bitwise_or.reduce(masks, axis=0).view(np.uint8)
    union = np.flatnonzero(np.unpackbits(some, bitorder="little")[:vocabulary]).astype(np.int32)
    if len(union) * FEW >= vocabulary:
        return Choice(masks, None, temperature, keys)
    legal = (masks[:, union // 32] >> (union % 32).astype(np.uint32) & 1).astype(bool)
    return Choice(masks, (union, legal), temperature, keys)


def keys_of(seed: int | Mapping[int, int], handles: Sequence[int]) -> NDArray[np.uint32]:
    """(B, 2): each row draws from a stream of its own, and no two seeds share one."""
    sources = [(seed, handle) if isinstance(seed, int) else seed[handle] for handle in handles]
    return np.stack([np.random.SeedSequence(source).generate_state(2) for source in sources])
