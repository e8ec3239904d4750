"""What every backend must agree on about processes that train together: which rows each of them takes, and how what they computed
becomes one.

Every rank has the same batch, the same weights and the same optimizer. Each takes some of the rows of every group, and forwards the prefix
of those groups alone that it has rows of. What a batch comes to is sums over rows,

    sum of weight * nll        sum of weights        gradient of the first

so the ranks' sums are added, and only then is one divided by another: how uneven the shares are changes nothing. The gradient through the
prefix is linear in the cotangents of the rows (see a backend's `gradient`), so each rank pulls back its own. All ranks get the same bits,
and apply the same step.

With dropout, ranks draw the same masks for their own rows, and for the prefix: each row's gradient is as unbiased as before.

How numbers get from one process to another is a backend's own: nothing here sends anything.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Generic

import numpy as np
from numpy.typing import NDArray

from mlx_distill.backends.student import Array, Sums
from mlx_distill.errors import BackendError
from mlx_distill.records import Group, LossSum, TokenRow

AT_ONCE = 1 << 24
"""Numbers of a gradient that are added in one message: 64 MB. Many small ones would each wait for the network."""

Table = NDArray[np.float64]


class Sharing(ABC, Generic[Array]):
    """One of the processes that train together, but for how numbers travel.

    Each method is called by every rank, in the same order. Raises BackendError where another rank has ended.
    """

    rank: int
    size: int

    def share(self, groups: Sequence[Group]) -> list[Group]:
        """This rank's."""
        return share(groups, self.size)[self.rank]

    def whole(self, sums: Sums[Array], groups: Sequence[Group]) -> Sums[Array]:
        """Of the batch, from those of every rank's share, whose gradients may be let go."""
        row_losses, (computed,) = self.losses(sums.row_losses, groups, sums.computed)
        return replace(sums, gradients=self._added(sums.gradients), row_losses=row_losses, computed=computed)

    def losses(self, own: Mapping[str, LossSum], groups: Sequence[Group], *counts: int) -> tuple[dict[str, LossSum], list[int]]:
        """Of all rows, in their order, exact; and the sums of the ranks' counts."""
        return losses(own, groups, *counts, rank=self.rank, size=self.size, gathered=self._gathered)

    @abstractmethod
    def _added(self, gradients: Sequence[Array]) -> list[Array]:
        """Over the ranks, many in one message."""

    @abstractmethod
    def _gathered(self, table: Table) -> Table:
        """(n, k) of each rank to (ranks, n, k), as they are."""


def share(groups: Sequence[Group], size: int) -> list[list[Group]]:
    """Each rank's rows, of about as many tokens: the longest row first, to whoever will have the least to do with it.

    A rank pays for a prefix once it has a row behind it. Micro-batches are made anew, as long as the group's longest, in its order.
    """
    load, shares = [0] * size, []
    for group in groups:
        rows, taken = group.rows, [set[int]() for _ in range(size)]
        for i in sorted(range(len(rows)), key=lambda i: -len(rows[i].tokens)):
            cost = [len(rows[i].tokens) + (0 if taken[rank] else len(group.prefix)) for rank in range(size)]
            rank = min(range(size), key=lambda rank: load[rank] + cost[rank])
            load[rank] += cost[rank]
            taken[rank].add(i)
        length = max((len(batch) for batch in group.micro_batches), default=1)
        shares.append([_cut(group, [rows[i] for i in sorted(own)], length) for own in taken])
    return [[group for group in own if group.micro_batches] for own in zip(*shares, strict=True)] if groups else [[] for _ in range(size)]


def _cut(group: Group, rows: Sequence[TokenRow], length: int) -> Group:
    return Group(group.prefix, [rows[at : at + length] for at in range(0, len(rows), length)])


def losses(
    own: Mapping[str, LossSum], groups: Sequence[Group], *counts: int, rank: int, size: int, gathered: Callable[[Table], Table]
) -> tuple[dict[str, LossSum], list[int]]:
    """Of all rows, in their order, exact; and the sums of the ranks' counts.

    `own` are those of this rank's share; `gathered` makes (size, n, 2) of every rank's (n, 2), as they are.
    """
    rows = [[row.id for group in part for row in group.rows] for part in share(groups, size)]
    table = np.zeros((max(map(len, rows)) + len(counts), 2))
    table[: len(counts), 0] = counts
    for at, name in enumerate(rows[rank], start=len(counts)):
        table[at] = own[name].nats, own[name].tokens
    tables = gathered(table)
    found = {
        name: LossSum(float(nats), float(tokens))
        for names, numbers in zip(rows, tables[:, len(counts) :], strict=True)
        for name, (nats, tokens) in zip(names, numbers, strict=False)
    }
    totals = [int(total) for total in tables[:, : len(counts), 0].sum(0)]
    return {row.id: found[row.id] for group in groups for row in group.rows}, totals


def messages(sizes: Sequence[int]) -> list[slice]:
    """How arrays of these sizes go into messages of at most `AT_ONCE` numbers; a longer array has one to itself.

    >>> [(part.start, part.stop) for part in messages([AT_ONCE - 1, 1, 1, AT_ONCE + 1, 1])]
    [(0, 2), (2, 3), (3, 4), (4, 5)]
    """
    out: list[slice] = []
    numbers = 0
    for i, size in enumerate(sizes):
        if not out or numbers + size > AT_ONCE:
            out.append(slice(i, i))
            numbers = 0
        out[-1] = slice(out[-1].start, i + 1)
        numbers += size
    return out


def gone(error: Exception) -> BackendError:
    """What is said where another rank has ended; `error` is the library's own words."""
    hint = "what was saved is whole: start them all again with --resume"
    return BackendError(f"a process that trains with this one is gone: {error}", hint=hint)
