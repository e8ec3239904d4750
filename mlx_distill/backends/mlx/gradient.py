"""The gradient of one effective batch, exact, with the prefix that its rows share forwarded once.

Rows of a group share a prefix p. A row's loss depends on the trained weights W directly, through the row's own tokens, and through the keys
and values kv(W) of the prefix:

    L(W) = sum over micro-batches m of  l_m(W, kv(W))
    dL/dW = sum_m  dl_m/dW  +  (sum_m dl_m/dkv) · dkv/dW

The second term is linear in the cotangents dl_m/dkv, so they are summed over the micro-batches and pulled back through the prefix once. In
exact arithmetic this is the gradient of forwarding the prefix in each row: attention is causal, so nothing of a row reaches the prefix.
A single micro-batch is one graph with the prefix in it, which then is forwarded once; several forward it twice, for its values and for its
gradient, because its activations would have to outlive theirs.

Dropout on the prefix is drawn once per effective batch, not once per row. The rows' gradients stay unbiased, each row's own expectation
over the masks being what it was; they are no longer independent given W, so the variance of the prefix's share is that of one draw.

Under `recompute` a layer keeps its input alone and is forwarded again in the backward pass (Chen et al., "Training Deep Nets with Sublinear
Memory Cost", 2016).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast

import mlx.core as mx
import mlx.nn as nn

from mlx_distill.backends.mlx.decoder import Block, KeysValues, Through, prefix_keys_values
from mlx_distill.backends.mlx.loss import Batch, nlls
from mlx_distill.backends.mlx.model import Head
from mlx_distill.records import Group, Ids, LossSum

Gradients = list[mx.array]
Key = tuple[int, ...]


@dataclass(slots=True)
class Sums:
    """Over an effective batch: the gradient of the weighted nats, by the variables in their order; and the loss of each row."""

    gradients: Gradients
    row_losses: dict[str, LossSum] = field(default_factory=dict)
    computed: int = 0
    """Tokens forwarded: each prefix once, each row once."""


class Gradient:
    """`names` and `assign`: the variables, and how a model is given their values. `draw`: fixes the random numbers by a key."""

    def __init__(
        self,
        model: nn.Module,
        head: Head,
        names: Sequence[str],
        assign: Callable[[Sequence[str], Sequence[mx.array]], None],
        *,
        draw: Callable[[Key], None],
        recompute: bool,
    ):
        self._model, self._head, self._names, self._assign = model, head, names, assign
        self._draw, self._recompute = draw, recompute
        self._of_layer = _by_layer(names)

    def sums(self, groups: Sequence[Group], values: Sequence[mx.array]) -> Sums:
        out = Sums([mx.zeros_like(value) for value in values])
        for g, group in enumerate(groups):
            batches = [Batch(self._model, rows, len(group.prefix)) for rows in group.micro_batches]
            out.computed += len(group.prefix) + sum(batch.packed.tokens.size for batch in batches)
            if len(batches) == 1:
                loss = partial(self._whole, group.prefix, batches[0], (g,))
                (_, each), own = mx.value_and_grad(loss)(list(values))
                self._add(out, own, batches[0], each)
            else:
                self._several(out, group.prefix, batches, g, values)
        return out

    def _several(self, out: Sums, prefix: Ids, batches: Sequence[Batch], g: int, values: Sequence[mx.array]) -> None:
        """The prefix's keys and values, the micro-batches with their cotangents, and those pulled back together."""
        shared = self._prefix(prefix, (g,), list(values))
        mx.eval(shared)
        cotangents: KeysValues = []
        for m, batch in enumerate(batches):
            loss = partial(self._loss, batch, (g, m))
            (_, each), (own, of_shared) = mx.value_and_grad(loss, argnums=(0, 1))(list(values), shared)
            cotangents = [a + b for a, b in zip(cotangents, of_shared, strict=True)] if cotangents else of_shared
            self._add(out, own, batch, each, cotangents)
        if shared:
            _, pulled = mx.vjp(lambda *flat: self._prefix(prefix, (g,), flat), list(values), cotangents)
            self._add(out, pulled)

    @staticmethod
    def _add(out: Sums, own: Gradients, batch: Batch | None = None, each: mx.array | None = None, also: Sequence[mx.array] = ()) -> None:
        """Evaluated at once, so that a micro-batch's activations are gone before the next one's come."""
        out.gradients = [a + b for a, b in zip(out.gradients, own, strict=True)]
        mx.eval(out.gradients, each, also)
        if batch is not None and each is not None:
            out.row_losses |= batch.row_losses(each)

    def _whole(self, prefix: Ids, batch: Batch, key: Key, values: Gradients) -> tuple[mx.array, mx.array]:
        return self._loss(batch, (*key, 0), values, self._prefix(prefix, key, values))

    def _loss(self, batch: Batch, key: Key, values: Gradients, shared: KeysValues) -> tuple[mx.array, mx.array]:
        self._assign(self._names, values)
        each = nlls(self._model, self._head, batch, shared or None, self._through((1, *key), values))
        return mx.sum(each * mx.array(batch.weight)), each

    def _prefix(self, prefix: Ids, key: Key, values: Sequence[mx.array]) -> KeysValues:
        """None of it where there is no prefix. Forwarded twice, it draws the same dropout both times."""
        if not len(prefix):
            return []
        self._assign(self._names, values)
        return prefix_keys_values(self._model, prefix, self._through((0, *key), values))

    def _through(self, key: Key, values: Sequence[mx.array]) -> Through:
        def through(i: int, block: Block, arrays: Sequence[mx.array]) -> Sequence[mx.array]:
            names = list(self._of_layer[i])
            own = [values[at] for at in self._of_layer[i].values()]
            held = len(arrays)

            def forward(*inputs: mx.array) -> Sequence[mx.array]:
                self._assign(names, inputs[held:])
                self._draw((*key, i))
                return block(*inputs[:held])

            if self._recompute:
                return _recomputed(forward)(*arrays, *own)
            return forward(*_in_order(*arrays, *own))

        return through


def _in_order(*inputs: mx.array) -> list[mx.array]:
    """The same. In the backward pass the first one's cotangent, with which the layers below go on, waits for the others': MLX is free
    to put off a layer's weights to the end, and would hold every layer's activations until then."""
    identity = mx.custom_function(lambda *inputs: list(inputs))
    identity.vjp(lambda primals, cotangents, _: _first_last(cotangents))
    out = identity(*inputs)
    return [out] if isinstance(out, mx.array) else list(cast(Sequence[mx.array], out))


def _recomputed(forward: Callable[..., Sequence[mx.array]]) -> Callable[..., Sequence[mx.array]]:
    """It keeps its inputs alone. Forwarded again when the layers above are done, and not before."""
    function = mx.custom_function(forward)

    @function.vjp
    def pull(primals: mx.array | Sequence[mx.array], cotangents: Sequence[mx.array], _: Sequence[mx.array]) -> Any:
        inputs = [primals] if isinstance(primals, mx.array) else list(primals)
        out = _first_last(mx.vjp(forward, mx.depends(inputs, list(cotangents)), list(cotangents))[1])
        return out[0] if isinstance(primals, mx.array) else out

    return cast(Callable[..., Sequence[mx.array]], function)


def _first_last(cotangents: mx.array | Sequence[mx.array]) -> list[mx.array]:
    if isinstance(cotangents, mx.array) or len(cotangents) == 1:
        return [cotangents] if isinstance(cotangents, mx.array) else list(cotangents)
    first, *rest = cotangents
    return [mx.depends([first], rest)[0], *rest]


class _ByLayer(dict[int, dict[str, int]]):
    def __missing__(self, i: int) -> dict[str, int]:
        return {}


def _by_layer(names: Sequence[str]) -> _ByLayer:
    """The variables of each layer, and their places among all."""
    out = _ByLayer()
    for at, name in enumerate(names):
        if found := re.match(r"model\.layers\.(\d+)\.", name):
            out.setdefault(int(found[1]), {})[name] = at
    return out
