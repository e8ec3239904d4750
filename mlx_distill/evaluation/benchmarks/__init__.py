"""General benchmarks in the formats that they are published in: one file each, found by name (`catalog.find`).

Each of them has

    TITLE, FLOOR                                    what a person reads; the least share of right answers, where nobody names another
    SHOTS                                           whether solved questions of the same task may stand before one
    def read(path: Path) -> Read                    the questions of a file, or of a folder of such files. Raises DataError
    def heading(task: str) -> str                   what stands before the first question
    STOPS, TOKENS                                   where what is written ends: texts, or so many tokens   (kinds exact and code)
    def right(question, said: str) -> bool          (kind exact)
    def case(question, said: str) -> Case           the program and its tests   (kind code)

Prompts, stops and what counts as right are those of lm-evaluation-harness (Gao et al., "A framework for few-shot language model
evaluation", 2021), so that figures mean what they mean elsewhere: the bare text, without a chat template, for base and student alike.
They know files and words; nothing of models or of who is asked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

Kind = Literal["choice", "exact", "code"]


@dataclass(frozen=True, slots=True)
class Question:
    """One question. A choice is the likeliest of `choices` behind the prompt; exact: what is written is held against the answer."""

    id: str
    task: str
    """The subject, or the kind of puzzle: what figures are told by."""
    prompt: str
    """All of it but heading and solved examples; an answer follows behind a space (code: behind nothing)."""
    answer: str
    kind: Kind
    choices: tuple[str, ...] = ()
    chance: float = 0.0
    """Share of right answers that guessing has."""
    entry_point: str = ""
    """code: the function that is to be written ..."""
    tests: str = ""
    """... and the tests of it."""


@dataclass(frozen=True, slots=True)
class Read:
    questions: Sequence[Question]
    left_out: Mapping[str, int] = field(default_factory=dict)
    """Rows that are no questions to ask, by the reason."""


def drawn(questions: Sequence[Question], *, rows: int | None, shots: int, seed: int) -> tuple[list[Question], dict[str, list[Question]]]:
    """Which are asked, in the file's order; and by task the solved ones that stand before each, which are not asked themselves.

    The tasks take turns, so that each has as many as the others, as far as it has them. A task of so few that nothing would be left to ask
    has no solved ones. A task's draw hangs on the seed and its name alone.
    """
    by_task: dict[str, list[int]] = {}
    for number, question in enumerate(questions):
        by_task.setdefault(question.task, []).append(number)
    order = {task: [own[i] for i in _generator(seed, task).permutation(len(own))] for task, own in by_task.items()}
    spared = {task: own[:shots] if len(own) > shots else [] for task, own in order.items()}
    left = {task: own[len(spared[task]) :] for task, own in order.items()}
    turns = sorted(left, key=lambda task: float(_generator(seed, task).random()))
    longest = max(map(len, left.values()), default=0)
    chosen = [left[task][turn] for turn in range(longest) for task in turns if turn < len(left[task])][:rows]
    return [questions[i] for i in sorted(chosen)], {task: [questions[i] for i in own] for task, own in spared.items()}


def _generator(seed: int, task: str) -> np.random.Generator:
    return np.random.default_rng([seed, *task.encode("utf-8", "surrogatepass")])


def asked(question: Question, heading: str, shots: Sequence[Question]) -> str:
    """The whole prompt: heading, solved examples, the question.

    >>> one = Question("1", "sums", "Q: 1 + 1\\nA:", "2", "exact")
    >>> asked(Question("2", "sums", "Q: 2 + 2\\nA:", "4", "exact"), "Add.\\n\\n", [one])
    'Add.\\n\\nQ: 1 + 1\\nA: 2\\n\\nQ: 2 + 2\\nA:'
    """
    return heading + "".join(f"{shot.prompt} {shot.answer}\n\n" for shot in shots) + question.prompt
