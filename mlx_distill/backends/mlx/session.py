"""Rows being answered behind a shared prefix, on MLX: their forwards, and what is read of the hidden states.

What rows hold and see is in `backends.rows`; how a forward is computed in `mixed`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from mlx_distill.backends.base import Logs
from mlx_distill.backends.mlx.columns import Arrays, MlxColumns
from mlx_distill.backends.mlx.decoder import KeysValues, hidden_states, prefix_keys_values
from mlx_distill.backends.mlx.loss import rows_at_once
from mlx_distill.backends.mlx.mixed import Mixed
from mlx_distill.backends.mlx.model import Head
from mlx_distill.backends.mlx.tape import Tape, Var
from mlx_distill.backends.rows.allowed import Choice
from mlx_distill.backends.rows.cohort import Bools
from mlx_distill.backends.rows.growth import Growth
from mlx_distill.backends.rows.handles import Found
from mlx_distill.backends.rows.session import RowSession
from mlx_distill.records import Ids


class MlxSession(RowSession[Arrays, mx.array]):
    def __init__(self, model: nn.Module, head: Head, prefix: Ids, *, wear: Callable[[], None]):
        """`wear` puts the session's adapter on the model: between two calls another session may have put on its own."""
        super().__init__(len(prefix), head.vocabulary, MlxColumns())
        self._model, self._head, self._wear = model, head, wear
        self._prefix = len(prefix)
        self._shared: KeysValues = []
        if self._prefix:
            self._wear()
            self._shared = prefix_keys_values(model, prefix)
            mx.eval(self._shared)

    def _forward(self, growths: Sequence[Growth[Arrays]], ending: Collection[int]) -> None:
        self._wear()
        layers: Arrays = []
        shared = [Var(array, None) for array in self._shared]
        states = hidden_states(Tape(), self._model, Mixed(self._model, growths, self._prefix), shared, layers).value
        computed = [states] if growths[-1].reads.stop else []
        for growth in growths:
            self._rows.remember(growth, states)
            if not growth.ends(ending):
                computed += growth.keep(layers) or ()
        mx.async_eval(computed)  # type: ignore[no-untyped-call]

    def _at_once(self) -> int:
        return rows_at_once(self._head)

    def _chosen(self, found: Found[mx.array], among: Choice) -> tuple[list[int], list[float]]:
        hidden = _joined(found)
        if among.few is not None:
            ids, legal = among.few
            union = mx.array(ids)
            logits = mx.where(mx.array(legal), self._head.logits(hidden, union), -mx.inf)
        else:
            bits, union = mx.array(among.masks), mx.arange(self._head.vocabulary)
            seen = ((bits[:, :, None] >> mx.arange(32, dtype=mx.uint32)) & 1).reshape(len(bits), -1)[:, : self._head.vocabulary]
            logits = mx.where(seen.astype(mx.bool_), self._head.logits(hidden), -mx.inf)
        scores = logits
        if among.temperature > 0:
            # Of the whole vocabulary, whichever tokens others may choose from.
            noise = mx.stack([mx.random.gumbel((self._head.vocabulary,), key=key) for key in mx.array(among.keys)])
            scores = logits / among.temperature + noise[:, union]
        chosen = mx.argmax(scores, axis=-1)
        logs = mx.take_along_axis(logits, chosen[:, None], axis=-1)[:, 0] - mx.logsumexp(logits, axis=-1)
        tokens = union[chosen]
        mx.eval(tokens, logs)
        return np.asarray(tokens).tolist(), np.asarray(logs).tolist()

    def _logs(self, found: Found[mx.array], union: Ids, allowed: Bools) -> Logs:
        logits = mx.where(mx.array(allowed), self._head.logits(_joined(found), mx.array(union)), -mx.inf)
        return np.asarray(logits - mx.logsumexp(logits, axis=-1, keepdims=True))


def _joined(found: Found[mx.array]) -> mx.array:
    """(k, hidden), in the order that was asked for."""
    parts = [states[mx.array(places)] for states, places in found.parts]
    if found.order is None:
        return parts[0]
    return mx.concatenate(parts)[mx.array(found.order)]
