"""HumanEval: functions to be written, and tests of them (Chen et al., "Evaluating large language models trained on code", 2021).

HumanEval.jsonl, packed or not: task_id, prompt, entry_point, canonical_solution, test. One greedy answer each (pass@1).
What a model writes is run in a `sandbox` alone, and only where somebody asked for it.
"""

from __future__ import annotations

from pathlib import Path

from mlx_distill.data.sources import SourceRow
from mlx_distill.errors import DataError
from mlx_distill.evaluation.benchmarks import Question, Read, _rows
from mlx_distill.evaluation.sandbox import Case

TITLE, FLOOR, SHOTS = "HumanEval", 0.3, False
STOPS = ("\nclass", "\ndef", "\n#", "\nif", "\nprint")
TOKENS = 512
"""The longest canonical solution has about 250; what goes on for longer goes in circles."""


def heading(task: str) -> str:
    return ""


def read(path: Path) -> Read:
    questions = [_question(row) for file in _rows.files(path, (*_rows.LINES, *_rows.TABLES)) for row in _rows.rows(file)]
    if not questions:
        raise DataError("there is no question in it", file=path, hint="is this the right file?")
    return Read(questions)


def case(question: Question, said: str) -> Case:
    """The tests may use what the prompt defines beside the function, in their own process: it is completed there as its authors did."""
    return Case(question.prompt + said, question.entry_point, question.prompt + question.answer, question.tests)


def _question(row: SourceRow) -> Question:
    names = ("task_id", "prompt", "canonical_solution", "entry_point", "test")
    name, prompt, solution, entry_point, tests = (_rows.text(row, column) for column in names)
    if f"def {entry_point}" not in prompt:
        _rows.refuse(row, f"the prompt defines no function {entry_point!r}", "is this HumanEval's own file?")
    return Question(name, "humaneval", prompt, solution, "code", entry_point=entry_point, tests=tests)
