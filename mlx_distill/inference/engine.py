"""Answers for many texts: prompts prefilled in batches behind the shared prefix, then answered as the recipe says, every one valid.

The engine knows sessions and plans; nothing of files, ids on disk or training.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mlx_distill.backends.base import Session, Student
from mlx_distill.data.tokens import begins_with
from mlx_distill.inference.row import Counts, Row
from mlx_distill.inference.slots import SlotReader
from mlx_distill.inference.written import Writer
from mlx_distill.recipe.schema import TaskSpec
from mlx_distill.records import BadRow, Example, Prediction
from mlx_distill.task import rubric
from mlx_distill.task.plan import plan
from mlx_distill.task.prompt import Prompt
from mlx_distill.task.slots import SlotPlan

ROWS_AT_ONCE, TOKENS_AT_ONCE = 64, 8192
"""Of one batch: rows, and padded tokens of their prompts without the prefix."""


class Engine:
    """Answers one task with one student. `answer` and `max_tokens` are those of its training."""

    def __init__(self, student: Student, task: TaskSpec, tokenizer: Any, *, answer: str, max_tokens: int, adapter: str | None = None):
        self._student, self._task, self._adapter, self._max_tokens = student, task, adapter, max_tokens
        self._prompt = Prompt(task, tokenizer)
        self._plan = plan(answer, task.fields, tokenizer)
        self.counts = Counts()
        self._way: SlotReader | Writer
        if isinstance(self._plan, SlotPlan):
            self._way = SlotReader(self._plan, self.counts)
        else:
            self._way = Writer(self._plan, tokenizer, student.vocabulary, self.counts)
        self._sessions: dict[bool, Session] = {}

    def answers(self, examples: Sequence[Example]) -> Iterator[Prediction | BadRow]:
        """A prediction for each example, or why there is none, in the order of the examples."""
        out: dict[int, Prediction | BadRow] = {}
        rows: dict[int, Row] = {}
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

    def forget(self) -> None:
        """Drop what was computed with the student's weights: of one that goes on learning it would be another's."""
        self._sessions.clear()

    def _row(self, example: Example) -> Row | BadRow:
        room = self._max_tokens - self._plan.room
        ids, trimmed = self._prompt.ids(example.text, max(1, room))
        if len(ids) > room:
            need = len(ids) + self._plan.room
            return BadRow(f"prompt and answer need {need} tokens, train.max_tokens is {self._max_tokens}", example.line, example.id)
        return Row(example, ids, trimmed)

    def _batches(self, rows: Mapping[int, Row]) -> Iterator[list[int]]:
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

    def _answer(self, rows: Sequence[Row]) -> None:
        shared = begins_with(rows[0].tokens, self._prompt.prefix)
        start = len(self._prompt.prefix) if shared else 0
        self._way.answer(self._session(shared), rows, [row.tokens[start:] for row in rows])

    def _session(self, shared: bool) -> Session:
        if shared not in self._sessions:
            prefix = self._prompt.prefix if shared else self._prompt.prefix[:0]
            self._sessions[shared] = self._student.session(prefix, adapter=self._adapter, token_budget=TOKENS_AT_ONCE)
        return self._sessions[shared]

    def _prediction(self, row: Row) -> Prediction:
        overall, tier = rubric.assess(self._task, row.answer, row.example.record)
        return Prediction(row.example.id, row.answer, row.confidence, row.probabilities, overall, tier, row.trimmed, row.forwarded)
