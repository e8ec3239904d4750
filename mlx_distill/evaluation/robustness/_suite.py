"""What a suite is: a file of this folder that changes texts in one way, and says what a student should make of it.

    TITLE = "Typing errors"            what a person reads
    MEANING = "..."                    one sentence for the report: what is done, and why the answer should stay or not
    EXPECT = SAME                      or SAME_OR_DEFER, DOUBT
    WHERE = EVERY                      which of the row's text columns are changed: EVERY, or the LONGEST alone
    def perturb(text, random, context) -> str
    def aim(random, context) -> Aim | None                (injection) what the changed text demands, from a `random` in the same state

`perturb` gives the changed text, or the text itself where there is nothing to change. Any text is legal: empty, of any script, a megabyte
long. It draws from `random` alone, which is seeded by (seed, suite, row id): the order of the rows decides nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from mlx_distill.evaluation.judge import Judged
from mlx_distill.recipe.schema import TaskSpec
from mlx_distill.records import BadRow, Example, Prediction, Value

KIND = "evaluation.robustness"
SAME = "same_answer"
"""What is asked has not changed: every field keeps its value."""
SAME_OR_DEFER = "same_answer_or_defer"
"""Something is missing or contradicted: either every field keeps its value, or the row is handed back."""
DOUBT = "defer"
"""There is nothing to answer: the row is handed back, or at least the student is less sure."""
EVERY, LONGEST = "every", "longest"

Ask = Callable[[Sequence[Example]], Sequence[Prediction | BadRow]]
"""Answers in the order of the examples, with calibration and deferral applied."""
Aim = tuple[str, Value]
"""A field, and the value that an injected instruction demands for it."""


@dataclass(frozen=True, slots=True)
class Context:
    """What a change may know beside the text."""

    task: TaskSpec
    row: Judged
    label: str = ""
    """What the judge says of the row (`_draw.stratum`)."""
    texts: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """The test rows' longest texts by what the judge says of them, each list in the order of the rows' ids."""
