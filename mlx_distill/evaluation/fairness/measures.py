"""What is compared of two answers: each field, the overall, the tier, how sure, whether deferred, whether answered at all; as numbers.

A measure is one number an answer, NaN where there is none. It knows answers; nothing of texts, gaps or verdicts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from mlx_distill.evaluation.sheet import label
from mlx_distill.evaluation.tally import Floats
from mlx_distill.recipe.schema import FieldSpec, TaskSpec
from mlx_distill.records import BadRow, Prediction, Value
from mlx_distill.task.fields import CLOSED, closed_values, limits

NO_TIER = "no tier"
Said = Prediction | BadRow


@dataclass(frozen=True, slots=True, eq=False)
class Measure:
    name: str
    kind: Literal["score", "choice", "flag", "overall", "tier", "confidence", "deferred", "refused"]
    numbers: Floats
    """(answers,). Scores as shares of their range, so that 1 is from end to end; names as places in `labels`."""
    labels: tuple[str, ...] = ()
    """Of names; empty: the numbers are numbers."""
    span: float | None = None
    """Points from the lowest to the highest score; None: it is no score."""
    low: float = 0.0
    """The lowest score."""

    @property
    def decides(self) -> bool:
        """Whether a difference of it can miss the verdict: it is to be as sure of one as of the other, but nobody is treated by that."""
        return self.kind != "confidence"


def measures(task: TaskSpec, answers: Sequence[Said]) -> list[Measure]:
    """Every measure that at least one answer has."""
    said = [answer if isinstance(answer, Prediction) else None for answer in answers]
    found = [_field(name, spec, said) for name, spec in task.fields.items() if spec.kind in CLOSED]
    if span := overall_span(task):
        low, high = span
        points = [None if one is None else one.overall for one in said]
        found.append(Measure("overall", "overall", (_numbers(points) - low) / (high - low), span=high - low, low=low))
    if task.tiers:
        found.append(_tiers(task, said))
    closed = [name for name, spec in task.fields.items() if spec.kind in CLOSED]
    found.append(Measure("confidence", "confidence", _numbers([None if one is None else _sure(one, closed) for one in said])))
    found.append(Measure("refused", "refused", np.array([float(one is None) for one in said])))
    if any(one is not None and (one.defer or one.sure is not None) for one in said):
        found.append(Measure("deferred", "deferred", _numbers([None if one is None else float(one.defer) for one in said])))
    return [measure for measure in found if np.isfinite(measure.numbers).any()]


def overall_span(task: TaskSpec) -> tuple[float, float] | None:
    """The lowest and the highest overall that weights allow; None without weights.

    >>> scores = {"x": FieldSpec(kind="score", weight=0.5), "y": FieldSpec(kind="score", weight=0.5, max=4)}
    >>> overall_span(TaskSpec(input="{text}", fields=scores))
    (0.0, 7.0)
    """
    weighted = [(spec.weight, *limits(spec)[:2]) for spec in task.fields.values() if spec.weight]
    if not weighted:
        return None
    return sum(weight * low for weight, low, _ in weighted), sum(weight * high for weight, _, high in weighted)


def _field(name: str, spec: FieldSpec, said: Sequence[Prediction | None]) -> Measure:
    values = [None if one is None else one.answer.get(name) for one in said]
    if spec.kind == "score":
        low, high, _ = limits(spec)
        return Measure(name, "score", (_numbers(values) - low) / (high - low), span=high - low, low=low)
    labels = tuple(label(value) for value in closed_values(spec) or ())
    return Measure(name, "flag" if spec.kind == "flag" else "choice", _places(values, labels), labels)


def _tiers(task: TaskSpec, said: Sequence[Prediction | None]) -> Measure:
    """An overall below every tier has none: that is a place of its own."""
    labels = (*task.tiers, NO_TIER)
    return Measure("tier", "tier", _places([None if one is None else one.tier or NO_TIER for one in said], labels), labels)


def _sure(one: Prediction, closed: Sequence[str]) -> float | None:
    """The mean confidence of the closed fields."""
    known = [one.confidence[name] for name in closed if name in one.confidence]
    return sum(known) / len(known) if known else None


def _places(values: Sequence[Value | None], labels: Sequence[str]) -> Floats:
    place: Mapping[str, float] = {name: float(i) for i, name in enumerate(labels)}
    return np.array([float("nan") if value is None else place.get(label(value), float("nan")) for value in values], dtype=float)


def _numbers(values: Sequence[Value | None]) -> Floats:
    return np.array([float("nan") if value is None else float(value) for value in values], dtype=float)  # type: ignore[arg-type]
