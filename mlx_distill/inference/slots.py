"""Answers read from slots: the scaffold rides behind the prompt, and one forward pass gives every field's distribution."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mlx_distill.backends.base import Session
from mlx_distill.inference.row import Counts, Row
from mlx_distill.records import Ids
from mlx_distill.task.slots import SlotPlan


class SlotReader:
    def __init__(self, plan: SlotPlan, counts: Counts):
        self._plan, self._counts = plan, counts

    def answer(self, session: Session, rows: Sequence[Row], prompts: Sequence[Ids]) -> None:
        """`prompts` are the rows' own tokens, behind the session's prefix."""
        places, scaffold = self._plan.places, self._plan.scaffold
        handles = session.admit([np.concatenate([prompt, scaffold]) for prompt in prompts])
        at = [i - len(scaffold) for i in range(len(scaffold))]
        logs = session.read(dict.fromkeys(handles, at), {handle: [place.codes for place in places] for handle in handles})
        for handle, row, prompt in zip(handles, rows, prompts, strict=True):
            row.forwarded = len(prompt) + len(scaffold)
            for place, log in zip(places, logs[handle], strict=True):
                row.take(place.name, place.values, np.exp(log.astype(np.float64)))
        self._counts.prefill += sum(map(len, prompts))
        self._counts.forced += len(scaffold) * len(rows)
        session.drop(handles)
