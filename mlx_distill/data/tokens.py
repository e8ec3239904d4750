"""From an example to what the student reads and learns: prompt and answer in tokens, the answer never cut.

It joins `task.prompt` and a plan of answers; it knows nothing of models, batches or epochs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from mlx_distill.data.balance import Balance
from mlx_distill.errors import CheckpointError
from mlx_distill.records import BadRow, Example, Ids, Taught, TokenRow, Value
from mlx_distill.task.prompt import Prompt


class Plan(Protocol):
    """How a task is answered: `task.answer.AnswerPlan` or `task.slots.SlotPlan`."""

    room: int

    def taught(self, labels: Mapping[str, Value]) -> Taught | None: ...


@dataclass(frozen=True, slots=True, eq=False)
class Lesson:
    """A row with its whole prompt. `shared`: whether the prompt begins with the task's prefix, which `row` then lacks."""

    row: TokenRow
    shared: bool
    trimmed: bool
    prompt: int
    """Tokens of the prompt, the prefix included."""
    field: Sequence[str | None] = ()
    """The field whose value each target decides; None for text that is fixed."""


@dataclass(frozen=True, slots=True)
class Lessons:
    rows: list[Lesson]
    rejected: list[BadRow]
    unlabelled: int
    """Rows that teach nothing: without a label in the first field, or in fields alone that count nothing in the loss.

    In slots: without one in any closed field and in the first open one.
    """


def lessons(examples: Iterable[Example], prompt: Prompt, plan: Plan, max_tokens: int, balance: Balance | None = None) -> Lessons:
    """Every example that teaches something. One whose answer leaves no room for any of its text is rejected, by id."""
    rows: list[Lesson] = []
    rejected: list[BadRow] = []
    unlabelled = 0
    for example in examples:
        try:
            taught = plan.taught(example.labels)
        except CheckpointError as error:  # an open field's label that the tokenizer has no tokens for
            rejected.append(BadRow(error.message, example.line, example.id))
            continue
        if taught is None or not taught.weight.any():
            unlabelled += 1
            continue
        room = max_tokens - len(taught.inputs) - 1
        ids, trimmed = prompt.ids(example.text, max(1, room))
        if len(ids) > room:
            need = len(ids) + len(taught.inputs) + 1
            rejected.append(BadRow(f"prompt and answer need {need} tokens, train.max_tokens is {max_tokens}", example.line, example.id))
            continue
        weight = taught.weight if balance is None else taught.weight * balance.weights(example.labels, taught.field)
        rows.append(_lesson(example.id, ids, replace(taught, weight=weight), prompt.prefix, trimmed))
    return Lessons(rows, rejected, unlabelled)


def _lesson(name: str, prompt: Ids, taught: Taught, prefix: Ids, trimmed: bool) -> Lesson:
    """The token after the prompt and `read` tokens of the answer is the one that is learned."""
    shared = begins_with(prompt, prefix)
    start = len(prefix) if shared else 0
    tokens = np.concatenate([prompt, taught.inputs]).astype(np.int32)[start:]
    read_at = (len(prompt) - 1 - start + taught.read).astype(np.int32)
    row = TokenRow(name, tokens, read_at, taught.targets, taught.weight, taught.allowed)
    return Lesson(row, shared, trimmed, len(prompt), taught.field)


def begins_with(prompt: Ids, prefix: Ids) -> bool:
    """Whether the prefix can be shared by this prompt: it begins so, and has a token of its own from which the answer is read."""
    return 0 < len(prefix) < len(prompt) and bool(np.array_equal(prompt[: len(prefix)], prefix))
