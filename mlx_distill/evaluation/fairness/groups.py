"""Whether the student is as often right about one group of rows as about another: rates by group, and the gaps between groups.

    judge(column, task, rows, most=0.1, bootstrap=1000, seed=0)      one column's part of report.json

Definitions are those of Hardt, Price and Srebro, "Equality of Opportunity in Supervised Learning", NeurIPS 2016, as fairlearn has them:

    demographic parity    largest difference of the share of rows that the student gives a label
    equal opportunity     ... of the true positive rate
    equalised odds        ... of the true or the false positive rate, whichever is larger

A choice has one positive label after the other, each against the rest; a flag has `true`. A row without a valid answer got no label.
The judge's answers count as the truth: where the judge is unfair itself, a student that agrees is unfair with it, and no figure here
tells. So demographic parity is shown and decides nothing: groups that the judge sees differently are to be seen differently.
It knows rows with both answers; nothing of models or files.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from mlx_distill.evaluation.fairness import rates, verdicts
from mlx_distill.evaluation.fairness.errors import compare as compare_errors
from mlx_distill.evaluation.fairness.measures import NO_TIER, overall_span
from mlx_distill.evaluation.fairness.members import Members
from mlx_distill.evaluation.judge import SMALL
from mlx_distill.evaluation.sheet import Judged, label
from mlx_distill.recipe.schema import FieldSpec, TaskSpec
from mlx_distill.records import Value
from mlx_distill.task.fields import ABSENT, CLOSED, closed_values, follow, limits

GROUPS_AT_MOST = 30
"""Values of one column that are compared, the most frequent."""


def judge(column: str, task: TaskSpec, rows: Sequence[Judged], *, most: float, bootstrap: int, seed: int) -> dict[str, Any]:
    values = [_value(row, column) for row in rows]
    counts = Counter(value for value in values if value is not None)
    names = [name for name, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:GROUPS_AT_MOST]]
    fields = {}
    if len(names) > 1:
        code = {name: i for i, name in enumerate(names)}
        groups = np.array([code.get(value or "", -1) if value is not None else -1 for value in values], dtype=np.int64)
        fields = {
            name: found
            for name, compare in _comparisons(task).items()
            if (found := compare(rows, Members(names, groups), most=most, bootstrap=bootstrap, seed=seed))
        }
    return {
        "verdict": verdicts.worst(field["verdict"] for field in fields.values()),
        "groups": [{"value": name, "n": counts[name], "small": counts[name] < SMALL} for name in names],
        "left_out": len(counts) - len(names),
        "unknown": sum(value is None for value in values),
        "fields": fields,
    }


def _value(row: Judged, column: str) -> str | None:
    """The row's group; None where it has none."""
    value = follow(row.record, column)
    return None if value is ABSENT or value is None or value != value or value == "" else label(value).strip() or None


def _comparisons(task: TaskSpec) -> dict[str, Callable[..., dict[str, Any] | None]]:
    """By field, and for overall and tier: what compares the groups."""
    found: dict[str, Callable[..., dict[str, Any] | None]] = {
        name: _labels(name, spec) if spec.kind != "score" else _scores(name, spec)
        for name, spec in task.fields.items()
        if spec.kind in CLOSED
    }
    if span := overall_span(task):
        found["overall"] = _overall(span)
    if task.tiers:
        found["tier"] = _tier([*task.tiers, NO_TIER])
    return found


def _labels(name: str, spec: FieldSpec) -> Callable[..., dict[str, Any] | None]:
    labels = [label(value) for value in closed_values(spec) or ()]

    def compare(rows: Sequence[Judged], members: Members, **how: Any) -> dict[str, Any] | None:
        pairs = [(row.reference.get(name), None if row.answer is None else row.answer.get(name)) for row in rows]
        return rates.compare(spec.kind, labels, [_named(pair) for pair in pairs], members, **how)

    return compare


def _tier(labels: Sequence[str]) -> Callable[..., dict[str, Any] | None]:
    def compare(rows: Sequence[Judged], members: Members, **how: Any) -> dict[str, Any] | None:
        pairs = [
            (
                None if row.reference_overall is None else row.reference_tier or NO_TIER,
                None if row.overall is None else row.tier or NO_TIER,
            )
            for row in rows
        ]
        return rates.compare("tier", labels, pairs, members, **how)

    return compare


def _scores(name: str, spec: FieldSpec) -> Callable[..., dict[str, Any] | None]:
    low, high, _ = limits(spec)

    def compare(rows: Sequence[Judged], members: Members, **how: Any) -> dict[str, Any] | None:
        pairs = [(row.reference.get(name), None if row.answer is None else row.answer.get(name)) for row in rows]
        return compare_errors("score", (low, high), pairs, members, **how)

    return compare


def _overall(span: tuple[float, float]) -> Callable[..., dict[str, Any] | None]:
    def compare(rows: Sequence[Judged], members: Members, **how: Any) -> dict[str, Any] | None:
        return compare_errors("overall", span, [(row.reference_overall, row.overall) for row in rows], members, **how)

    return compare


def _named(pair: tuple[Value | None, Value | None]) -> tuple[str | None, str | None]:
    reference, answer = pair
    return None if reference is None else label(reference), None if answer is None else label(answer)
