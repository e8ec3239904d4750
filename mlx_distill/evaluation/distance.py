"""How far an answer is from the judge's, from 0 to 1, so that fields of any kind can be added up. It knows one answer to one field."""

from __future__ import annotations

from typing import Any

from mlx_distill.evaluation.sheet import label
from mlx_distill.recipe.schema import FieldSpec
from mlx_distill.task.fields import limits


def distance(reference: Any, answer: Any, spec: FieldSpec) -> float:
    """Of a closed field: a score's error over its range (more than 1 where an answer lies outside); else 0 right, 1 wrong or missing.

    >>> distance(2, 4.5, FieldSpec(kind="score", max=5)), distance(True, None, FieldSpec(kind="flag"))
    (0.5, 1.0)
    """
    if answer is None or spec.kind != "score" or isinstance(answer, str):
        return float(answer is None or label(answer) != label(reference))
    low, high, _ = limits(spec)
    return abs(float(answer) - float(reference)) / (high - low)
