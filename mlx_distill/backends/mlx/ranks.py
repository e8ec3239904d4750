"""The processes that mlx.launch started together: which rows each of them takes, and how what they computed becomes one.

Every rank has the same batch, the same weights and the same optimizer. Each takes some of the rows of every group, and forwards the prefix
of those groups alone that it has rows of. What a batch comes to is sums over rows,

    sum of weight * nll        sum of weights        gradient of the first

so the ranks' sums are added, and only then is one divided by another: how uneven the shares are changes nothing. The gradient through the
prefix is linear in the cotangents of the rows (see `gradient`), so each rank pulls back its own. All ranks get the same bits, and apply the
same step.

With dropout, ranks draw the same masks for their own rows, and for the prefix: each row's gradient is as unbiased as before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from mlx_distill.backends.mlx.gradient import Sums
from mlx_distill.errors import BackendError
from mlx_distill.records import Group, LossSum, TokenRow

AT_ONCE = 1 << 24
"""Numbers of a gradient that are added in one message: 64 MB. Many small ones would each wait for the network."""
RANK, HOSTS, DEVICES = "MLX_RANK", "MLX_HOSTFILE", "MLX_IBV_DEVICES"
"""How mlx.launch numbers a process, and tells it of the others: over Ethernet or Thunderbolt (ring), or with RDMA (jaccl)."""
GONE = "a process that trains with this one is gone"
AGAIN = "what was saved is whole: start them all again with --resume"


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


class MlxRanks:
    """Each method is called by every rank, in the same order. Raises BackendError where another rank has ended.

    That a connection is lost is told by the ring of MLX 0.32; older ones, and jaccl, wait until mlx.launch ends the process.
    """

    def __init__(self, group: mx.distributed.Group):
        self._group = group
        self.rank, self.size = int(group.rank()), int(group.size())

    def any(self, flag: bool) -> bool:
        return bool(self._sum(mx.array([int(flag)], mx.int32)).item())

    def told(self, message: bytes | None) -> bytes:
        """What rank 0 says: the others give None."""
        said = np.frombuffer(message or b"", np.uint8)
        length = int(np.asarray(self._sum(mx.array([len(said)], mx.int64)))[0])
        if self.rank != 0:
            said = np.zeros(length, np.uint8)
        return np.asarray(self._sum(mx.array(said))).tobytes() if length else b""

    def share(self, groups: Sequence[Group]) -> list[Group]:
        """This rank's."""
        return share(groups, self.size)[self.rank]

    def whole(self, sums: Sums, groups: Sequence[Group]) -> Sums:
        """Of the batch, from those of every rank's share."""
        losses, (computed,) = self.losses(sums.row_losses, groups, sums.computed)
        return replace(sums, gradients=self._added(sums.gradients), row_losses=losses, computed=computed)

    def losses(self, own: Mapping[str, LossSum], groups: Sequence[Group], *counts: int) -> tuple[dict[str, LossSum], list[int]]:
        """Of all rows, in their order, exact; and the sums of the ranks' counts."""
        rows = [[row.id for group in part for row in group.rows] for part in share(groups, self.size)]
        table = np.zeros((max(map(len, rows)) + len(counts), 2))
        table[: len(counts), 0] = counts
        for at, name in enumerate(rows[self.rank], start=len(counts)):
            table[at] = own[name].nats, own[name].tokens
        tables = self._gathered(table)
        found = {
            name: LossSum(float(nats), float(tokens))
            for names, numbers in zip(rows, tables[:, len(counts) :], strict=True)
            for name, (nats, tokens) in zip(names, numbers, strict=False)
        }
        totals = [int(total) for total in tables[:, : len(counts), 0].sum(0)]
        return {row.id: found[row.id] for group in groups for row in group.rows}, totals

    def _added(self, gradients: Sequence[mx.array]) -> list[mx.array]:
        """Over the ranks, many in one message."""
        out: list[mx.array] = []
        for some in _messages(gradients):
            ends = np.cumsum([gradient.size for gradient in some]).tolist()
            parts = mx.split(self._sum(mx.concatenate([gradient.reshape(-1) for gradient in some])), ends[:-1])
            out += [part.reshape(gradient.shape) for part, gradient in zip(parts, some, strict=True)]
        mx.eval(out)
        return out

    def _sum(self, array: mx.array) -> mx.array:
        mx.eval(array)
        return _done(mx.distributed.all_sum(array, group=self._group))

    def _gathered(self, table: NDArray[np.float64]) -> NDArray[np.float64]:
        """(n, k) of each rank to (ranks, n, k), as they are: MLX's GPUs have no float64."""
        bits = mx.array(np.ascontiguousarray(table).reshape(-1).view(np.uint32))
        out = _done(mx.distributed.all_gather(bits, group=self._group))
        return np.asarray(out).view(np.float64).reshape(self.size, *table.shape)


def _done(array: mx.array) -> mx.array:
    try:
        mx.eval(array)
    except RuntimeError as error:
        raise BackendError(f"{GONE}: {error}", hint=AGAIN) from None
    return array


def _messages(arrays: Sequence[mx.array]) -> list[list[mx.array]]:
    out: list[list[mx.array]] = []
    numbers = 0
    for array in arrays:
        if not out or numbers + array.size > AT_ONCE:
            out.append([])
            numbers = 0
        out[-1].append(array)
        numbers += array.size
    return out


def join(environment: Mapping[str, str]) -> MlxRanks | None:
    """Meet the processes that mlx.launch started together with this one; it waits for them. None where there are none.

    Nothing of MLX's communication is touched where no launcher has been. Raises BackendError.
    """
    if RANK not in environment:
        return None
    if DEVICES in environment:
        kind = "jaccl"
    elif HOSTS in environment:
        if not Path(environment[HOSTS]).read_text(encoding="utf-8").strip():  # mlx.launch -n 1
            return None
        kind = "ring"
    else:
        raise BackendError("launched in a way that is not known", hint="mlx.launch --backend ring, or jaccl")
    try:
        return MlxRanks(mx.distributed.init(strict=True, backend=kind))
    except RuntimeError as error:
        hint = "is another launch running? --starting-port of mlx.launch takes other ports"
        raise BackendError(f"the processes of mlx.launch do not find one another: {error}", hint=hint) from None
