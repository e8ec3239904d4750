"""Answers read from slots: the scaffold rides behind the prompt, and one forward pass gives every closed field's distribution."""

from __future__ import annotations

from typing import Any

import numpy as np

from mlx_distill.inference.ask import Ask, Program
from mlx_distill.inference.row import Counts, Row, Way
from mlx_distill.inference.written import Writer
from mlx_distill.task.slots import SlotPlan


class SlotReader:
    """`texts` False: open fields are left out."""

    def __init__(self, plan: SlotPlan, tokenizer: Any, vocabulary: int, counts: Counts, way: Way, *, texts: bool):
        self._plan, self._counts, self._way = plan, counts, way
        self._writer = Writer(plan.texts, tokenizer, vocabulary, counts, way) if texts and plan.texts is not None else None
        self.grammars = None if self._writer is None else self._writer.grammars

    def program(self, row: Row) -> Program:
        places, scaffold = self._plan.places, self._plan.scaffold.tolist()
        at = [i - len(scaffold) for i in range(len(scaffold))]
        told = yield Ask(scaffold, at, [place.codes for place in places], last=self._writer is None)
        self._counts.forced += len(scaffold)
        for place, log in zip(places, told.logs, strict=True):
            probabilities = np.exp(log.astype(np.float64))
            best = row.take(place.name, place.spec, place.values, probabilities)
            row.note(place.name, probabilities, best, whole=self._way.whole)
        if self._writer is not None:
            codes = self._plan.codes(row.answer).tolist()
            self._counts.forced += len(codes)
            yield from self._writer.program(row, codes)
