"""From scores to an overall and a tier: weights, gates, condition caps, tiers.

overall = sum of weight * score
each gate:  score below its threshold  ->  overall = min(overall, cap)
each cap:   all conditions hold        ->  overall = min(overall, cap)
tier = the first, from above, whose threshold the overall reaches; then the overall is rounded to 2 digits
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mlx_distill.recipe.schema import CapSpec, TaskSpec
from mlx_distill.records import Value

EXACT = 9
"""Digits kept before an overall is compared with a threshold: 0.15 * 6 + ... must not miss 6.5 by 1e-16."""


def assess(task: TaskSpec, values: Mapping[str, Value], record: Mapping[str, Any] | None = None) -> tuple[float | None, str | None]:
    """(overall, tier) of an answer, or of the judge's labels. Both None where the task has no weights, or a weighted score is missing.

    `record` gives the columns that a condition may name beside the fields.
    """
    weighted = {name: spec for name, spec in task.fields.items() if spec.weight is not None}
    if not weighted or any(name not in values for name in weighted):
        return None, None
    overall = sum((spec.weight or 0.0) * number(values[name]) for name, spec in weighted.items())
    for name, spec in task.fields.items():
        if spec.gate is not None and name in values and number(values[name]) < spec.gate.below:
            overall = min(overall, spec.gate.cap)
    for cap in task.caps:
        if holds(cap, values, record or {}):
            overall = min(overall, cap.cap)
    overall = round(overall, EXACT)
    return round(overall, 2), tier(task, overall)


def tier(task: TaskSpec, overall: float) -> str | None:
    """The highest tier that the overall reaches. None where there are no tiers, or it reaches none."""
    return next((name for name, lowest in sorted(task.tiers.items(), key=lambda item: -item[1]) if overall >= lowest), None)


def holds(cap: CapSpec, values: Mapping[str, Value], record: Mapping[str, Any]) -> bool:
    """Whether all conditions of a cap hold. One whose field or column is missing does not."""
    return all(_holds(condition, values[name] if name in values else record.get(name)) for name, condition in cap.when.items())


def _holds(condition: Any, value: Any) -> bool:
    if value is None:
        return False
    if isinstance(condition, Mapping):
        limits = {"below": lambda limit: number(value) < limit, "at_least": lambda limit: number(value) >= limit}
        return all(limits[name](limit) for name, limit in condition.items())
    return value in condition if isinstance(condition, (list, tuple)) else bool(value == condition)


def number(value: Any) -> float:
    return float(value)
