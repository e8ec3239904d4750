"""Answers for many texts: prompts prefilled behind the shared prefix, closed fields read from tries, open ones decoded under a grammar.

Every answer is valid by construction. Fixed text is appended, never decoded; a closed field costs one read, and its value travels to the
student together with the fixed text behind it. The engine knows sessions and plans; nothing of files, ids on disk or training.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mlx_distill.backends.base import Session, Student
from mlx_distill.data.tokens import begins_with
from mlx_distill.inference.grammar import Grammar, Grammars
from mlx_distill.inference.trie import Branch, branches, distributions
from mlx_distill.recipe.schema import TaskSpec
from mlx_distill.records import BadRow, Example, Ids, Prediction, Value
from mlx_distill.task import rubric
from mlx_distill.task.answer import AnswerPlan, Slot
from mlx_distill.task.prompt import Prompt

ROWS_AT_ONCE, TOKENS_AT_ONCE = 64, 8192
"""Of one batch: rows, and padded tokens of their prompts without the prefix."""


@dataclass(slots=True)
class Counts:
    """Tokens: of prompts, of answers where the student had to choose, of answers where there was no choice."""

    prefill: int = 0
    decoded: int = 0
    forced: int = 0


@dataclass(slots=True)
class _Row:
    """A row on its way: its answer so far, and the tokens that its session has not seen yet."""

    example: Example
    tokens: Ids
    trimmed: bool
    answer: dict[str, Value] = field(default_factory=dict)
    confidence: dict[str, float] = field(default_factory=dict)
    probabilities: dict[str, list[float]] = field(default_factory=dict)
    pending: list[int] = field(default_factory=list)
    forwarded: int = 0


class Engine:
    """Answers one task with one student. `max_tokens` bounds prompt and answer, as in training."""

    def __init__(self, student: Student, task: TaskSpec, tokenizer: Any, *, max_tokens: int, adapter: str | None = None):
        self._student, self._task, self._adapter, self._max_tokens = student, task, adapter, max_tokens
        self._prompt = Prompt(task, tokenizer)
        self._plan = AnswerPlan(task.fields, tokenizer)
        self._points: dict[str, list[Branch]] = {slot.name: branches(slot.tokens) for slot in self._plan.slots if slot.closed}
        open_slots = [slot for slot in self._plan.slots if not slot.closed]
        self._grammars = Grammars(tokenizer, student.vocabulary) if open_slots else None
        self._prototypes = {slot.name: self._grammars.compile(slot.spec) for slot in open_slots if self._grammars}
        self._sessions: dict[bool, Session] = {}
        self.counts = Counts()

    def answers(self, examples: Sequence[Example]) -> Iterator[Prediction | BadRow]:
        """A prediction for each example, or why there is none, in the order of the examples."""
        out: dict[int, Prediction | BadRow] = {}
        rows: dict[int, _Row] = {}
        for number, example in enumerate(examples):
            made = self._row(example)
            if isinstance(made, BadRow):
                out[number] = made
            else:
                rows[number] = made
        for batch in self._batches(rows):
            self._answer([rows[number] for number in batch])
            out |= {number: self._prediction(rows[number]) for number in batch}
        yield from (out[number] for number in range(len(examples)))

    def _row(self, example: Example) -> _Row | BadRow:
        room = self._max_tokens - self._plan.room
        ids, trimmed = self._prompt.ids(example.text, max(1, room))
        if len(ids) > room:
            need = len(ids) + self._plan.room
            return BadRow(f"prompt and answer need {need} tokens, train.max_tokens is {self._max_tokens}", example.line, example.id)
        return _Row(example, ids, trimmed)

    def _batches(self, rows: Mapping[int, _Row]) -> Iterator[list[int]]:
        """Rows of like length together; those without the shared prefix (a text can do that) by themselves."""
        prefix = self._prompt.prefix
        keyed = sorted((not begins_with(row.tokens, prefix), len(row.tokens), number) for number, row in rows.items())
        batch: list[int] = []
        for apart, length, number in keyed:
            own = length - (0 if apart else len(prefix))
            full = len(batch) == ROWS_AT_ONCE or (len(batch) + 1) * own > TOKENS_AT_ONCE
            if batch and (full or apart != (not begins_with(rows[batch[0]].tokens, prefix))):
                yield batch
                batch = []
            batch.append(number)
        if batch:
            yield batch

    def _answer(self, rows: Sequence[_Row]) -> None:
        prefix = self._prompt.prefix
        shared = begins_with(rows[0].tokens, prefix)
        session = self._session(shared)
        first = np.array(self._plan.slots[0].before, np.int32)
        own = [np.concatenate([row.tokens[len(prefix) if shared else 0 :], first]) for row in rows]
        held = dict(zip(session.admit(own), rows, strict=True))
        self.counts.prefill += sum(map(len, own)) - len(first) * len(rows)
        self.counts.forced += len(first) * len(rows)
        for row, tokens in zip(rows, own, strict=True):
            row.forwarded = len(tokens)
        after = [slot.before for slot in self._plan.slots[1:]] + [()]
        for slot, fixed in zip(self._plan.slots, after, strict=True):
            self._forward(session, held)
            self._choose(session, held, slot) if slot.closed else self._write(session, held, slot)
            for row in held.values():
                row.pending += fixed
            self.counts.forced += len(fixed or self._plan.close) * len(held)
        session.drop(list(held))

    def _session(self, shared: bool) -> Session:
        if shared not in self._sessions:
            prefix = self._prompt.prefix if shared else self._prompt.prefix[:0]
            self._sessions[shared] = self._student.session(prefix, adapter=self._adapter, token_budget=TOKENS_AT_ONCE)
        return self._sessions[shared]

    def _forward(self, session: Session, held: Mapping[int, _Row]) -> None:
        """Show the session what it has not seen yet."""
        pending = {handle: row.pending for handle, row in held.items() if row.pending}
        if pending:
            session.extend(pending)
        for handle in pending:
            held[handle].forwarded += len(held[handle].pending)
            held[handle].pending = []

    def _choose(self, session: Session, held: Mapping[int, _Row], slot: Slot) -> None:
        """The most likely value of a closed field."""
        points = self._points[slot.name]
        for handle, probabilities in distributions(session, list(held), points, len(slot.values)).items():
            row, best = held[handle], int(np.argmax(probabilities))
            row.answer[slot.name] = slot.values[best]
            row.confidence[slot.name] = float(probabilities[best])
            row.probabilities[slot.name] = [float(p) for p in probabilities]
            row.pending += slot.tokens[best][: slot.own[best]]
            choices = sum(any(best in child for child in branch.children) for branch in points)
            self.counts.decoded += choices
            self.counts.forced += max(0, slot.own[best] - choices)

    def _write(self, session: Session, held: Mapping[int, _Row], slot: Slot) -> None:
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
            self.counts.decoded += len(active)
        assert self._grammars is not None
        for handle, row in held.items():
            row.answer[slot.name] = json.loads(self._grammars.text(written[handle]))
            row.confidence[slot.name] = float(np.exp(np.mean(logs[handle]))) if logs[handle] else 1.0

    def _active(self, grammars: Mapping[int, Grammar], held: Mapping[int, _Row], written: Mapping[int, list[int]]) -> list[int]:
        """The rows that have a token to choose, after what the grammar forces has been appended."""
        for handle, grammar in grammars.items():
            if not grammar.over:
                tokens = grammar.forced()
                written[handle].extend(tokens)
                held[handle].pending.extend(tokens)
                self.counts.forced += len(tokens)
        return [handle for handle, grammar in grammars.items() if not grammar.over]

    def _prediction(self, row: _Row) -> Prediction:
        overall, tier = rubric.assess(self._task, row.answer, row.example.record)
        return Prediction(
            row.example.id, row.answer, row.confidence, row.probabilities, overall, tier, row.trimmed, row.forwarded
        )  # fmt: skip
