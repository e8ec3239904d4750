"""What a validation measures: the loss on the validation rows, and, where `train.keep` names a metric, the student's answers to them.

How answers are made and judged is not known here: an `Exam` is handed in by the workflows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from mlx_distill.backends.base import Student
from mlx_distill.data.batches import by_length, groups
from mlx_distill.data.tokens import Lesson
from mlx_distill.records import Ids, LossSum

TOKENS_AT_ONCE = 16384
"""Tokens of one forward, at most ..."""
SHARE = 2
"""... and at most so many times those of the largest micro-batch: without a backward pass they need no more memory than that one does."""
LOSS = "valid_loss"


class Exam(Protocol):
    """The student in training answers validation rows."""

    lower_is_better: bool
    """Of the metric that `train.keep` names."""

    def metrics(self) -> Mapping[str, float]:
        """Every metric of the task that these rows have, by name."""
        ...

    def samples(self) -> Sequence[Mapping[str, Any]]:
        """Some answers beside the reference: {id, reference {field: value}, answer {field: value} or None}. The same rows every time."""
        ...


@dataclass(frozen=True, slots=True)
class Validated:
    """`loss` in nats a token; None where it is not finite. `figure` is what `train.keep` judges, the lower the better; NaN: unknown."""

    loss: float | None
    figure: float
    metrics: Mapping[str, float] = field(default_factory=dict)


class Validation:
    """Of one student. Rows that teach nothing (without a label in the first field) have no loss, and can be answered all the same."""

    def __init__(
        self, student: Student, rows: Sequence[Lesson], prefix: Ids, *, keep: str, exam: Exam | None = None, tokens: int = TOKENS_AT_ONCE
    ):
        """`tokens`: of the largest micro-batch that is trained."""
        assert keep == LOSS or exam is not None, "a metric is measured on answers"
        self._at_once = min(SHARE * tokens, TOKENS_AT_ONCE)
        self._student, self._rows, self._prefix, self._keep, self._exam = student, rows, prefix, keep, exam

    def measure(self) -> Validated:
        loss = self._loss()
        finite = loss if math.isfinite(loss) else None
        if self._keep == LOSS or self._exam is None:
            return Validated(finite, loss)
        broken = finite is None and len(self._rows) > 0  # a student whose loss is no number gives no answers
        metrics = {} if broken else dict(self._exam.metrics())
        return Validated(finite, self.turned(metrics.get(self._keep, math.nan)), metrics)

    def turned(self, figure: float) -> float:
        """A figure so that lower is better, and back."""
        return figure if self._keep == LOSS or self._exam is None or self._exam.lower_is_better else -figure

    def _loss(self) -> float:
        total = LossSum()
        for batch in by_length(self._rows, self._at_once):
            total = sum(self._student.loss(groups([batch], self._prefix)).values(), total)
        return total.mean
