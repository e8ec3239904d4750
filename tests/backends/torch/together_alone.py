"""Rows that go on, computed all at once by kernels: as if alone, whatever they hold and wherever it lies.

Run by `test_together`, in a process of its own: without a GPU, Triton's interpreter reads the kernels' code, which it must be told before
Triton is imported. These are its numbers, not its speed.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from mlx_distill.backends.torch import mixed, pieces, together
from mlx_distill.backends.torch.kernels import proof
from mlx_distill.backends.torch.model import Layer
from tests.backends import plain
from tests.backends.sides import SIDES
from tests.backends.test_mixed import WINDOWED, Walk
from tests.backends.twin import opened
from tests.conftest import MakeBase

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Rows that go on are computed together; how many queries were. A piece holds 7 keys, a program 4 queries of a row."""
    asked: list[int] = []
    attended = together.Together.attended

    def noted(self: together.Together, i: int, layer: Layer, q: Any, *arguments: Any) -> Any:
        asked.append(len(q))
        return attended(self, i, layer, q, *arguments)

    monkeypatch.setattr(pieces, "CHUNK", 7)
    monkeypatch.setattr(pieces, "TOGETHER", 8)
    monkeypatch.setattr(mixed, "runs_together", lambda model: True)
    monkeypatch.setattr(together.Together, "attended", noted)
    return asked


def test_whatever_rows_do_they_answer_as_if_alone(base: MakeBase, at_once: list[int]) -> None:
    """Prompts, answers, branches, samples, rows that end and leave: several cohorts in a forward, and their new rows beside them.

    Half of the layers have a window."""
    walk = Walk(SIDES["torch"], base("llama", **WINDOWED), plain.random_ids(np.random.default_rng(1), 4))
    for seed in (0, 3):
        generator = np.random.default_rng(seed)
        walk.forward(generator)
        walk.forward(generator)
        walk.part(generator)
        walk.leave([handle for handle in walk.rows if generator.random() < 0.2])
        walk.check_said()
    assert max(at_once) > 8


@pytest.mark.parametrize("family", ["gemma2", "phi3"])
def test_many_queries_over_many_keys_are_cut(base: MakeBase, at_once: list[int], family: str) -> None:
    """One family bends its scores, the other's values lie beside its keys."""
    generator = np.random.default_rng(2)
    twin = opened(SIDES["torch"], base(family, num_hidden_layers=1), plain.random_ids(generator, 3))
    a, b, c = twin.admit([plain.random_ids(generator, n) for n in (23, 20, 5)])
    twin.extend({a: [7] * 9, b: [8], c: [9, 10, 11, 12, 13]})
    twin.check()
    twin.extend({a: [5], b: [6, 7], c: [8]})
    twin.check()
    assert at_once


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_kernels_are_proved_on_shapes_that_no_tile_divides(dtype: Any) -> None:
    for heads, kv_heads, width, cap in ((4, 2, 24, None), (7, 1, 16, 5.0)):
        assert together.proved(DEVICE, dtype, heads, kv_heads, width, cap), proof.notes()


def test_a_kernel_that_is_wrong_is_not_used_and_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    from mlx_distill.backends.torch.kernels import ragged

    right = ragged.attended
    monkeypatch.setattr(ragged, "attended", lambda *arguments, **named: right(*arguments, **named) * 1.1)
    monkeypatch.setattr(proof, "_failed", {})
    assert not together.proved(DEVICE, torch.float32, 2, 1, 16, None)
    (note,) = proof.notes()
    assert "it differs by" in note and "cohort by cohort" in note
