"""Answers written as JSON: fixed text is appended, closed fields are read from their tries, open ones decoded under a grammar.

A closed field costs one read, and its value travels to the student together with the fixed text behind it. Where its values part again
behind the first token (1, or 10?) and the answer does not hang on it, that branch is looked into beside the next field's tokens: no
forward is made for it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Generator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlx_distill.inference.ask import Aside, Ask, Program, Told
from mlx_distill.inference.grammar import Grammar, Grammars
from mlx_distill.inference.row import Counts, Row, Way
from mlx_distill.inference.trie import Branch, Unfolding, branches
from mlx_distill.records import Value
from mlx_distill.task.answer import AnswerPlan, Slot
from mlx_distill.task.fields import ITEM_CHARS, TEXT_CHARS, ended


@dataclass(slots=True)
class _Late:
    """Branches of a field that is answered, still to be looked into for its distribution."""

    branches: Sequence[Branch]
    depth: int
    """Tokens of their paths that the row had already when it stood there."""
    unfolding: Unfolding
    note: Callable[[NDArray[np.float64]], None]

    def asides(self) -> list[Aside]:
        return [(branch.path[self.depth :], branch.tokens) for branch in self.branches]

    def take(self, logs: Sequence[NDArray[np.float32]]) -> None:
        for branch, log in zip(self.branches, logs, strict=True):
            self.unfolding.take(branch, log)
        self.note(self.unfolding.probabilities)


class Writer:
    """`vocabulary`: rows of the student's head. `names`: the fields to answer, which lead; None: all."""

    def __init__(self, plan: AnswerPlan, tokenizer: Any, vocabulary: int, counts: Counts, way: Way, names: Collection[str] | None = None):
        self._plan, self._counts, self._way = plan, counts, way
        self._slots = [slot for slot in plan.slots if names is None or slot.name in names]
        self._points: dict[str, list[Branch]] = {slot.name: branches(slot.tokens) for slot in self._slots if slot.closed}
        open_slots = [slot for slot in self._slots if not slot.closed]
        self.grammars = Grammars(tokenizer, vocabulary) if open_slots else None
        self._prototypes = {slot.name: self.grammars.compile(slot.spec) for slot in open_slots if self.grammars}

    def program(self, row: Row, before: Sequence[int] = ()) -> Program:
        """Answers every field. `before`: tokens that stand before the answer and have not been forwarded yet."""
        pending, late = [*before], None
        for slot in self._slots:
            pending += slot.before
            self._counts.forced += len(slot.before)
            if slot.closed:
                pending, late = yield from self._choose(row, slot, pending, late)
            else:
                pending, late = (yield from self._write(row, slot, pending, late)), None
        self._counts.forced += len(self._plan.close)
        if late is not None:
            late.take((yield Ask((), asides=late.asides(), last=True)).logs)

    # closed fields

    def _choose(self, row: Row, slot: Slot, pending: list[int], late: _Late | None) -> Generator[Ask, Told, tuple[list[int], _Late | None]]:
        """The answer of a closed field; tokens to forward next, and branches to look into beside them."""
        points, unfolding = self._points[slot.name], Unfolding(self._points[slot.name], len(slot.values))
        depth = len(points[0].path) if points else 0  # what all values begin with is forced
        if points:
            asked = Ask([*pending, *points[0].path], (-1,), (points[0].tokens,), late.asides() if late else ())
            told = yield asked
            unfolding.take(points[0], told.logs[0])
            if late:
                late.take(told.logs[1:])
            pending, late = [], None
            while not self._settled(slot, unfolding):
                nearest = unfolding.next()
                told = yield Ask((), asides=[(branch.path[depth:], branch.tokens) for branch in nearest])
                for branch, log in zip(nearest, told.logs, strict=True):
                    unfolding.take(branch, log)
        best = self._taken(row, slot, unfolding.probabilities)
        choices = sum(best in branch.members for branch in points)
        self._counts.decoded += choices
        self._counts.forced += slot.own[best] - choices  # -1 where the token behind the value was the choice: 1, or 10?
        left = unfolding.rest() if self._way.whole else []

        def note(probabilities: NDArray[np.float64]) -> None:
            row.note(slot.name, self._tempered(probabilities), best, whole=self._way.whole)

        if not left:
            note(unfolding.probabilities)
        return [*pending, *slot.tokens[best][depth : slot.own[best]]], _Late(left, depth, unfolding, note) if left else late

    def _settled(self, slot: Slot, unfolding: Unfolding) -> bool:
        """Whether enough is known to answer: of a mean, a median or a draw, everything."""
        mode = self._way.temperature == 0 and slot.spec.estimate in (None, "mode")
        return unfolding.decided if mode else not unfolding.open()

    def _taken(self, row: Row, slot: Slot, probabilities: NDArray[np.float64]) -> int:
        if self._way.temperature == 0:
            return row.take(slot.name, slot.spec, slot.values, probabilities)
        return row.draw(slot.name, slot.values, self._tempered(probabilities), self._way)

    def _tempered(self, probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
        if self._way.temperature in (0, 1):
            return probabilities
        logs = np.log(np.maximum(probabilities, 1e-300)) / self._way.temperature
        weights = np.exp(logs - logs.max())
        return np.asarray(weights / weights.sum())

    # open fields

    def _write(self, row: Row, slot: Slot, pending: list[int], late: _Late | None) -> Generator[Ask, Told, list[int]]:
        """An open field, token by token, until its grammar says that it is complete; tokens to forward next."""
        assert self.grammars is not None
        grammar = self._prototypes[slot.name].copy()
        written: list[int] = self._forced(grammar)
        pending, logs = [*pending, *written], list[float]()
        while not grammar.over:
            seed = int(np.random.SeedSequence(row.seed(f"{slot.name}\n{len(logs)}", self._way)).generate_state(1)[0])
            told = yield Ask(pending, asides=late.asides() if late else (), grammar=grammar, seed=seed)
            if late:
                late.take(told.logs)
                late = None
            row.require_numbers(slot.name, told.log)
            grammar.consume(told.token)
            logs.append(told.log)
            pending = [told.token, *([] if grammar.over else self._forced(grammar))]
            written += pending
        assert late is None, "a text has a token to choose: its quote, or its first letter"
        self._counts.decoded += len(logs)
        row.answer[slot.name] = _ended(slot, json.loads(self.grammars.text(written)))
        row.confidence[slot.name] = float(np.exp(np.mean(logs))) if logs else 1.0
        return pending

    def _forced(self, grammar: Grammar) -> list[int]:
        tokens = grammar.forced()
        self._counts.forced += len(tokens)
        return tokens


def _ended(slot: Slot, value: Value) -> Value:
    """A text that reached its limit ends with a sentence or a word."""
    if slot.spec.kind == "text":
        return ended(str(value), slot.spec.max_chars or TEXT_CHARS)
    if isinstance(value, list) and slot.spec.choices is None:
        return [ended(item, slot.spec.max_chars or ITEM_CHARS) for item in value]
    return value
