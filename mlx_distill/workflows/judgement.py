"""A run's answers beside the judge's: predictions.jsonl, and the report made of them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mlx_distill.backends.base import Student
from mlx_distill.data import examples
from mlx_distill.data.batches import by_length, groups
from mlx_distill.data.tokens import lessons
from mlx_distill.errors import DataError
from mlx_distill.evaluation import curves, page, report
from mlx_distill.evaluation.baselines import baselines
from mlx_distill.evaluation.judge import Judged
from mlx_distill.files import write_json, write_text
from mlx_distill.inference.engine import Engine
from mlx_distill.observe.events import read_events
from mlx_distill.observe.progress import Progress
from mlx_distill.observe.progress import Step as Bar
from mlx_distill.recipe.lock import recipe_hash
from mlx_distill.recipe.schema import Recipe, SourceSpec
from mlx_distill.records import BadRow, Example, LossSum, Prediction, Value
from mlx_distill.task import rubric
from mlx_distill.task.fields import ABSENT, follow
from mlx_distill.task.plan import plan
from mlx_distill.task.prompt import Prompt, load_tokenizer
from mlx_distill.training.run import Run

WINDOW = 512
TOKENS_AT_ONCE = 16384


class Judgement:
    """Of the run's valid and test rows; or of the labelled rows of `data`, all of them test, in files of their own name."""

    def __init__(
        self,
        run: Run,
        recipe: Recipe,
        facts: Mapping[str, Any],
        base: Path,
        student: Student,
        progress: Progress,
        data: SourceSpec | None,
    ):
        self._run, self._recipe, self._facts, self._progress, self._student = run, recipe, facts, progress, student
        source = data or recipe.data.source
        path = Path(source.path)
        self._suffix = f".{path.stem}" if data else ""
        loaded = examples.collect(recipe.task, source, path, missing=recipe.data.missing, max_bad_share=recipe.data.max_bad_share)
        rows = {row.id: row for row in loaded.rows}
        self._sha256, split = loaded.sha256, run.split()
        if data is None and facts.get("data", {}).get("sha256") != loaded.sha256:
            hint = "bring back the rows that it was trained on, or judge it by these: --data FILE"
            raise DataError("the data changed since the run was begun", file=path, hint=hint)
        self._learned = len(rows.keys() & set(split["train"])) if data else 0
        self._train = [rows[i] for i in split["train"] if i in rows] if data is None else []
        wanted = {"test": list(rows)} if data else {name: split[name] for name in ("valid", "test")}
        self._rows = [(rows[i], name) for name, ids in wanted.items() for i in ids if i in rows]
        if not any(name == "test" for _, name in self._rows):
            raise DataError("there is no test row to judge by", file=path, hint="data.split.test is 0; give labelled rows: --data FILE")
        tokenizer = load_tokenizer(base)
        self._engine = Engine(student, recipe.task, tokenizer, answer=recipe.answer, max_tokens=recipe.train.max_tokens, adapter="run")
        self._prompt, self._plan = Prompt(recipe.task, tokenizer), plan(recipe.answer, recipe.task.fields, tokenizer)
        self._judged: list[Judged] = []
        self._document: dict[str, Any] = {}
        self.total = len(self._rows)

    def answer(self, bar: Bar) -> None:
        """Answer every row, and write predictions.jsonl."""
        lines: list[dict[str, Any]] = []
        nlls = self._nlls()
        for start in range(0, len(self._rows), WINDOW):
            window = self._rows[start : start + WINDOW]
            answers = self._engine.answers([row for row, _ in window])
            for (row, split), prediction in zip(window, answers, strict=True):
                self._judged.append(judged(self._recipe, row, split, prediction, nlls.get(row.id, LossSum())))
                lines.append(_line(self._judged[-1], prediction))
            bar.advance(len(window))
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        write_text(self._run.path / f"predictions{self._suffix}.jsonl", text)

    def report(self) -> dict[str, Any]:
        """Judge the test rows; write report.json and report.html; the document."""
        test = [row for row in self._judged if row.split == "test"]
        recipe, spec = self._recipe, self._recipe.evaluate
        notes = [_flattered(self._learned)] if self._learned else []
        compared = spec.baselines and bool(self._train)
        tested = [row for row, split in self._rows if split == "test"]
        answered = baselines(self._train, tested, recipe.task.fields, say=notes.append) if compared else None
        records = {row.id: row.record for row, _ in self._rows}
        html = self._run.path / f"report{self._suffix}.html"
        told = list(read_events(self._run.events)) if self._run.events.is_file() else []
        self._document = report.build(
            test,
            recipe.task.fields,
            name=recipe.name,
            run=str(self._run.path),
            report=str(html),
            targets=recipe.targets.metrics,
            slices=spec.slices,
            bootstrap=spec.bootstrap,
            seed=recipe.train.seed,
            baselines=answered,
            rubric=lambda i, answer: rubric.assess(recipe.task, answer, records[i]),
            tiers=bool(recipe.task.tiers),
            splits=self._counts(),
            curve=curves.validations(told),
            training=curves.steps(told),
            lineage=self._lineage(),
            learned=self._learned,
            notes=notes,
        )
        write_text(html, page.render(self._document))
        write_json(self._run.path / f"report{self._suffix}.json", self._document)
        return self._document

    def words(self) -> list[str]:
        """What the report says, in sentences."""
        return [str(sentence) for sentence in self._document["summary"]]

    def _nlls(self) -> dict[str, LossSum]:
        """Nats of the reference answers, by row."""
        rows = lessons([row for row, _ in self._rows], self._prompt, self._plan, self._recipe.train.max_tokens).rows
        out: dict[str, LossSum] = {}
        for batch in by_length(rows, TOKENS_AT_ONCE):
            out |= self._student.loss(groups([batch], self._prompt.prefix))
        return out

    def _counts(self) -> dict[str, int]:
        counts = {"train": len(self._train)} if self._train else {}
        return counts | {name: sum(split == name for _, split in self._rows) for name in dict.fromkeys(split for _, split in self._rows)}

    def _lineage(self) -> dict[str, Any]:
        own = {"recipe_sha256": recipe_hash(self._recipe), "adapter_sha256": self._run.adapter_hash(), "data_sha256": self._sha256}
        return {**own, **self._facts, "reported": datetime.now(UTC).isoformat(timespec="seconds")}


def judged(recipe: Recipe, row: Example, split: str, prediction: Prediction | BadRow, loss: LossSum) -> Judged:
    """A row with both answers; `loss` of the reference answer."""
    overall, tier = rubric.assess(recipe.task, row.labels, row.record)
    said = prediction if isinstance(prediction, Prediction) else None
    return Judged(
        id=row.id,
        split=split,
        reference=row.labels,
        answer=said.answer if said else None,
        confidence=said.confidence if said else {},
        reference_overall=overall,
        overall=said.overall if said else None,
        reference_tier=tier,
        tier=said.tier if said else None,
        slices={column: _slice(row, column) for column in recipe.evaluate.slices},
        nll=loss.nats if loss.tokens else None,
        nll_tokens=loss.tokens or None,
        text=row.text,
    )


def _slice(row: Example, column: str) -> str:
    value = follow(row.record, column)
    return "" if value is ABSENT or value is None else str(value)


def _flattered(number: int) -> str:
    """A remark where rows to judge by are among those that were learned."""
    return f"{number} of these rows have the id of a row that the student learned from: figures on them flatter it."


def _line(judged: Judged, prediction: Prediction | BadRow) -> dict[str, Any]:
    """A line of predictions.jsonl."""
    probabilities: Mapping[str, Sequence[float]] = prediction.probabilities if isinstance(prediction, Prediction) else {}
    reference: Mapping[str, Value] = judged.reference
    return {
        "id": judged.id,
        "split": judged.split,
        "reference": reference,
        "answer": judged.answer,
        "confidence": judged.confidence,
        "probabilities": {name: {"raw": [round(p, 6) for p in raw]} for name, raw in probabilities.items()},
        "overall": judged.overall,
        "tier": judged.tier,
        "reference_overall": judged.reference_overall,
        "reference_tier": judged.reference_tier,
        "nll": judged.nll,
        "tokens": judged.nll_tokens,
        **({"refused": prediction.reason} if isinstance(prediction, BadRow) else {}),
    }
