"""Runs side by side on the rows that all of them answered: their predictions, and what each of them cost.

    compare(setting, places, html=...)     the document of `evaluation.comparison`

It reads what `evaluate` wrote, and opens no student.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlx_distill.backends import full, lora
from mlx_distill.errors import DataError, OutputError
from mlx_distill.evaluation.choosing import comparison
from mlx_distill.evaluation.choosing.pairing import Side
from mlx_distill.evaluation.elsewhere.stored import read_rows
from mlx_distill.evaluation.judge import Fields
from mlx_distill.evaluation.pages.leaflets import comparison as page
from mlx_distill.files import write_text
from mlx_distill.models.tensors import read_header
from mlx_distill.observe.events import read_events
from mlx_distill.recipe.schema import EvaluateSpec, FieldSpec, Recipe
from mlx_distill.training.run import Run
from mlx_distill.workflows.setting import Document, Setting

ANSWERS = "predictions"
EVALUATE = "evaluate it first: mlx-distill evaluate RUN"


def compare(setting: Setting, places: Sequence[Path], *, html: Path | None = None) -> Document:
    """Raises DataError where there is nothing to compare, OutputError where a run has not been evaluated."""
    found = [Evaluated.of(place) for place in places]
    names = _names(places)
    sides = [one.side(name) for one, name in zip(found, names, strict=True)]
    bootstrap = max(one.bootstrap for one in found)
    with setting.progress.step("compare", unit="rows") as step:
        document = comparison.compare(sides, bootstrap=bootstrap)
        step.advance(0, rows=document["rows"], comparisons=document["comparisons"])
    document["summary"] = page.sentences(document)
    if html is not None:
        write_text(html, page.render(document))
        document["html"] = str(html)
    return document


@dataclass(frozen=True, slots=True)
class Evaluated:
    """What one evaluation left behind: a Run's folder, or another with report.json and predictions.jsonl."""

    folder: Path
    answers: Path
    report: Document
    recipe: Recipe | None
    """None where there is no lock: then the report says what the fields are."""
    facts: Mapping[str, Any]

    @classmethod
    def of(cls, place: Path) -> Evaluated:
        """`place` is the folder, or a file of answers in it: predictions.new.jsonl is what `evaluate --data new.csv` wrote."""
        folder, answers = (place.parent, place) if place.is_file() else (place, place / f"{ANSWERS}.jsonl")
        run = Run(folder)
        if not answers.is_file():
            what = "this run has not been evaluated" if run.exists() else "there are no answers here"
            raise OutputError(what if folder.is_dir() else "there is no such folder", file=place, hint=EVALUATE)
        recipe, facts = run.open() if run.exists() else (None, {})
        report = answers.with_name(answers.name.replace(ANSWERS, "report", 1)).with_suffix(".json")
        return cls(folder, answers, _document(report), recipe, facts)

    @property
    def bootstrap(self) -> int:
        return self.recipe.evaluate.bootstrap if self.recipe else EvaluateSpec().bootstrap

    def side(self, name: str) -> Side:
        fields = self.recipe.task.fields if self.recipe else _fields(self.report, self.answers)
        rows = [row for row in read_rows(self.answers, fields) if row.split == "test"]
        if not rows:
            raise DataError("none of its rows is a test row", file=self.answers, hint="mlx-distill evaluate RUN --data FILE")
        task = self.recipe.task if self.recipe else None
        return Side(
            name,
            rows,
            fields,
            tiers=task.tiers_upwards if task else (),
            file=str(self.answers),
            cost=self.cost(),
            targets=list(self.report.get("targets") or {}),
            texts=self.recipe.report.show_texts if self.recipe else bool(self.report.get("texts", True)),
        )

    def cost(self) -> dict[str, float | None]:
        """What is known of it. The base's bytes are its parameters times its bits a weight."""
        base, production = self.facts.get("base") or {}, self.report.get("production") or {}
        parameters, bits = base.get("parameters"), base.get("bits_per_weight")
        adapter = _adapter(self.folder)
        return {
            "train_seconds": _trained(self.folder),
            "answer_seconds": _mean(production.get("seconds_per_answer")),
            "answer_tokens": _mean(production.get("tokens")),
            "peak_memory_bytes": _mean(production.get("peak_memory_bytes")),
            "parameters": parameters,
            "adapter_parameters": adapter and adapter[0],
            "base_bytes": parameters * bits / 8 if parameters and bits else None,
            "adapter_bytes": adapter and adapter[1],
        }


def _names(places: Sequence[Path]) -> list[str]:
    """The folders' own names, where they tell them apart; else the paths as they were typed."""
    short = [place.stem if place.is_file() else place.resolve().name for place in places]
    if twice := [place for place, count in Counter(place.resolve() for place in places).items() if count > 1]:
        raise DataError("is named twice: it differs from itself in nothing", file=twice[0], hint="name two different runs")
    return short if len(set(short)) == len(short) else [str(place) for place in places]


def _document(path: Path) -> Document:
    """Raises OutputError: without its report, nobody knows what the answers were judged for."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise OutputError(f"its report cannot be read: {error}", file=path, hint=EVALUATE) from None
    if not isinstance(document, dict):
        raise OutputError("is no report", file=path, hint=EVALUATE)
    return document


def _fields(report: Document, file: Path) -> Fields:
    """As the report describes them."""
    found = {
        name: FieldSpec(
            kind=shape["kind"],
            min=shape.get("min"),
            max=shape.get("max"),
            step=shape.get("step"),
            weight=shape.get("weight"),
            choices=tuple(shape["choices"]) if shape.get("choices") else None,
        )
        for name, shape in (report.get("fields") or {}).items()
    }
    if not found:
        raise OutputError("its report names no fields", file=file, hint=EVALUATE)
    return found


def _trained(folder: Path) -> float | None:
    """Seconds of the training, by its last event."""
    events = Run(folder).events
    told = [event.get("seconds") for event in read_events(events) if event["name"] == "trained"] if events.is_file() else []
    return told[-1] if told else None


def _adapter(folder: Path) -> tuple[int, int] | None:
    """(parameters, bytes) of what was trained; None where there is none."""
    for kind in (lora, full):
        path = Run(folder).adapter / kind.WEIGHTS
        if path.is_file():
            return sum(math.prod(place.shape) for place in read_header(path).values()), path.stat().st_size
    return None


def _mean(value: Any) -> float | None:
    """A figure, or the mean of those that are told as {n, mean, ...}."""
    if isinstance(value, Mapping):
        value = value.get("mean", value.get("value"))
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None
