"""What a text means to a base, and the slope of its loss: each backend against the reference, families, packed weights and plain."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlx_distill.records import Group, LossSum
from tests.conformance.contestants import (
    BACKENDS,
    CLOSE,
    gap,
    gradient_of,
    log_probabilities,
    open_student,
    prepared,
    random_adapter,
    require_alike,
    some_groups,
)  # fmt: skip
from tests.conformance.reference_student import ReferenceStudent
from tests.conftest import MakeBase
from tests.rows import random_group, random_ids, shape_of

pytestmark = pytest.mark.parametrize("name", BACKENDS)
FAMILIES = ("qwen2", "qwen3", "llama", "mistral", "phi3", "gemma2")
FORMS = pytest.mark.parametrize(("bits", "packed"), [(None, False), (4, True), (4, False)], ids=["plain", "packed", "unpacked"])
"""Weights as they are; packed, computed with as they lie; packed on disk alone."""
WINDOWS: dict[str, dict[str, Any]] = {"gemma2": {"sliding_window": 6}, "mistral": {"sliding_window": 6}}
"""Smaller than the rows."""


def loss_gap(ours: dict[str, LossSum], theirs: dict[str, LossSum]) -> float:
    assert {name: loss.tokens for name, loss in ours.items()} == pytest.approx({name: loss.tokens for name, loss in theirs.items()})
    return gap(*(np.array([losses[name].nats for name in theirs]) for losses in (ours, theirs)))


@FORMS
@pytest.mark.parametrize("family", FAMILIES)
def test_logits_losses_and_gradients_are_the_references(
    base: MakeBase, tmp_path: Path, name: str, family: str, bits: int | None, packed: bool
) -> None:
    folder, shape, groups = base(family, bits=bits, **WINDOWS.get(family, {})), shape_of(family), some_groups()
    generator = np.random.default_rng(2)
    text = random_ids(generator, 6), random_ids(generator, 20)
    assert gap(log_probabilities(open_student(name, folder, packed=packed), *text), log_probabilities(_reference(folder), *text)) <= CLOSE
    weights = random_adapter(folder, shape)
    ours, theirs = (prepared(each, folder, shape, weights=weights, packed=packed) for each in (name, "reference"))
    assert loss_gap(ours.loss(groups), theirs.loss(groups)) <= CLOSE
    require_alike(gradient_of(ours, groups, tmp_path / "ours"), gradient_of(theirs, groups, tmp_path / "theirs"), CLOSE)


def _reference(folder: Path) -> ReferenceStudent:
    return ReferenceStudent(folder)


@pytest.mark.parametrize("bits", [2, 3, 5, 6, 8])
def test_every_width_of_packing_gives_the_same(base: MakeBase, tmp_path: Path, name: str, bits: int) -> None:
    folder, shape, groups = base("llama", bits=bits, tied=False, num_hidden_layers=1), shape_of(), some_groups(1)
    weights = random_adapter(folder, shape)
    ours, theirs = (prepared(each, folder, shape, weights=weights, packed=True) for each in (name, "reference"))
    assert loss_gap(ours.loss(groups), theirs.loss(groups)) <= CLOSE
    require_alike(gradient_of(ours, groups, tmp_path / "ours"), gradient_of(theirs, groups, tmp_path / "theirs"), CLOSE)


@pytest.mark.parametrize("kind", ["dora", "packed dora", "last layer", "rslora", "whole", "whole, untied"])
def test_other_ways_to_train_have_the_references_gradient(base: MakeBase, tmp_path: Path, name: str, kind: str) -> None:
    folder, groups = base(bits=4 if "packed" in kind else None, tied="untied" not in kind), some_groups()
    way: dict[str, dict[str, Any]] = {
        "dora": {"dora": True},
        "packed dora": {"dora": True},
        "last layer": {"layers": 1},
        "rslora": {"rslora": True},
    }
    shape = replace(shape_of(), **way[kind]) if kind in way else None
    weights = None if shape is None else random_adapter(folder, shape)
    ours, theirs = (prepared(each, folder, shape, weights=weights, packed="packed" in kind) for each in (name, "reference"))
    found = gradient_of(ours, groups, tmp_path / "ours")
    require_alike(found, gradient_of(theirs, groups, tmp_path / "theirs"), CLOSE)


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("sizes", [[6], [2, 4], [1] * 6])
def test_however_a_batch_is_split_its_gradient_is_the_same(
    base: MakeBase, tmp_path: Path, name: str, sizes: list[int], recompute: bool
) -> None:
    folder, shape = base("gemma2", sliding_window=6), shape_of()
    group = random_group(np.random.default_rng(5), 8, [[4, 11, 2, 7, 3, 5]])
    rows = iter(group.rows)
    split = Group(group.prefix, [[next(rows) for _ in range(size)] for size in sizes])
    weights = random_adapter(folder, shape)
    ours = gradient_of(prepared(name, folder, shape, weights=weights, recompute=recompute), [split], tmp_path / "ours")
    require_alike(ours, gradient_of(prepared("reference", folder, shape, weights=weights), [group], tmp_path / "theirs"), CLOSE)
