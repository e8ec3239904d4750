"""Rows being answered behind a shared prefix, on PyTorch: their forwards, and what is read of the hidden states.

What rows hold and see is in `backends.rows`; how a forward is computed in `mixed`. Each call that reads waits for the device once.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import numpy as np
import torch
from torch import Tensor

from mlx_distill.backends.base import Logs
from mlx_distill.backends.rows.allowed import Choice
from mlx_distill.backends.rows.cohort import Bools
from mlx_distill.backends.rows.growth import Growth
from mlx_distill.backends.rows.handles import Found
from mlx_distill.backends.rows.session import RowSession
from mlx_distill.backends.torch.columns import TorchColumns
from mlx_distill.backends.torch.decoder import hidden_states, prefix_states
from mlx_distill.backends.torch.draw import gumbel
from mlx_distill.backends.torch.loss import rows_at_once
from mlx_distill.backends.torch.mixed import Mixed
from mlx_distill.backends.torch.model import Model
from mlx_distill.backends.torch.upload import uploaded
from mlx_distill.records import Ids


class TorchSession(RowSession[Tensor, Tensor]):
    def __init__(self, model: Model, prefix: Ids, *, wear: Callable[[], None]):
        """`wear` puts the session's adapter on the model: between two calls another session may have put on its own."""
        super().__init__(len(prefix), model.head.vocabulary, TorchColumns())
        self._model, self._head, self._wear = model, model.head, wear
        self._prefix = len(prefix)
        self._shared: list[Tensor] = []
        if self._prefix:
            self._wear()
            with torch.inference_mode():
                self._shared = [array.contiguous() for array in prefix_states(model, prefix)]

    def _forward(self, growths: Sequence[Growth[Tensor]], ending: Collection[int]) -> None:
        self._wear()  # outside of inference mode: what an adapter makes of its weights may be learned from later
        with torch.inference_mode():
            kept: list[Tensor] = []
            states = hidden_states(self._model, Mixed(self._model, growths, self._prefix), self._shared, kept)
            going = [growth for growth in growths if not growth.ends(ending)]
            layers = torch.stack(kept) if going else states
            kept.clear()
            for growth in growths:
                self._rows.remember(growth, states)
            for growth in going:
                growth.keep(layers)

    def _at_once(self) -> int:
        return rows_at_once(self._head)

    @torch.inference_mode()  # type: ignore[untyped-decorator]
    def _chosen(self, found: Found[Tensor], among: Choice) -> tuple[list[int], list[float]]:
        vocabulary, device = self._head.vocabulary, self._model.device
        allowed = list(among.few) if among.few is not None else [among.masks]
        hidden, keys, *sent = _joined(found, device, among.keys, *allowed)
        if among.few is not None:
            union, legal = sent
            logits = self._head.logits(hidden, union)
        else:
            union, legal = torch.arange(vocabulary, device=device), _bits(sent[0], vocabulary)
            logits = self._head.logits(hidden)
        logits = logits.masked_fill_(~legal, -torch.inf)
        scores = logits if among.temperature <= 0 else gumbel(keys, union).add_(logits, alpha=1 / among.temperature)
        chosen = scores.argmax(dim=-1, keepdim=True)
        logs = logits.gather(-1, chosen)[:, 0] - logits.logsumexp(dim=-1)
        tokens, of = torch.stack([union[chosen[:, 0]].double(), logs.double()]).cpu().numpy()
        return tokens.astype(np.int64).tolist(), of.tolist()

    @torch.inference_mode()  # type: ignore[untyped-decorator]
    def _logs(self, found: Found[Tensor], union: Ids, allowed: Bools) -> Logs:
        hidden, ids, legal = _joined(found, self._model.device, union, allowed)
        out: Logs = self._head.logits(hidden, ids).masked_fill_(~legal, -torch.inf).log_softmax(dim=-1).cpu().numpy()
        return out


def _joined(found: Found[Tensor], device: torch.device, *arrays: np.ndarray) -> list[Tensor]:
    """The hidden states, (k, hidden), in the order that was asked for; and these arrays on the device."""
    order = [] if found.order is None else [found.order]
    sent = uploaded([*(places for _, places in found.parts), *order, *arrays], device)
    parts = [states[places] for (states, _), places in zip(found.parts, sent, strict=False)]
    hidden = parts[0] if found.order is None else torch.cat(parts)[sent[len(parts)]]
    return [hidden, *sent[len(sent) - len(arrays) :]]


def _bits(masks: Tensor, vocabulary: int) -> Tensor:
    """(B, V) bool of (B, words), the least significant bit first."""
    bits = (masks[:, :, None] >> torch.arange(32, dtype=torch.int32, device=masks.device)) & 1
    return bits.flatten(1)[:, :vocabulary].bool()
