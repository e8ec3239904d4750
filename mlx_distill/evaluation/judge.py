"""Judge the judged: rows with both answers in, every figure with its interval and its rows out, as plain dictionaries.

    judge(rows, fields)            metrics, slices, confusion, scores, reliability
    against(rows, others, fields)  another student's (or a baseline's) metrics on the same rows, and the difference to it
    verdict(metrics, targets)      met, missed, or none

A row without a field's label does not count for that field. A row without a valid answer is wrong wherever right and wrong exist, and
absent from mean errors, which have no number for it: `n` tells, and `valid_json` too. It knows nothing of models, files or reports.
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mlx_distill import catalog
from mlx_distill.errors import RecipeError
from mlx_distill.evaluation import bootstrap as boot
from mlx_distill.evaluation import tables
from mlx_distill.evaluation.metrics import CLOSED, LABELS, Bools, Column, Floats, Sheet, Tally
from mlx_distill.recipe.schema import FieldSpec
from mlx_distill.records import Value
from mlx_distill.task.fields import closed_values, limits

KIND = "evaluation.metrics"
SMALL = 30
"""A slice of fewer rows is marked: its figures say little."""
SLICES_AT_MOST = 100
"""Values of one column that get a row of their own, the most frequent; the others are pooled."""

Fields = Mapping[str, FieldSpec]
Answer = Mapping[str, Value]
Rubric = Callable[[str, Answer], tuple[float | None, str | None]]
"""(row id, answer) -> overall and tier."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """One row with the judge's answer and the student's."""

    id: str
    split: str
    reference: Answer
    """What the judge answered; a field without a label is absent. Scores are the original numbers, maybe between two steps."""
    answer: Answer | None
    """What the student answered; None: no valid JSON."""
    confidence: Mapping[str, float] = field(default_factory=dict)
    """The student's probability of its own answer, by field, calibrated where it can be."""
    probabilities: Mapping[str, Sequence[float]] = field(default_factory=dict)
    """Of each value of a closed field, in the order of `task.fields.closed_values`; calibrated likewise."""
    raw: Mapping[str, Sequence[float]] = field(default_factory=dict)
    """The same before calibration; empty where there is none."""
    sure: float | None = None
    """How sure of the whole row, where rows are deferred."""
    defer: bool = False
    sets: Mapping[str, Sequence[Value]] = field(default_factory=dict)
    """Conformal sets of choices, and intervals [lowest, highest] of scores."""
    again: Answer = field(default_factory=dict)
    """The judge's answer when it was asked again."""
    raters: Mapping[str, Sequence[Value | None]] = field(default_factory=dict)
    """Other raters' labels, by field, in the order of `FieldSpec.raters`."""
    reference_overall: float | None = None
    overall: float | None = None
    reference_tier: str | None = None
    tier: str | None = None
    slices: Mapping[str, str] = field(default_factory=dict)
    """Column -> the row's value, for the columns that the report is sliced by."""
    nll: float | None = None
    """Nats of the judge's answer, summed over `nll_tokens`."""
    nll_tokens: float | None = None
    nll_fields: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """(nats, tokens) of each field's value in the judge's answer."""
    tokens: int | None = None
    """Tokens that were forwarded to answer it, the shared prefix not counted."""
    refused: str | None = None
    """Why there is no answer."""
    text: str = ""
    record: Mapping[str, Any] = field(default_factory=dict)
    """The columns of the row, for slices."""


def judge(
    rows: Sequence[Judged], fields: Fields, *, bootstrap: int = boot.RESAMPLES, seed: int = 0, slices: Sequence[str] = ()
) -> dict[str, Any]:
    """All that can be said of `rows`. Figures are {value, low, high, n}; `main` names the metric that slices are ordered by."""
    sheet = lay_out(rows, fields)
    tallies = measure(sheet)
    main = main_metric(fields, tallies)
    return {
        "main": main,
        "metrics": boot.figures(tallies, bootstrap=bootstrap, seed=seed),
        "slices": {column: _slices(rows, column, tallies, main, bootstrap, seed) for column in slices},
        "confusion": {name: tables.confusion(column) for name, column in sheet.of_kind(*LABELS).items()},
        "scores": {name: tables.bias(column) for name, column in sheet.of_kind("score").items()},
        "reliability": {name: tables.reliability(column) for name, column in sheet.of_kind(*CLOSED).items()},
    }


def against(
    rows: Sequence[Judged], others: Sequence[Judged], fields: Fields, *, bootstrap: int = boot.RESAMPLES, seed: int = 0
) -> dict[str, dict[str, boot.Figure]]:
    """`others` are the same rows in the same order, answered by another: its metrics, and the difference rows − others, paired."""
    assert [row.id for row in rows] == [row.id for row in others]
    theirs, differences = boot.paired(measure(lay_out(rows, fields)), measure(lay_out(others, fields)), bootstrap=bootstrap, seed=seed)
    return {"metrics": theirs, "difference": differences}


def answered_by(rows: Sequence[Judged], answers: Mapping[str, Answer], rubric: Rubric | None = None) -> list[Judged]:
    """The same rows with another's answers (id -> answer; an id that is missing has none), overall and tier by the task's rubric."""

    def swap(row: Judged) -> Judged:
        answer = answers.get(row.id)
        overall, tier = rubric(row.id, answer) if rubric and answer is not None else (None, None)
        return dataclasses.replace(row, answer=answer, confidence={}, overall=overall, tier=tier, nll=None, nll_tokens=None)

    return [swap(row) for row in rows]


def verdict(
    metrics: Mapping[str, Mapping[str, Any]], targets: Mapping[str, float], known: Sequence[str] | None = None
) -> tuple[dict[str, dict[str, Any]], Literal["met", "missed", "none"]]:
    """Each target as {value, target, met}, and all together. A metric of `known` that was not measured here is None, and not met.

    Raises RecipeError, with the nearest name, for a name that is no metric of this task.
    """
    check_targets(targets, [*metrics, *(known or ())])
    found = {name: _target(name, metrics.get(name, {}).get("value"), float(target)) for name, target in targets.items()}
    if not found:
        return {}, "none"
    return found, "met" if all(target["met"] for target in found.values()) else "missed"


def check_targets(targets: Mapping[str, float], known: Sequence[str]) -> None:
    """Raises RecipeError for the first target that is no metric of this task."""
    for name in targets:
        if name not in known:
            raise RecipeError(f"targets.{name}: this task has no metric {name!r}", hint=catalog.nearest(name, sorted(set(known))))


def metric_names(fields: Fields, *, tiers: bool = True) -> list[str]:
    """Every metric that a task of these fields can have, for checking a recipe's targets before anything is trained."""
    has_overall = any(spec.weight is not None for spec in fields.values())
    unknown = {"overall_mae", "score_mae"} if not has_overall else set()
    if not has_overall and not any(spec.kind in LABELS for spec in fields.values()):
        unknown |= {"accuracy"}
    return sorted(set(_all_tallies(lay_out([], fields))) - unknown - (set() if tiers and has_overall else {"tier_agreement"}))


def metric(name: str) -> ModuleType:
    """The module of a metric by its public name: `accuracy.relevant` -> evaluation/metrics/accuracy.py."""
    family = name.partition(".")[0]
    for other in catalog.names(KIND):
        module = catalog.find(KIND, other)
        if family in getattr(module, "ALIASES", ()):
            return module
    return catalog.find(KIND, family)


def lower_is_better(name: str) -> bool:
    return bool(metric(name).BETTER == "lower")


def measure(sheet: Sheet) -> dict[str, Tally]:
    """Every metric that at least one row counts for, by its public name."""
    return {name: tally for name, tally in _all_tallies(sheet).items() if tally.n}


def main_metric(fields: Fields, known: Mapping[str, Any]) -> str | None:
    """The one figure that stands for the task: the overall's error where there is an overall, else accuracy, else the scores' error."""
    order = ["overall_mae"] if any(spec.weight is not None for spec in fields.values()) else []
    lists = [f"list_f1.{name}" for name, spec in fields.items() if spec.kind == "list"]
    return next((name for name in [*order, "accuracy", "dimension_mae", *lists, "valid_json"] if name in known), None)


def lay_out(rows: Sequence[Judged], fields: Fields, tiers: Sequence[str] = ()) -> Sheet:
    """Rows as columns. `tiers` from the lowest to the highest; one that is seen and not among them comes last."""
    seen = dict.fromkeys(t for row in rows for t in (row.reference_tier, row.tier) if t)
    order = tuple(dict.fromkeys([*tiers, *seen]))
    code = {name: i for i, name in enumerate(order)}
    return Sheet(
        fields={name: _column(rows, name, spec) for name, spec in fields.items()},
        valid=np.array([row.answer is not None for row in rows], dtype=bool),
        reference_overall=_numbers([row.reference_overall for row in rows]),
        overall=_numbers([row.overall for row in rows]),
        reference_tier=np.array([code.get(row.reference_tier or "", -1) for row in rows], dtype=np.int64),
        tier=np.array([code.get(row.tier or "", -1) for row in rows], dtype=np.int64),
        tiers=order,
        nll=_numbers([row.nll for row in rows]),
        nll_tokens=_numbers([row.nll_tokens for row in rows]),
    )


def nearest_step(values: Floats, spec: FieldSpec) -> Floats:
    """Which step of the score each value is nearest to, counted from the lowest; upwards at the middle, as in training."""
    low, high, step = limits(spec)
    return np.floor((np.clip(values, low, high) - low) / step + 0.5 + 1e-9)


def _all_tallies(sheet: Sheet) -> dict[str, Tally]:
    found: dict[str, Tally] = {}
    for name in catalog.names(KIND):
        found |= catalog.find(KIND, name).tallies(sheet)
    return found


def _column(rows: Sequence[Judged], name: str, spec: FieldSpec) -> Column:
    raw = [(row.reference.get(name), (row.answer or {}).get(name)) for row in rows]
    labels = _labels(raw, spec) if spec.kind in LABELS else ()
    reference, answer = (_values([pair[side] for pair in raw], spec, labels) for side in (0, 1))
    labelled, answered = (
        ~np.isnan(side) if spec.kind in CLOSED else np.array([pair[i] is not None for pair in raw], dtype=bool)
        for i, side in enumerate((reference, answer))
    )
    return Column(
        kind=spec.kind,
        labelled=labelled,
        answered=answered,
        right=labelled & answered & _same(reference, answer, spec),
        reference=reference,
        answer=answer,
        confidence=_numbers([row.confidence.get(name) for row in rows]),
        raw=raw,
        labels=labels,
        values=_values(closed_values(spec) or [], spec, labels),
        probabilities=_distributions([row.probabilities.get(name) for row in rows], len(closed_values(spec) or [])),
    )


def _distributions(given: Sequence[Sequence[float] | None], values: int) -> Floats:
    """(rows, values); NaN where a row has none."""
    none = [math.nan] * values
    return np.array([none if one is None or len(one) != values else one for one in given], dtype=float).reshape(len(given), values)


def _labels(raw: Sequence[tuple[Value | None, Value | None]], spec: FieldSpec) -> tuple[str, ...]:
    """The field's values in the recipe's order, then whatever else was seen."""
    own = ("true", "false") if spec.kind == "flag" else spec.choices or ()
    return tuple(dict.fromkeys([*own, *sorted({label(value) for pair in raw for value in pair if value is not None})]))


def label(value: object) -> str:
    """A choice or a flag as a name."""
    return ("true" if value else "false") if isinstance(value, bool) else str(value)


def _values(values: Sequence[Value | None], spec: FieldSpec, labels: tuple[str, ...]) -> Floats:
    """Scores as numbers, names as indices; NaN where there is none (a text has neither)."""
    if spec.kind in LABELS:
        codes = {name: float(code) for code, name in enumerate(labels)}
        return _numbers([None if value is None else codes[label(value)] for value in values])
    is_number = [spec.kind == "score" and isinstance(value, (int, float)) and not isinstance(value, bool) for value in values]
    return _numbers([float(value) if yes else None for value, yes in zip(values, is_number, strict=True)])  # type: ignore[arg-type]


def _same(reference: Floats, answer: Floats, spec: FieldSpec) -> Bools:
    if spec.kind == "score":
        reference, answer = nearest_step(reference, spec), nearest_step(answer, spec)
    return np.equal(reference, answer)


def _numbers(values: Sequence[float | None]) -> Floats:
    return np.array([math.nan if value is None else value for value in values], dtype=float)


def _target(name: str, value: float | None, target: float) -> dict[str, Any]:
    if value is None:
        return {"value": None, "target": target, "met": False}
    return {"value": value, "target": target, "met": value <= target + 1e-12 if lower_is_better(name) else value >= target - 1e-12}


def _slices(
    rows: Sequence[Judged], column: str, tallies: Mapping[str, Tally], main: str | None, bootstrap: int, seed: int
) -> list[dict[str, Any]]:
    """One entry a value, worst first by the main metric, those without it last."""
    values = [row.slices.get(column, "") for row in rows]
    frequent = dict(Counter(values).most_common(SLICES_AT_MOST))
    own = np.array([value if value in frequent else None for value in values], dtype=object)
    found = [_slice(value, np.flatnonzero(own == value), tallies, bootstrap, seed) for value in frequent]
    if rest := np.flatnonzero(own == None).tolist():  # noqa: E711  (element by element)
        found.append(_slice(f"{len(set(values)) - len(frequent)} rarer values", np.array(rest, dtype=np.intp), tallies, bootstrap, seed))
    return sorted(found, key=lambda entry: (_badness(entry["metrics"].get(main), main), entry["value"]))


def _badness(figure: Mapping[str, Any] | None, main: str | None) -> float:
    """A key that sorts the worst first, and what has no figure last."""
    if main is None or figure is None or figure["value"] is None:
        return math.inf
    return -float(figure["value"]) if lower_is_better(main) else float(figure["value"])


def _slice(value: str, rows: NDArray[np.intp], tallies: Mapping[str, Tally], bootstrap: int, seed: int) -> dict[str, Any]:
    taken = {name: tally.take(rows) for name, tally in tallies.items()}
    metrics = boot.figures({name: tally for name, tally in taken.items() if tally.n}, bootstrap=bootstrap, seed=seed)
    return {"value": value, "n": len(rows), "small": len(rows) < SMALL, "metrics": metrics}
