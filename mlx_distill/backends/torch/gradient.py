"""The gradient of one effective batch, exact, with the prefix that its rows share forwarded once.

Rows of a group share a prefix p. A row's loss depends on the trained weights W directly, through the row's own tokens, and through the keys
and values kv(W) of the prefix:

    L(W) = sum over micro-batches m of  l_m(W, kv(W))
    dL/dW = sum_m  dl_m/dW  +  (sum_m dl_m/dkv) · dkv/dW

The second term is linear in the cotangents dl_m/dkv, so they are summed over the micro-batches, in float32, and pulled back through the
prefix once. The prefix's graph is kept while the micro-batches pass, each of which sees its keys and values as leaves. In exact arithmetic
this is the gradient of forwarding the prefix in each row: attention is causal, so nothing of a row reaches the prefix.

Dropout on the prefix is drawn once per effective batch, not once per row. The gradient stays unbiased: each row's own expectation over the
masks is what it was. The rows are no longer independent given W, so the prefix's share has the variance of one draw.

Where the model computes in float16, whose smallest numbers are 6e-8, the loss is multiplied by `scale` before and the gradient divided by
it after (Micikevicius et al., "Mixed Precision Training", 2018).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mlx_distill.backends.rows.batch import Lessons
from mlx_distill.backends.student import Key, Sums
from mlx_distill.backends.torch.decoder import Recompute, prefix_states
from mlx_distill.backends.torch.loss import nlls
from mlx_distill.backends.torch.model import Model
from mlx_distill.backends.torch.upload import uploaded
from mlx_distill.records import Group, LossSum


class Gradient:
    """`draw`: fixes the random numbers by a key."""

    def __init__(self, model: Model, *, draw: Callable[[Key], None], recompute: bool, scale: float = 1.0):
        self._model, self._draw, self._recompute, self._scale = model, draw, recompute, scale

    def sums(self, groups: Sequence[Group], values: Mapping[str, Tensor]) -> Sums[Tensor]:
        """`values`: float32 leaves, whose gradients autograd adds up."""
        for value in values.values():
            value.grad = None
        seen: list[tuple[Lessons, Tensor]] = []
        out = Sums[Tensor]([])
        for g, group in enumerate(groups):
            out.computed += self._group(group, g, seen)
        out.row_losses = row_losses(seen)
        out.gradients = [_taken(value, self._scale) for value in values.values()]
        return out

    def _group(self, group: Group, g: int, seen: list[tuple[Lessons, Tensor]]) -> int:
        """The prefix, the micro-batches one after another with their cotangents, and those back through the prefix together."""
        shared = self._prefix(group, (g,))
        cotangents: list[Tensor] = []
        computed = len(group.prefix)
        for m, rows in enumerate(group.micro_batches):
            lessons = Lessons(rows)
            came = self._micro_batch(lessons, shared, len(group.prefix), (g, m), seen)
            cotangents = [a.add_(b) for a, b in zip(cotangents, came, strict=True)] if cotangents else [one.float() for one in came]
            computed += sum(len(row.tokens) for row in rows)
        if learned := [(var, cotangent) for var, cotangent in zip(shared, cotangents, strict=True) if var.requires_grad]:
            torch.autograd.backward([var for var, _ in learned], [cotangent.to(var.dtype) for var, cotangent in learned])
        return computed

    def _prefix(self, group: Group, key: Key) -> list[Tensor]:
        if not len(group.prefix):
            return []
        self._draw(key)
        return prefix_states(self._model, group.prefix, recompute=self._again(key))

    def _micro_batch(
        self, lessons: Lessons, shared: Sequence[Tensor], prefix: int, key: Key, seen: list[tuple[Lessons, Tensor]]
    ) -> list[Tensor]:
        """The cotangents of the prefix; the gradients of the variables are added up where they are."""
        self._draw(key)
        leaves = [var.detach().requires_grad_(var.requires_grad) for var in shared]
        each = nlls(self._model, lessons, leaves, prefix, recompute=self._again(key))
        (weight,) = uploaded([lessons.weight.astype(np.float32) * np.float32(self._scale)], each.device)
        each.backward(weight)
        seen.append((lessons, each.detach()))
        return [torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for leaf in leaves]

    def _again(self, key: Key) -> Recompute | None:
        return (lambda: lambda: self._draw(key)) if self._recompute else None


def row_losses(seen: Sequence[tuple[Lessons, Tensor]]) -> dict[str, LossSum]:
    return {name: loss for lessons, part in _fetched(seen) for name, loss in lessons.row_losses(part).items()}


def row_nlls(seen: Sequence[tuple[Lessons, Tensor]]) -> dict[str, NDArray[np.float32]]:
    return {name: nats for lessons, part in _fetched(seen) for name, nats in lessons.row_nlls(part).items()}


def _fetched(seen: Sequence[tuple[Lessons, Tensor]]) -> Iterator[tuple[Lessons, NDArray[np.float32]]]:
    """Of all micro-batches, from the device at once."""
    if seen:
        ends = np.cumsum([len(each) for _, each in seen])[:-1]
        parts = np.split(torch.cat([each for _, each in seen]).float().cpu().numpy(), ends)
        yield from ((lessons, part) for (lessons, _), part in zip(seen, parts, strict=True))


def _taken(value: Tensor, scale: float) -> Tensor:
    """The gradient that lies at a leaf; the leaf lets go of it."""
    gradient, value.grad = value.grad, None
    return torch.zeros_like(value) if gradient is None else gradient.div_(scale) if scale != 1.0 else gradient
