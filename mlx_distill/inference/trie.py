"""The distribution of a closed field: its legal values as a trie of tokens, and the student's choice at each branching point.

    {1, 10, 2} before a comma:      root --1--> ( , | 0 )      two branching points: the root, and behind "1"
                                         --2-->

A value's probability is the product of its branches' probabilities, each among the branches of its point alone. That is what
decoding under a grammar samples from; they sum to 1. Where no branch is left there is nothing to ask: those tokens are forced.
It knows tokens and log probabilities; nothing of fields, JSON or sessions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mlx_distill.records import Ids

NEGLIGIBLE = 1e-4
"""A branching point that is less likely than this is not asked: its values share its probability evenly."""


@dataclass(frozen=True, slots=True)
class Branch:
    """A point where the values part. `path`: the tokens that lead here; `children`: which token leads to which values."""

    path: tuple[int, ...]
    tokens: Ids
    children: tuple[tuple[int, ...], ...]
    """Of each token, the numbers of the values behind it."""

    @property
    def members(self) -> list[int]:
        """The values that part here."""
        return [member for child in self.children for member in child]


def branches(values: Sequence[tuple[int, ...]]) -> list[Branch]:
    """All branching points, those nearer to the root first. No value may begin another."""
    found: list[Branch] = []
    queue: list[tuple[tuple[int, ...], tuple[int, ...]]] = [((), tuple(range(len(values))))]
    while queue:
        path, members = queue.pop(0)
        while len(members) > 1:
            ways: dict[int, list[int]] = {}
            for member in members:
                ways.setdefault(values[member][len(path)], []).append(member)
            if len(ways) > 1:
                order = sorted(ways)
                children = tuple(tuple(ways[token]) for token in order)
                found.append(Branch(tuple(path), np.array(order, np.int32), children))
                queue += [((*path, token), tuple(ways[token])) for token in order]
                break
            path = (*path, next(iter(ways)))
    return sorted(found, key=lambda branch: len(branch.path))


class Unfolding:
    """One row's distribution over the values of a field, as far as it has been asked. `points` as `branches` gives them."""

    def __init__(self, points: Sequence[Branch], size: int):
        self._points = points
        self._asked: set[int] = set()
        self.probabilities: NDArray[np.float64] = np.full(size, 1.0 / size)
        """(size,); values that have not been told apart yet share evenly what is theirs together."""

    def take(self, branch: Branch, logs: NDArray[np.float32]) -> None:
        """What the student says at a point; the points above it have been asked."""
        self._asked.add(id(branch))
        mass = float(self.probabilities[branch.members].sum())
        shares = np.exp(logs.astype(np.float64))
        for child, share in zip(branch.children, shares / shares.sum(), strict=True):
            self.probabilities[list(child)] = mass * share / len(child)

    def open(self) -> list[Branch]:
        """Points that are left to ask."""
        return [branch for branch in self._points if id(branch) not in self._asked and self._mass(branch) > NEGLIGIBLE]

    def next(self) -> list[Branch]:
        """Of those the ones whose probability is known: no point above them is left to ask."""
        open_points = self.open()
        return [branch for branch in open_points if not any(_above(other, branch) for other in open_points)]

    def rest(self) -> list[Branch]:
        """All points that may have to be asked, those nearer to the root first: whoever asks them together need not come back."""
        near = self.next()
        return [branch for branch in self._points if any(branch is point or _above(point, branch) for point in near)]

    @property
    def decided(self) -> bool:
        """Whether the likeliest value is known, whatever the points say that are left."""
        left = self.open()
        unsure = {member for branch in left for member in branch.members}
        sure = [float(p) for member, p in enumerate(self.probabilities) if member not in unsure]
        return not left or (bool(sure) and max(sure) > max(self._mass(branch) for branch in left))

    def _mass(self, branch: Branch) -> float:
        return float(self.probabilities[branch.members].sum())


def _above(other: Branch, branch: Branch) -> bool:
    return len(other.path) < len(branch.path) and branch.path[: len(other.path)] == other.path
