"""Targets held against figures: met, missed, or none. It knows metrics by name; nothing of rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from mlx_distill import catalog
from mlx_distill.errors import RecipeError
from mlx_distill.evaluation.naming import best_at_zero, lower_is_better

CLOSE = 1e-12
"""A figure that misses its target by rounding alone meets it."""


def verdict(
    metrics: Mapping[str, Mapping[str, Any]], targets: Mapping[str, float], known: Sequence[str] | None = None
) -> tuple[dict[str, dict[str, Any]], Literal["met", "missed", "none"]]:
    """Each target as {value, target, met}, and all together. A metric of `known` that was not measured here is None, and not met.

    A target on a bias is the most that it may be off, either way. Raises RecipeError, with the nearest name, for a name that is no metric
    of this task.
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


def _target(name: str, value: float | None, target: float) -> dict[str, Any]:
    if value is None:
        return {"value": None, "target": target, "met": False}
    reached = abs(value) if best_at_zero(name) else value
    return {"value": value, "target": target, "met": reached <= target + CLOSE if lower_is_better(name) else reached >= target - CLOSE}
