"""The gradient of one effective batch, exact, with the prefix that its rows share forwarded once.

Rows of a group share a prefix p. A row's loss depends on the trained weights W directly, through the row's own tokens, and through the keys
and values kv(W) of the prefix:

    L(W) = sum over micro-batches m of  l_m(W, kv(W))
    dL/dW = sum_m  dl_m/dW  +  (sum_m dl_m/dkv) · dkv/dW

The second term is linear in the cotangents dl_m/dkv, so they are summed over the micro-batches and pulled back through the prefix once. In
exact arithmetic this is the gradient of forwarding the prefix in each row: attention is causal, so nothing of a row reaches the prefix.
The prefix's tape is kept while the micro-batches pass, so it is forwarded once; where memory is short (`recompute`) it keeps the layers'
inputs alone, as the rows' tapes then do, and a layer is forwarded again in the backward pass (Chen et al., "Training Deep Nets with
Sublinear Memory Cost", 2016).

Dropout on the prefix is drawn once per effective batch, not once per row. The gradient stays unbiased: each row's own expectation over the
masks is what it was. The rows are no longer independent given W, so the prefix's share has the variance of one draw.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from mlx_distill.backends.mlx.decoder import KeysValues, prefix_states
from mlx_distill.backends.mlx.loss import Batch, nlls
from mlx_distill.backends.mlx.model import Head
from mlx_distill.backends.mlx.tape import Assign, Key, Tape, Var, Variables
from mlx_distill.backends.student import Sums
from mlx_distill.records import Group


class Gradient:
    """`names` and `assign`: the variables, and how a model is given their values. `draw`: fixes the random numbers by a key."""

    def __init__(
        self,
        model: nn.Module,
        head: Head,
        names: Sequence[str],
        assign: Assign,
        *,
        draw: Callable[[Key], None],
        recompute: bool,
    ):
        self._model, self._head, self._names, self._assign = model, head, names, assign
        self._draw, self._recompute = draw, recompute

    def sums(self, groups: Sequence[Group], values: Sequence[mx.array]) -> Sums[mx.array]:
        variables = Variables(self._model, self._names, values, self._assign)
        out = Sums[mx.array]([])
        for g, group in enumerate(groups):
            self._group(out, group, g, variables)
        zeros = (mx.zeros_like(value) for value in values)
        out.gradients = [variables.sums.get(name, zero) for name, zero in zip(self._names, zeros, strict=True)]
        return out

    def _group(self, out: Sums[mx.array], group: Group, g: int, variables: Variables) -> None:
        """The prefix, the micro-batches one after another with their cotangents, and those back through the prefix together."""
        tape = self._tape(variables, (g,))
        shared = prefix_states(tape, self._model, group.prefix) if len(group.prefix) else []
        mx.eval([var.value for var in shared])
        cotangents: KeysValues = []
        for m, rows in enumerate(group.micro_batches):
            batch = Batch(self._model, rows, len(group.prefix))
            came = self._micro_batch(out, batch, shared, self._tape(variables, (g, m)), variables)
            cotangents = [a + b for a, b in zip(cotangents, came, strict=True)] if cotangents else came
            mx.eval(cotangents)
            out.computed += batch.packed.tokens.size
        out.computed += len(group.prefix)
        tape.backward(list(zip(shared, cotangents, strict=True)))
        mx.eval(variables.sums)

    def _micro_batch(self, out: Sums[mx.array], batch: Batch, shared: Sequence[Var], tape: Tape, variables: Variables) -> KeysValues:
        """Its gradients are added up in `variables`; what comes back are the cotangents of the prefix."""
        leaves = [tape.leaf(var.value, learned=var.place is not None) for var in shared]
        each = nlls(tape, self._model, self._head, batch, leaves)
        found = tape.backward([(each, mx.array(batch.weight))])
        mx.eval(each.value, variables.sums, found)
        out.row_losses |= batch.row_losses(np.asarray(each.value))
        return [mx.zeros_like(leaf.value) if (came := found.get(leaf.place or 0)) is None else came for leaf in leaves]

    def _tape(self, variables: Variables, key: Key) -> Tape:
        return Tape(variables, draw=self._draw, key=key, recompute=self._recompute)
