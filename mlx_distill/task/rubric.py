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
from mlx_distill.task.fields import ABSENT, follow

EXACT = 9
"""Digits kept before an overall is compared with a threshold: 0.15 * 6 + ... must not miss 6.5 by 1e-16."""


def assess(task: TaskSpec, values: Mapping[str, Value], record: Mapping[str, Any] | None = None) -> tuple[float | None, str | None]:
    """(overall, tier) of an answer, or of the judge's labels. Both None where the task has no weights, or a score that it needs is missing.

    `record` gives the columns that a condition may name beside the fields.
    """
    weighted = {name: spec for name, spec in task.fields.items() if spec.weight is not None}
    gated = {name: spec for name, spec in task.fields.items() if spec.gate is not None}
    if not weighted or any(name not in values for name in (*weighted, *gated)):
        return None, None
    overall = sum((spec.weight or 0.0) * number(values[name]) for name, spec in weighted.items())
    for name, spec in gated.items():
        if spec.gate is not None and number(values[name]) < spec.gate.below:
            overall = min(overall, spec.gate.cap)
    for cap in task.caps:
        if holds(cap, values, _columns(task, record or {})):
            overall = min(overall, cap.cap)
    overall = round(overall, EXACT)
    return round(overall, 2), tier(task, overall)


def tier(task: TaskSpec, overall: float) -> str | None:
    """The highest tier that the overall reaches. None where there are no tiers, or it reaches none."""
    return next((name for name in reversed(task.tiers_upwards) if overall >= task.tiers[name]), None)


def holds(cap: CapSpec, values: Mapping[str, Value], record: Mapping[str, Any]) -> bool:
    """Whether all conditions of a cap hold. One whose field or column is missing does not."""
    return all(_holds(condition, values[name] if name in values else follow(record, name)) for name, condition in cap.when.items())


def _columns(task: TaskSpec, record: Mapping[str, Any]) -> dict[str, Any]:
    """What of a record is no field: a field that was not answered is missing, whatever its column says."""
    return {name: value for name, value in record.items() if name not in task.fields}


def _holds(condition: Any, value: Any) -> bool:
    if value is None or value is ABSENT:
        return False
    if isinstance(condition, Mapping):
        return all(_within(word, limit, value) for word, limit in condition.items())
    return any(_same(one, value) for one in (condition if isinstance(condition, (list, tuple)) else [condition]))


def _within(word: str, limit: float, value: Any) -> bool:
    """below or at_least. What is no number is neither."""
    try:
        return number(value) < limit if word == "below" else number(value) >= limit
    except (TypeError, ValueError):
        return False


def _same(condition: Any, value: Any) -> bool:
    """Equal, or the same number or flag as a flat file spells it."""
    if condition == value or not isinstance(value, str) or isinstance(condition, str):
        return bool(condition == value)
    if isinstance(condition, bool):
        return value.strip().casefold() == str(condition).casefold()
    try:
        return bool(number(value) == condition)
    except ValueError:
        return False


def number(value: Any) -> float:
    return float(value)
