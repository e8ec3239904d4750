"""Answers written as JSON: fixed text is appended, closed fields are read from their tries, open ones decoded under a grammar.

A closed field costs one read, and its value travels to the student together with the fixed text behind it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mlx_distill.backends.base import Session
from mlx_distill.inference.grammar import Grammar, Grammars
from mlx_distill.inference.row import Counts, Held, Row
from mlx_distill.inference.trie import Branch, branches, distributions
from mlx_distill.records import Ids
from mlx_distill.task.answer import AnswerPlan, Slot


class Writer:
    """`vocabulary`: rows of the student's head."""

    def __init__(self, plan: AnswerPlan, tokenizer: Any, vocabulary: int, counts: Counts):
        self._plan, self._counts = plan, counts
        self._points: dict[str, list[Branch]] = {slot.name: branches(slot.tokens) for slot in plan.slots if slot.closed}
        open_slots = [slot for slot in plan.slots if not slot.closed]
        self._grammars = Grammars(tokenizer, vocabulary) if open_slots else None
        self._prototypes = {slot.name: self._grammars.compile(slot.spec) for slot in open_slots if self._grammars}

    def answer(self, session: Session, rows: Sequence[Row], prompts: Sequence[Ids]) -> None:
        """`prompts` are the rows' own tokens, behind the session's prefix."""
        slots = self._plan.slots
        first = np.array(slots[0].before, np.int32)
        held = dict(zip(session.admit([np.concatenate([prompt, first]) for prompt in prompts]), rows, strict=True))
        for row, prompt in zip(rows, prompts, strict=True):
            row.forwarded = len(prompt) + len(first)
        self._counts.prefill += sum(map(len, prompts))
        self._counts.forced += len(first) * len(rows)
        for slot, fixed in zip(slots, [slot.before for slot in slots[1:]] + [()], strict=True):
            self._forward(session, held)
            self._choose(session, held, slot) if slot.closed else self._write(session, held, slot)
            for row in held.values():
                row.pending += fixed
            self._counts.forced += len(fixed or self._plan.close) * len(held)
        session.drop(list(held))

    def _forward(self, session: Session, held: Held) -> None:
        """Show the session what it has not seen yet."""
        pending = {handle: row.pending for handle, row in held.items() if row.pending}
        if pending:
            session.extend(pending)
        for handle in pending:
            held[handle].forwarded += len(held[handle].pending)
            held[handle].pending = []

    def _choose(self, session: Session, held: Held, slot: Slot) -> None:
        """The most likely value of a closed field."""
        points = self._points[slot.name]
        for handle, probabilities in distributions(session, list(held), points, len(slot.values)).items():
            row = held[handle]
            best = row.take(slot.name, slot.values, probabilities)
            row.pending += slot.tokens[best][: slot.own[best]]
            choices = sum(any(best in child for child in branch.children) for branch in points)
            self._counts.decoded += choices
            self._counts.forced += slot.own[best] - choices  # -1 where the token behind the value was the choice: 1, or 10?

    def _write(self, session: Session, held: Held, slot: Slot) -> None:
        """An open field, token by token, until its grammar says that it is complete."""
        grammars = {handle: self._prototypes[slot.name].copy() for handle in held}
        written: dict[int, list[int]] = {handle: [] for handle in held}
        logs: dict[int, list[float]] = {handle: [] for handle in held}
        while active := self._active(grammars, held, written):
            self._forward(session, {handle: held[handle] for handle in active})
            chosen, log = session.choose({handle: grammars[handle].allowed() for handle in active})
            for handle in active:
                grammars[handle].consume(chosen[handle])
                written[handle].append(chosen[handle])
                held[handle].pending.append(chosen[handle])
                logs[handle].append(log[handle])
            self._counts.decoded += len(active)
        assert self._grammars is not None
        for handle, row in held.items():
            row.answer[slot.name] = json.loads(self._grammars.text(written[handle]))
            row.confidence[slot.name] = float(np.exp(np.mean(logs[handle]))) if logs[handle] else 1.0

    def _active(self, grammars: Mapping[int, Grammar], held: Held, written: Mapping[int, list[int]]) -> list[int]:
        """The rows that have a token to choose, after what the grammar forces has been appended."""
        for handle, grammar in grammars.items():
            if not grammar.over:
                tokens = grammar.forced()
                written[handle].extend(tokens)
                held[handle].pending.extend(tokens)
                self._counts.forced += len(tokens)
        return [handle for handle, grammar in grammars.items() if not grammar.over]
