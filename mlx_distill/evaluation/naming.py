"""Metrics by their public names: which there are, which file is behind one, which way is better.

    parts("macro_f1.kind")        ("macro_f1", "kind"); an `overall_within_0.5` has a point and no field
    metric_names(fields)          every metric that a task of these fields can have
    measure(sheet)                every metric that can be told of these rows, as tallies

It knows the folder of metrics; no row and no report.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from types import ModuleType
from typing import Any

from mlx_distill import catalog
from mlx_distill.evaluation.metrics import LABELS, AnyTally, Sheet
from mlx_distill.evaluation.sheet import Fields, lay_out

KIND = "evaluation.metrics"


@cache
def families() -> Mapping[str, ModuleType]:
    """Public name without a field -> its module."""
    modules = {name: catalog.find(KIND, name) for name in catalog.names(KIND)}
    return {
        public: module
        for name, module in modules.items()
        for public in (*getattr(module, "NAMES", (name,)), *getattr(module, "ALIASES", ()))
    }


def parts(name: str) -> tuple[str, str | None]:
    """A public name as (metric, field); the field is None where it is a figure of the whole answer.

    >>> parts("accuracy"), parts("accuracy.a.b"), parts("overall_within_0.5")
    (('accuracy', None), ('accuracy', 'a.b'), ('overall_within_0.5', None))
    """
    if name in families():
        return name, None
    family, dot, field = name.partition(".")
    return family, field if dot else None


def metric(name: str) -> ModuleType:
    """The module of a metric by its public name: `accuracy.relevant` -> evaluation/metrics/accuracy.py."""
    family, _ = parts(name)
    return families()[family] if family in families() else catalog.find(KIND, family)


def is_alias(name: str) -> bool:
    """Whether it says under another name what its metric says already."""
    return parts(name)[0] in getattr(metric(name), "ALIASES", ())


def lower_is_better(name: str) -> bool:
    """Whether a target is a limit from above: errors and lengths, and of a bias its distance from 0."""
    return bool(metric(name).BETTER != "higher")


def best_at_zero(name: str) -> bool:
    """A figure with a sign that is best at 0: what counts, for targets and comparisons, is its absolute value."""
    return bool(metric(name).BETTER == "zero")


def ranks(name: str) -> bool:
    """Whether one student can be better than another by it; not by the length of its texts."""
    return bool(metric(name).BETTER != "limit")


def metric_names(fields: Fields, *, tiers: bool = True) -> list[str]:
    """Every metric that a task of these fields can have, for checking a recipe's targets before anything is trained."""
    has_overall = any(spec.weight is not None for spec in fields.values())
    there = {None} | ({"overall"} if has_overall else set()) | ({"tiers"} if has_overall and tiers else set())
    names = [name for name in all_tallies(lay_out([], fields)) if getattr(metric(name), "NEEDS", None) in there]
    if not has_overall and not any(spec.kind in LABELS for spec in fields.values()):
        names = [name for name in names if name != "accuracy"]
    return sorted(names)


def measure(sheet: Sheet) -> dict[str, AnyTally]:
    """Every metric that at least one row counts for, by its public name."""
    return {name: tally for name, tally in all_tallies(sheet).items() if tally.n}


def all_tallies(sheet: Sheet) -> dict[str, AnyTally]:
    """Every metric of the sheet's fields, those that no row counts for too."""
    found: dict[str, AnyTally] = {}
    for name in catalog.names(KIND):
        found |= catalog.find(KIND, name).tallies(sheet)
    return found


def main_metric(fields: Fields, known: Mapping[str, Any]) -> str | None:
    """The one figure that stands for the task: the overall's error where there is an overall, else accuracy, else the scores' error."""
    order = ["overall_mae"] if any(spec.weight is not None for spec in fields.values()) else []
    lists = [f"list_f1.{name}" for name, spec in fields.items() if spec.kind == "list"]
    return next((name for name in [*order, "accuracy", "dimension_mae", *lists, "valid_json"] if name in known), None)
