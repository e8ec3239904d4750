"""The processes that mlx.launch started together, and how MLX sends numbers between them. Who does what: `backends.shares`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import mlx.core as mx
import numpy as np

from mlx_distill.backends import shares
from mlx_distill.errors import BackendError

RANK, HOSTS, DEVICES = "MLX_RANK", "MLX_HOSTFILE", "MLX_IBV_DEVICES"
"""How mlx.launch numbers a process, and tells it of the others: over Ethernet or Thunderbolt (ring), or with RDMA (jaccl)."""


class MlxRanks(shares.Sharing[mx.array]):
    """That a connection is lost is told by the ring of MLX 0.32; older ones, and jaccl, wait until mlx.launch ends the process."""

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

    def _added(self, gradients: Sequence[mx.array]) -> list[mx.array]:
        out: list[mx.array] = []
        for part in shares.messages([gradient.size for gradient in gradients]):
            some = gradients[part]
            ends = np.cumsum([gradient.size for gradient in some]).tolist()
            parts = mx.split(self._sum(mx.concatenate([gradient.reshape(-1) for gradient in some])), ends[:-1])
            out += [part.reshape(gradient.shape) for part, gradient in zip(parts, some, strict=True)]
        mx.eval(out)
        return out

    def _sum(self, array: mx.array) -> mx.array:
        mx.eval(array)
        return _done(mx.distributed.all_sum(array, group=self._group))

    def _gathered(self, table: shares.Table) -> shares.Table:
        """As bits: MLX's GPUs have no float64."""
        bits = mx.array(np.ascontiguousarray(table).reshape(-1).view(np.uint32))
        out = _done(mx.distributed.all_gather(bits, group=self._group))
        return np.asarray(out).view(np.float64).reshape(self.size, *table.shape)


def _done(array: mx.array) -> mx.array:
    try:
        mx.eval(array)
    except RuntimeError as error:
        raise shares.gone(error) from None
    return array


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
