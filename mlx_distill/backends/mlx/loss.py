"""The negative log likelihood of what rows are to learn, computed for those positions alone: (B * T, V) logits are never built."""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from mlx_distill.backends.mlx.model import Head
from mlx_distill.backends.mlx.prefix import KeysValues, behind
from mlx_distill.records import Ids, LossSum, TokenRow


class Batch:
    """One micro-batch as arrays: tokens (B, T) padded on the right, and the k positions that are learned, in the order of the rows."""

    def __init__(self, rows: Sequence[TokenRow]):
        self.rows = list(rows)
        self.tokens = mx.array(padded([row.tokens for row in rows]))
        self.row = np.concatenate([np.full(len(row.read_at), i, np.int32) for i, row in enumerate(rows)])
        self.position = np.concatenate([row.read_at for row in rows])
        self.targets = np.concatenate([row.targets for row in rows])
        self.weight = np.concatenate([row.weight for row in rows])
        self.allowed: list[Ids | None] = [ids for row in rows for ids in (row.allowed or (None,) * len(row.read_at))]

    def row_losses(self, nlls: mx.array) -> dict[str, LossSum]:
        """Weighted nats of each row, from the (k,) unweighted nlls."""
        nats = np.asarray(nlls, np.float64) * self.weight
        size = len(self.rows)
        sums, weights = np.bincount(self.row, nats, size), np.bincount(self.row, self.weight, size)
        return {row.id: LossSum(float(nat), float(w)) for row, nat, w in zip(self.rows, sums, weights, strict=True)}


def padded(rows: Sequence[Ids]) -> Ids:
    """(B, longest), zeros on the right."""
    out = np.zeros((len(rows), max(map(len, rows))), np.int32)
    for i, row in enumerate(rows):
        out[i, : len(row)] = row
    return out


def nlls(model: nn.Module, head: Head, batch: Batch, keys_values: KeysValues | None) -> mx.array:
    """Nats of each learned position, (k,) float32, unweighted."""
    hidden = model.model(batch.tokens, behind(model, keys_values, len(batch.rows)))
    hidden = hidden[mx.array(batch.row), mx.array(batch.position)]
    free = np.array([ids is None for ids in batch.allowed], bool)
    if free.all():
        return _nll(head.logits(hidden), batch.targets)
    out = mx.zeros(len(free))
    closed = np.flatnonzero(~free)
    allowed = [ids for ids in batch.allowed if ids is not None]
    out[mx.array(closed)] = _closed_nll(head, hidden[mx.array(closed)], allowed, batch.targets[closed])
    if free.any():
        where = np.flatnonzero(free)
        out[mx.array(where)] = _nll(head.logits(hidden[mx.array(where)]), batch.targets[where])
    return out


def _nll(logits: mx.array, targets: Ids) -> mx.array:
    return mx.logsumexp(logits, axis=-1) - mx.take_along_axis(logits, mx.array(targets)[:, None], axis=-1)[:, 0]


def _closed_nll(head: Head, hidden: mx.array, allowed: Sequence[Ids], targets: Ids) -> mx.array:
    """The same among the allowed ids: one matmul with the union of the rows of the head, the others masked out."""
    union, mask = union_of(allowed)
    assert all(target in ids for target, ids in zip(targets, allowed, strict=True)), "a target is not among its allowed ids"
    logits = mx.where(mx.array(mask), head.logits(hidden, mx.array(union)), -mx.inf)
    return _nll(logits, np.searchsorted(union, targets).astype(np.int32))


def union_of(allowed: Sequence[Ids]) -> tuple[Ids, np.ndarray]:
    """All ids that are allowed anywhere, (u,) ascending, and where each is allowed, bool (k, u)."""
    union = np.unique(np.concatenate(allowed)).astype(np.int32)
    mask = np.zeros((len(allowed), len(union)), bool)
    for i, ids in enumerate(allowed):
        mask[i, np.searchsorted(union, ids)] = True
    return union, mask
