"""A run's labelled rows, answered by its student: what the judge said, what the student says, and how surprised it is by the judge.

The answers are the student's own, as it is sure of them by itself: what they are really worth is found out of them (`judgement`).
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlx_distill.backends.base import BARE, Student
from mlx_distill.data import examples
from mlx_distill.data.batches import by_length, groups
from mlx_distill.data.tokens import Lesson, lessons
from mlx_distill.errors import DataError
from mlx_distill.evaluation import ceiling
from mlx_distill.evaluation.judge import Judged
from mlx_distill.inference.engine import Engine
from mlx_distill.observe.progress import Step as Bar
from mlx_distill.recipe.schema import Recipe, SourceSpec
from mlx_distill.records import BadRow, Example, LossSum, Prediction, Value
from mlx_distill.task import rubric
from mlx_distill.task.plan import plan
from mlx_distill.task.prompt import Prompt
from mlx_distill.training.run import Run
from mlx_distill.workflows.again import second_answers

WINDOW = 512
TOKENS_AT_ONCE = 16384
JUDGED = ("valid", "calibrate", "test")
"""The splits that are answered."""


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows to judge by, each with its split; those that were learned; and what they are of."""

    judged: Sequence[tuple[Example, str]]
    learned: Sequence[Example]
    sha256: str
    known: int = 0
    """Of rows that were brought from elsewhere: those with the id of a row that was learned."""

    @classmethod
    def of(cls, run: Run, recipe: Recipe, facts: Mapping[str, Any], data: SourceSpec | None) -> Rows:
        """The run's own; or those of `data`, all of them test. Raises DataError where the run's changed, or none is to be judged."""
        source = data or recipe.data.source
        path = Path(source.path)
        loaded = examples.collect(recipe.task, source, path, missing=recipe.data.missing, max_bad_share=recipe.data.max_bad_share)
        rows, split = {row.id: row for row in loaded.rows}, run.split()
        if data is None and facts.get("data", {}).get("sha256") != loaded.sha256:
            hint = "bring back the rows that it was trained on, or judge it by these: --data FILE"
            raise DataError("the data changed since the run was begun", file=path, hint=hint)
        wanted = {"test": list(rows)} if data else {name: split.get(name, []) for name in JUDGED}
        judged = [(rows[i], name) for name, ids in wanted.items() for i in ids if i in rows]
        if not any(name == "test" for _, name in judged):
            raise DataError("there is no test row to judge by", file=path, hint="data.split.test is 0; give labelled rows: --data FILE")
        learned = [] if data else [rows[i] for i in split["train"] if i in rows]
        return cls(judged, learned, loaded.sha256, len(rows.keys() & set(split["train"])) if data else 0)

    def counts(self) -> dict[str, int]:
        """Rows of each split."""
        found = {"train": len(self.learned)} if self.learned else {}
        return found | {name: sum(split == name for _, split in self.judged) for name in dict.fromkeys(split for _, split in self.judged)}


@dataclass(frozen=True, slots=True)
class Surprise:
    """Nats of the judge's answer: as the training weighs them; and of each field's value, (nats, tokens), unweighted."""

    loss: LossSum
    fields: Mapping[str, tuple[float, float]]


class Answering:
    """The student before a task's rows."""

    def __init__(self, recipe: Recipe, student: Student, tokenizer: Any):
        self.recipe, self.tokenizer, self._student = recipe, tokenizer, student
        self.engine = self._engine("run")
        self.seconds = 0.0
        self.remarks: list[str] = []
        """What a reader of the report should know of the rows."""

    def _engine(self, adapter: str) -> Engine:
        recipe = self.recipe
        return Engine(self._student, recipe.task, self.tokenizer, answer=recipe.answer, max_tokens=recipe.train.max_tokens, adapter=adapter)

    def judged(self, rows: Sequence[tuple[Example, str]], bar: Bar) -> Iterator[Judged]:
        """Each row with both answers. The judge may have been asked again, or others with it: `evaluate.again`, `raters` of a field."""
        recipe, again = self.recipe, second_answers(self.recipe)
        records, seconds = [row.record for row, _ in rows], list(again.records.values())
        self.remarks += again.remarks()
        self.remarks += ceiling.remarks(recipe.task, records, seconds, recipe.data.missing, texts=recipe.report.show_texts)
        surprise = self._surprises([row for row, _ in rows])
        for start in range(0, len(rows), WINDOW):
            window = rows[start : start + WINDOW]
            began = time.monotonic()
            answers = list(self.engine.answers([row for row, _ in window]))
            self.seconds += time.monotonic() - began
            for (row, split), prediction in zip(window, answers, strict=True):
                yield judged(recipe, row, split, prediction, surprise.get(row.id), again.answers.get(row.id))
            bar.advance(len(window))

    def untrained(self, rows: Sequence[Example], bar: Bar) -> dict[str, Mapping[str, Value]]:
        """What the base says before it has learned anything, by id: texts alone are left out. A row that it cannot answer is missing."""
        engine = self._engine(BARE)
        found: dict[str, Mapping[str, Value]] = {}
        for start in range(0, len(rows), WINDOW):
            window = rows[start : start + WINDOW]
            answers = zip(window, engine.answers(window), strict=True)
            found |= {row.id: answer.answer for row, answer in answers if isinstance(answer, Prediction)}
            bar.advance(len(window))
        return found

    def _surprises(self, rows: Sequence[Example]) -> dict[str, Surprise]:
        recipe = self.recipe
        prompt, answers = Prompt(recipe.task, self.tokenizer), plan(recipe.answer, recipe.task.fields, self.tokenizer)
        taught = lessons(rows, prompt, answers, recipe.train.max_tokens).rows
        found: dict[str, Surprise] = {}
        for batch in by_length(taught, TOKENS_AT_ONCE):
            nats = self._student.nlls(groups([batch], prompt.prefix))
            found |= {lesson.row.id: _surprise(lesson, nats[lesson.row.id]) for lesson in batch}
        return found


def _surprise(lesson: Lesson, nats: Any) -> Surprise:
    weight = lesson.row.weight.astype(float)
    by: dict[str, tuple[float, float]] = defaultdict(lambda: (0.0, 0.0))
    for name, one in zip(lesson.field, nats.tolist(), strict=True):
        if name is not None:
            by[name] = (by[name][0] + one, by[name][1] + 1)
    return Surprise(LossSum(float(nats.astype(float) @ weight), float(weight.sum())), dict(by))


def judged(
    recipe: Recipe,
    row: Example,
    split: str,
    prediction: Prediction | BadRow,
    surprise: Surprise | None = None,
    again: Mapping[str, Value] | None = None,
) -> Judged:
    """A row with both answers. `surprise`: at the judge's."""
    overall, tier = rubric.assess(recipe.task, row.labels, row.record)
    said = prediction if isinstance(prediction, Prediction) else None
    return Judged(
        id=row.id,
        split=split,
        reference=row.labels,
        answer=said.answer if said else None,
        confidence=said.confidence if said else {},
        probabilities=said.probabilities if said else {},
        raw=said.raw if said else {},
        sure=said.sure if said else None,
        defer=said.defer if said else False,
        sets=said.sets if said else {},
        again=again or {},
        raters=ceiling.raters_of(recipe.task, row.record, recipe.data.missing),
        reference_overall=overall,
        overall=said.overall if said else None,
        reference_tier=tier,
        tier=said.tier if said else None,
        nll=surprise.loss.nats if surprise and surprise.loss.tokens else None,
        nll_tokens=surprise.loss.tokens or None if surprise else None,
        nll_fields=surprise.fields if surprise else {},
        tokens=said.tokens if said else None,
        refused=prediction.reason if isinstance(prediction, BadRow) else None,
        text=row.text,
        record=row.record,
    )
