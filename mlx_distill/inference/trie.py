"""The distribution of a closed field: its legal values as a trie of tokens, and the student's choice at each branching point.

    {1, 10, 2} before a comma:      root --1--> ( , | 0 )      two branching points: the root, and behind "1"
                                         --2-->

A value's probability is the product of its branches' probabilities, each among the branches of its point alone. That is what
decoding under a grammar samples from; they sum to 1. Where no branch is left there is nothing to ask: those tokens are forced.
It knows tokens and a session; nothing of fields, JSON or batches of jobs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mlx_distill.backends.base import Session
from mlx_distill.records import Ids

NEGLIGIBLE = 1e-4
"""A branching point that is less likely than this is not asked: its values share its probability evenly."""


@dataclass(frozen=True, slots=True)
class Branch:
    """A point where the values part. `paths`: the tokens that lead here; `children`: which token leads to which values."""

    path: tuple[int, ...]
    tokens: Ids
    children: tuple[tuple[int, ...], ...]
    """Of each token, the numbers of the values behind it."""


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


def distributions(session: Session, rows: Sequence[int], points: Sequence[Branch], size: int) -> dict[int, NDArray[np.float64]]:
    """Probabilities of the `size` values for each row, (size,), read behind the row's last token."""
    out = {row: np.full(size, 1.0 / size if not points else 0.0) for row in rows}
    for branch in points:
        root = branch is points[0]
        masses = {row: 1.0 if root else float(sum(out[row][member] for child in branch.children for member in child)) for row in rows}
        asked = [row for row in rows if masses[row] > NEGLIGIBLE]
        logs = _ask(session, asked, branch)
        for row in asked:
            for child, log in zip(branch.children, logs[row], strict=True):
                for member in child:
                    out[row][member] = masses[row] * float(np.exp(log)) / len(child)
    return {row: values / values.sum() for row, values in out.items()}


def _ask(session: Session, rows: Sequence[int], branch: Branch) -> Mapping[int, NDArray[np.float32]]:
    if not rows:
        return {}
    if not branch.path:
        read = session.read({row: [-1] for row in rows}, {row: [branch.tokens] for row in rows})
        return {row: logs[0] for row, logs in read.items()}
    scored = session.score(rows, [branch.path] * len(rows), [branch.tokens] * len(rows))
    return dict(zip(rows, scored, strict=True))
