"""From an example to what the student reads and learns: prompt and answer in tokens, the answer never cut.

It joins `task.prompt` and `task.answer`; it knows nothing of models, batches or epochs.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from mlx_distill.records import BadRow, Example, Ids, TokenRow
from mlx_distill.task.answer import AnswerPlan
from mlx_distill.task.prompt import Prompt


@dataclass(frozen=True, slots=True, eq=False)
class Lesson:
    """A row with its whole prompt. `shared`: whether the prompt begins with the task's prefix, which `row` then lacks."""

    row: TokenRow
    shared: bool
    trimmed: bool
    prompt: int
    """Tokens of the prompt, the prefix included."""


@dataclass(frozen=True, slots=True)
class Lessons:
    rows: list[Lesson]
    rejected: list[BadRow]
    unlabelled: int
    """Rows without a label in the first field: they teach nothing."""


def lessons(examples: Iterable[Example], prompt: Prompt, plan: AnswerPlan, max_tokens: int) -> Lessons:
    """Every example that teaches something. One whose answer leaves no room for any of its text is rejected, by id."""
    out = Lessons([], [], 0)
    unlabelled = 0
    for example in examples:
        target = plan.target(example.labels)
        if not target.tokens:
            unlabelled += 1
            continue
        ids, trimmed = prompt.ids(example.text, max_tokens - len(target.tokens))
        if len(ids) + len(target.tokens) > max_tokens:
            reason = f"prompt and answer need {len(ids) + len(target.tokens)} tokens, train.max_tokens is {max_tokens}"
            out.rejected.append(BadRow(reason, example.line, example.id))
            continue
        weights = [plan.weight(field) for field in target.field]
        out.rows.append(_lesson(example.id, ids, target.tokens, weights, prompt.prefix, trimmed))
    return Lessons(out.rows, out.rejected, unlabelled)


def _lesson(name: str, prompt: Ids, answer: tuple[int, ...], weights: list[float], prefix: Ids, trimmed: bool) -> Lesson:
    """The token after position i of prompt + answer is learned for each i from the prompt's last on."""
    shared = begins_with(prompt, prefix)
    start = len(prefix) if shared else 0
    tokens = np.concatenate([prompt, np.array(answer[:-1], np.int32)]).astype(np.int32)[start:]
    read_at = np.arange(len(prompt) - 1 - start, len(tokens), dtype=np.int32)
    row = TokenRow(name, tokens, read_at, np.array(answer, np.int32), np.array(weights, np.float32))
    return Lesson(row, shared, trimmed, len(prompt))


def begins_with(prompt: Ids, prefix: Ids) -> bool:
    """Whether the prefix can be shared by this prompt: it begins so, and has a token of its own from which the answer is read."""
    return 0 < len(prefix) < len(prompt) and bool(np.array_equal(prompt[: len(prefix)], prefix))
