"""The reference itself: its slopes are those of finite differences, its logits those of transformers (see test_originals)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from mlx_distill.backends.base import LoraShape
from mlx_distill.records import LossSum
from tests.conformance.contestants import random_adapter, some_groups
from tests.conformance.reference_student import ReferenceStudent
from tests.conftest import MakeBase
from tests.rows import FAMILIES, shape_of


def slopes(student: Any, names: list[str]) -> tuple[float, float]:
    """Of the loss along a random direction of some weights: by the tape, and by central differences."""
    generator, groups = np.random.default_rng(1), some_groups(1)
    start = dict(student._weights)
    way = {name: generator.normal(size=start[name].shape) for name in names}
    gradient, _ = student.gradient(groups)
    losses = []
    for sign in (1, -1):
        student._weights = start | {name: start[name] + sign * 1e-5 * way[name] for name in names}
        losses.append(sum(student.loss(groups).values(), LossSum()).mean)
    return sum(float((gradient[name] * way[name]).sum()) for name in names), (losses[0] - losses[1]) / 2e-5


def student_of(folder: Any, shape: LoraShape | None) -> ReferenceStudent:
    student = ReferenceStudent(folder)
    weights = None if shape is None else random_adapter(folder, shape)
    student.prepare(shape, optimizer="adamw", weight_decay=0, initial=weights, seed=0)
    return student


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("whole", [False, True])
def test_slopes_are_those_of_finite_differences(base: MakeBase, family: str, whole: bool) -> None:
    folder = base(family, num_hidden_layers=1, **({"sliding_window": 6} if family == "gemma2" else {}))
    student = student_of(folder, None if whole else shape_of(family))
    mine, differences = slopes(student, list(student._weights))
    assert abs(mine) > 1e-3 and mine == pytest.approx(differences, rel=1e-6)


def test_so_are_those_of_magnitudes(base: MakeBase) -> None:
    """Not those of DoRA's A and B: by its definition nothing flows back through the norm."""
    student = student_of(base(num_hidden_layers=1), replace(shape_of(), dora=True))
    mine, differences = slopes(student, [name for name in student._weights if "magnitude" in name])
    assert mine == pytest.approx(differences, rel=1e-6)
