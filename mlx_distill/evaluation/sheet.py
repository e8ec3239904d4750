"""Rows with both answers, and the same as columns: what is judged, and the form in which metrics see it.

    Judged                            one row with the judge's answer and the student's
    lay_out(rows, fields, tiers)      all of them as a `metrics.Sheet`

It knows fields and answers; no metric, no model, no file.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlx_distill.evaluation.metrics import CLOSED, LABELS, Bools, Column, Floats, Sheet, nearest_step
from mlx_distill.recipe.schema import FieldSpec
from mlx_distill.records import Value
from mlx_distill.task.fields import closed_values

BELOW = "below every tier"
"""The lowest tier of a sheet, for the rows that have an overall and reach no tier. Their code is not found by name: a task's tier of this
very name keeps a code of its own."""

Fields = Mapping[str, FieldSpec]
Answer = Mapping[str, Value]


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


def lay_out(rows: Sequence[Judged], fields: Fields, tiers: Sequence[str] = ()) -> Sheet:
    """Rows as columns. `tiers` from the lowest to the highest; one that is seen and not among them comes after them, in no order."""
    sides = [(row.reference_overall, row.reference_tier) for row in rows], [(row.overall, row.tier) for row in rows]
    seen = dict.fromkeys(tier for side in sides for _, tier in side if tier)
    order = tuple(dict.fromkeys([*tiers, *seen]))
    below = bool(order) and any(_is_below(*assessed) for side in sides for assessed in side)
    reference_tier, tier = (_tiers(side, {name: i for i, name in enumerate(order, start=below)}) for side in sides)
    return Sheet(
        fields={name: _column(rows, name, spec) for name, spec in fields.items()},
        valid=np.array([row.answer is not None for row in rows], dtype=bool),
        reference_overall=_numbers([row.reference_overall for row in rows]),
        overall=_numbers([row.overall for row in rows]),
        reference_tier=reference_tier,
        tier=tier,
        tiers=(BELOW, *order) if below else order,
        ordered=len(dict.fromkeys(tiers)) + (below and bool(tiers)),
        nll=_numbers([row.nll for row in rows]),
        nll_tokens=_numbers([row.nll_tokens for row in rows]),
    )


def _is_below(overall: float | None, tier: str | None) -> bool:
    """Reaches no tier. Without an overall nothing is known of it."""
    return overall is not None and not tier


def _tiers(side: Sequence[tuple[float | None, str | None]], places: Mapping[str, int]) -> NDArray[np.int64]:
    """Of (overall, tier) the tier's code (rows,): 0 below every tier, -1 where it is not known."""
    lowest = 0 if places else -1
    return np.array([lowest if _is_below(overall, tier) else places.get(tier or "", -1) for overall, tier in side], dtype=np.int64)


def label(value: object) -> str:
    """A choice or a flag as a name."""
    return ("true" if value else "false") if isinstance(value, bool) else str(value)


def _column(rows: Sequence[Judged], name: str, spec: FieldSpec) -> Column:
    sides = [row.reference.get(name) for row in rows], [None if row.answer is None else row.answer.get(name) for row in rows]
    own = closed_values(spec) or []
    labels = _labels(sides, spec) if spec.kind in LABELS else ()
    reference, answer, values = (_values(side, spec, labels) for side in (*sides, own))
    labelled, answered = (
        ~np.isnan(side) if spec.kind in CLOSED else np.array([value is not None for value in raw], dtype=bool)
        for raw, side in zip(sides, (reference, answer), strict=True)
    )
    nats = [row.nll_fields.get(name, (None, None)) for row in rows]
    return Column(
        kind=spec.kind,
        labelled=labelled,
        answered=answered,
        right=labelled & answered & _same(reference, answer, spec, values),
        reference=reference,
        answer=answer,
        confidence=_numbers([row.confidence.get(name) for row in rows]),
        raw=list(zip(*sides, strict=True)),
        nll=_numbers([nat for nat, _ in nats]),
        nll_tokens=_numbers([tokens for _, tokens in nats]),
        labels=labels,
        values=values,
        probabilities=_distributions([row.probabilities.get(name) for row in rows], len(own)),
    )


def _distributions(given: Sequence[Sequence[float] | None], values: int) -> Floats:
    """(rows, values); NaN where a row has none. (rows, 0) where no row has one: a score may have 1,001 values."""
    there = [i for i, one in enumerate(given) if one is not None and len(one) == values]
    found = np.full((len(given), values if there else 0), math.nan)
    for i in there:
        found[i] = given[i]
    return found


def _labels(sides: Sequence[Sequence[Value | None]], spec: FieldSpec) -> tuple[str, ...]:
    """The field's values in the recipe's order, then whatever else was seen."""
    own = ("true", "false") if spec.kind == "flag" else spec.choices or ()
    return tuple(dict.fromkeys([*own, *sorted({label(value) for side in sides for value in side if value is not None})]))


def _values(values: Sequence[Value | None], spec: FieldSpec, labels: tuple[str, ...]) -> Floats:
    """Scores as numbers, names as indices; NaN where there is none (a text has neither)."""
    if spec.kind in LABELS:
        codes = {name: float(code) for code, name in enumerate(labels)}
        return _numbers([None if value is None else codes[label(value)] for value in values])
    is_number = [spec.kind == "score" and isinstance(value, (int, float)) and not isinstance(value, bool) for value in values]
    return _numbers([float(value) if yes else None for value, yes in zip(values, is_number, strict=True)])  # type: ignore[arg-type]


def _same(reference: Floats, answer: Floats, spec: FieldSpec, values: Floats) -> Bools:
    if spec.kind == "score":
        reference, answer = nearest_step(reference, values), nearest_step(answer, values)
    return np.equal(reference, answer)


def _numbers(values: Sequence[float | None]) -> Floats:
    return np.array([math.nan if value is None else value for value in values], dtype=float)
