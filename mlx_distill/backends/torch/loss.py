"""The negative log likelihood of what rows are to learn, computed for those positions alone: (B * T, V) logits are never built.

Where the whole vocabulary is allowed, logits exist for a few positions at a time, and what the backward pass needs of them, their
derivative by the hidden state, is taken while they are there:

    nll_i = log sum_v exp(z_iv) - z_it        d nll_i / d h_i = sum_v softmax(z_i)_v W_v - W_t

so the peak does not grow with positions times vocabulary, and the head is multiplied with no oftener than by plain autograd (the idea is
Liger Kernel's fused linear cross entropy; Hsu et al., 2024).
"""
# mypy: allow-subclassing-any

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from mlx_distill.backends.rows.allowed import union_of
from mlx_distill.backends.rows.batch import Lessons
from mlx_distill.backends.torch.decoder import Packed, Recompute, hidden_states
from mlx_distill.backends.torch.model import Head, Model
from mlx_distill.backends.torch.upload import uploaded
from mlx_distill.models.estimates import LEAST
from mlx_distill.records import Ids

LOGITS = {"cpu": 1 << 22, "cuda": 1 << 26}
"""Logits of a piece: 16 MB, and 256 MB."""


def nlls(model: Model, lessons: Lessons, prefix: Sequence[Tensor], prefix_tokens: int, *, recompute: Recompute | None = None) -> Tensor:
    """Nats of each learned position, (k,) float32, unweighted."""
    rows = Packed(model, lessons.places(prefix_tokens))
    hidden = hidden_states(model, rows, prefix, recompute=recompute)
    free = np.array([ids is None for ids in lessons.allowed], bool)
    if free.all():
        return free_nll(model.head, hidden, lessons.targets)
    allowed = [ids for ids in lessons.allowed if ids is not None]
    closed, where = np.flatnonzero(~free), np.flatnonzero(free)
    of_closed, of_free = uploaded([closed, where], hidden.device)
    nats = closed_nll(model.head, hidden[of_closed], allowed, lessons.targets[closed])
    if not where.size:
        return nats
    nats = torch.cat([nats, free_nll(model.head, hidden[of_free], lessons.targets[where])])
    (back,) = uploaded([np.argsort(np.concatenate([closed, where]))], hidden.device)
    return nats[back]


def rows_at_once(head: Head) -> int:
    """Positions whose logits over the whole vocabulary exist at a time."""
    return max(LEAST, LOGITS[head.table.weight.device.type] // head.vocabulary)


def free_nll(head: Head, hidden: Tensor, targets: Ids, *, at_once: int | None = None) -> Tensor:
    """(k, hidden) to (k,) nats over the whole vocabulary. `at_once`: how many logits exist at a time."""
    step = rows_at_once(head) if at_once is None else max(1, at_once // head.vocabulary)
    weight = head.table.weight if head.table.weight.requires_grad else None
    out: Tensor = _FreeNll.apply(hidden, weight, *uploaded([targets], hidden.device), head, step)
    return out


def closed_nll(head: Head, hidden: Tensor, allowed: Sequence[Ids], targets: Ids) -> Tensor:
    """The same among the allowed ids: one matmul with the union of the rows of the head, the others masked out."""
    union, mask = union_of(allowed)
    assert all(target in ids for target, ids in zip(targets, allowed, strict=True)), "a target is not among its allowed ids"
    rows, at, seen = uploaded([union, np.searchsorted(union, targets), mask], hidden.device)
    logits = head.logits(hidden, rows).masked_fill(~seen, -torch.inf)
    return logits.logsumexp(-1) - logits.gather(-1, at[:, None])[:, 0]


class _FreeNll(torch.autograd.Function):
    """`weight`: the head's table where it is trained; it is given so that its gradient has a place to go."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor | None, targets: Tensor, head: Head, step: int) -> Tensor:
        learned = any(ctx.needs_input_grad)
        parts = [_nll_and_slope(head, hidden[at], targets[at], learned) for at in _pieces(len(targets), step)]
        slopes = torch.cat([slope for _, slope in parts if slope is not None]) if learned else None
        ctx.save_for_backward(slopes, hidden if ctx.needs_input_grad[1] else None, targets)
        ctx.head, ctx.step, ctx.dtype = head, step, hidden.dtype
        return torch.cat([nll for nll, _ in parts])

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        slopes, hidden, targets = ctx.saved_tensors
        each, dweight = upstream[:, None], None
        if ctx.needs_input_grad[1]:
            table = ctx.head.table.weight
            dweight = torch.zeros(table.shape, device=table.device)
            for at in _pieces(len(targets), ctx.step):
                _add_by_table(dweight, ctx.head, hidden[at], targets[at], each[at])
            dweight = dweight.to(table.dtype)
        return (each * slopes).to(ctx.dtype), dweight, None, None, None


def _pieces(count: int, step: int) -> list[slice]:
    return [slice(at, min(at + step, count)) for at in range(0, count, step)]


def _nll_and_slope(head: Head, hidden: Tensor, ids: Tensor, learned: bool) -> tuple[Tensor, Tensor | None]:
    """(c,) nats of some positions, and their derivative by the hidden state, (c, hidden) float32."""
    logits, bend = head.bent(hidden)
    at = ids[:, None]
    total = logits.logsumexp(-1, keepdim=True)
    nll = (total - logits.gather(-1, at))[:, 0]
    if not learned:
        return nll, None
    weights = logits.sub_(total).exp_()
    if bend is None:
        return nll, head.mixed(weights).sub_(head.rows(ids))
    return nll, head.mixed(weights.mul_(bend)).sub_(head.rows(ids) * bend.gather(-1, at))


def _add_by_table(total: Tensor, head: Head, hidden: Tensor, ids: Tensor, each: Tensor) -> None:
    """To (V, hidden) float32, of sum(each * nll) by the head's weight: only where the head itself is trained."""
    logits, bend = head.bent(hidden)
    out = logits.softmax(-1).mul_(each)
    out.scatter_add_(-1, ids[:, None], -each)
    out = out if bend is None else out.mul_(bend)
    total.addmm_(out.T, hidden.float())
