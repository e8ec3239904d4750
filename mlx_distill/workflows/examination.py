"""A student examined while it learns: its answers to validation rows, judged as the report will judge them, and three of them to read.

`training.validation.Exam` is what the loop knows of it. The answers come from the engine that `infer` uses.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from mlx_distill.backends.base import Student
from mlx_distill.errors import DataError
from mlx_distill.evaluation.judge import Judged, best_at_zero, lay_out, lower_is_better, measure
from mlx_distill.inference.engine import Engine
from mlx_distill.recipe.schema import Recipe
from mlx_distill.records import Example, Prediction
from mlx_distill.task import rubric
from mlx_distill.training.validation import LOSS
from mlx_distill.workflows.answered import judged
from mlx_distill.workflows.preparation import Prepared

SAMPLES = 3
SHOWN = 200
"""Characters of a sample's text that are told."""


class Examination:
    """Raises DataError where `train.keep` names a metric that no validation row counts for."""

    def __init__(self, recipe: Recipe, prepared: Prepared, student: Student):
        self._recipe, keep = recipe, recipe.train.keep
        rows = (prepared.rows[i] for i in prepared.split["valid"])
        self._rows = [row for row in rows if row.labels]
        self.lower_is_better = keep == LOSS or lower_is_better(keep)
        if keep != LOSS and keep not in self._figures([self._by_heart(row) for row in self._rows]):
            hint = "name another metric as train.keep, or give data.split.valid a larger share"
            raise DataError(f"no validation row has what {keep} is measured on", file=recipe.data.source.path, hint=hint)
        self._student, self._tokenizer = student, prepared.tokenizer

    @cached_property
    def _engine(self) -> Engine:
        """Of the student in training: it has no adapter by name."""
        recipe = self._recipe
        return Engine(self._student, recipe.task, self._tokenizer, answer=recipe.answer, max_tokens=recipe.train.max_tokens)

    def metrics(self) -> Mapping[str, float]:
        return self._figures(list(self._answered(self._rows)))

    def samples(self) -> Sequence[Mapping[str, Any]]:
        number = min(SAMPLES, len(self._rows))
        drawn = np.random.default_rng([self._recipe.train.seed, SAMPLES]).choice(len(self._rows), number, replace=False)
        rows = [self._rows[i] for i in sorted(drawn)]
        texts = {row.id: " ".join(row.text.split())[:SHOWN] for row in rows}
        return [
            {"id": row.id, "text": texts[row.id], "reference": dict(row.reference), "answer": row.answer and dict(row.answer)}
            for row in self._answered(rows)
        ]

    def _answered(self, rows: Sequence[Example]) -> Iterator[Judged]:
        for row, prediction in zip(rows, self._engine.answers(rows), strict=True):
            yield judged(self._recipe, row, "valid", prediction)
        self._engine.forget()

    def _by_heart(self, row: Example) -> Judged:
        """As if the student gave the judge's own answers, and was sure of them."""
        overall, tier = rubric.assess(self._recipe.task, row.labels, row.record)
        answer = Prediction(row.id, row.labels, dict.fromkeys(row.labels, 1.0), overall=overall, tier=tier)
        return judged(self._recipe, row, "valid", answer)

    def _figures(self, rows: Sequence[Judged]) -> dict[str, float]:
        """Of a bias its distance from 0: the lowest is the best."""
        task = self._recipe.task
        figures = {name: tally.total() for name, tally in measure(lay_out(rows, task.fields, task.tiers_upwards)).items()}
        known = {name: figure for name, figure in figures.items() if not math.isnan(figure)}
        return {name: abs(figure) if best_at_zero(name) else figure for name, figure in known.items()}
