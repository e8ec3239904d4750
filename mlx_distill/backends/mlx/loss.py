"""The negative log likelihood of what rows are to learn, computed for those positions alone: (B * T, V) logits are never built.

Where the whole vocabulary is allowed, logits exist for a few positions at a time, and what the backward pass needs of them, their
derivative by the hidden state, is taken while they are there:

    nll_i = log sum_v exp(z_iv) - z_it        d nll_i / d h_i = sum_v softmax(z_i)_v W_v - W_t

so the peak does not grow with positions times vocabulary, and the head is multiplied with no oftener than by plain autodiff (the idea is
Liger Kernel's fused linear cross entropy; Hsu et al., 2024).
"""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from numpy.typing import NDArray

from mlx_distill.backends.mlx.decoder import Packed, hidden_states
from mlx_distill.backends.mlx.elementwise import exp_below, on_cpu, total_of
from mlx_distill.backends.mlx.model import Head
from mlx_distill.backends.mlx.tape import Learned, Tape, Var
from mlx_distill.backends.rows.allowed import union_of
from mlx_distill.backends.rows.batch import Lessons
from mlx_distill.models.estimates import LEAST
from mlx_distill.records import Ids, TokenRow

LOGITS_CPU, LOGITS_GPU = 1 << 22, 1 << 26
"""Logits of a piece: 16 MB, and 256 MB."""


class Batch(Lessons):
    """One micro-batch: its rows packed, and the k positions that are learned, in the order of the rows."""

    def __init__(self, model: nn.Module, rows: Sequence[TokenRow], prefix: int):
        super().__init__(rows)
        self.packed = Packed(model, [row.tokens for row in rows], [row.read_at for row in rows], prefix)


def nlls(tape: Tape, model: nn.Module, head: Head, batch: Batch, prefix: Sequence[Var]) -> Var:
    """Nats of each learned position, (k,) float32, unweighted."""
    hidden = hidden_states(tape, model, batch.packed, prefix)
    free = np.array([ids is None for ids in batch.allowed], bool)
    if free.all():
        return free_nll(tape, head, hidden, batch.targets)
    allowed = [ids for ids in batch.allowed if ids is not None]
    closed, where = np.flatnonzero(~free), np.flatnonzero(free)
    parts = [closed_nll(tape, head, _at(tape, hidden, closed), allowed, batch.targets[closed])]
    if free.any():
        parts.append(free_nll(tape, head, _at(tape, hidden, where), batch.targets[where]))
    return _at(tape, tape.joined(parts), np.argsort(np.concatenate([closed, where])))


def _at(tape: Tape, x: Var, places: NDArray[np.int64]) -> Var:
    index = mx.array(places.astype(np.int32))
    return tape.moved(lambda x: x[index], x)


def rows_at_once(head: Head) -> int:
    """Positions whose logits over the whole vocabulary exist at a time."""
    return max(LEAST, (LOGITS_CPU if on_cpu() else LOGITS_GPU) // head.vocabulary)


def free_nll(tape: Tape, head: Head, hidden: Var, targets: Ids, *, at_once: int | None = None) -> Var:
    """(k, hidden) to (k,) nats over the whole vocabulary. `at_once`: how many logits exist at a time."""
    step = rows_at_once(head) if at_once is None else max(1, at_once // head.vocabulary)
    ids, states = mx.array(targets), hidden.value
    pieces = [slice(at, at + step) for at in range(0, len(targets), step)]
    parts = [_nll_and_slope(head, states[piece], ids[piece]) for piece in pieces]
    slopes = mx.concatenate([slope for _, slope in parts])

    def pull(cotangents: Sequence[mx.array], learned: Learned | None) -> list[mx.array]:
        each = cotangents[0][:, None]
        if learned is not None:
            learned([total_of([_by_table(head, states[piece], ids[piece], each[piece]) for piece in pieces])])
        return [(each * slopes).astype(states.dtype)]

    return tape.piece(head.table, mx.concatenate([nll for nll, _ in parts]), [hidden], pull)


def closed_nll(tape: Tape, head: Head, hidden: Var, allowed: Sequence[Ids], targets: Ids) -> Var:
    """The same among the allowed ids: one matmul with the union of the rows of the head, the others masked out."""
    union, mask = union_of(allowed)
    assert all(target in ids for target, ids in zip(targets, allowed, strict=True)), "a target is not among its allowed ids"
    rows, seen, at = mx.array(union), mx.array(mask), mx.array(np.searchsorted(union, targets).astype(np.int32))[:, None]

    def compute(hidden: mx.array) -> mx.array:
        logits = mx.where(seen, head.logits(hidden, rows), -mx.inf)
        return mx.logsumexp(logits, axis=-1) - mx.take_along_axis(logits, at, axis=-1)[:, 0]

    return tape.computed(head.table, compute, hidden)


def _nll_and_slope(head: Head, hidden: mx.array, ids: mx.array) -> tuple[mx.array, mx.array]:
    """(c,) nats of some positions, and their derivative by the hidden state, (c, hidden) float32."""
    logits, bend = head.bent(hidden)
    top = logits.max(axis=-1, keepdims=True)
    weights = exp_below(logits, top)
    total = weights.sum(axis=-1, keepdims=True)
    at = ids[:, None]
    nll = top + mx.log(total) - mx.take_along_axis(logits, at, axis=-1)
    if bend is None:
        slope = head.mixed(weights) / total - head.rows(ids)
    else:
        slope = head.mixed(weights * bend) / total - head.rows(ids) * mx.take_along_axis(bend, at, axis=-1)
    mx.eval(nll, slope)  # at once: MLX begins what comes next, allocation and all, before this is done
    return nll[:, 0], slope


def _by_table(head: Head, hidden: mx.array, ids: mx.array, each: mx.array) -> mx.array:
    """Of sum(each * nll), by the head's weight, (V, hidden) float32: only where the head itself is trained."""
    logits, bend = head.bent(hidden)
    out = mx.softmax(logits, axis=-1) * each
    out = mx.put_along_axis(out, ids[:, None], mx.take_along_axis(out, ids[:, None], axis=-1) - each, axis=-1)
    out = out if bend is None else out * bend
    return out.T @ hidden.astype(mx.float32)
