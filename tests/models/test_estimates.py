"""The memory that a training is foretold to need is what it comes to need, within -15 % and +30 %."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from mlx_distill.backends.base import Backend, LoraShape
from mlx_distill.backends.mlx.student import MlxStudent
from mlx_distill.models.estimates import Device, Memory, Work, training_memory
from mlx_distill.models.families import complete, family_of
from mlx_distill.records import Group, TokenRow
from mlx_distill.workflows.preparation import open_config
from mlx_distill.workflows.room import learnable
from tests.backends import plain
from tests.conftest import MakeBase

SIZES = {"hidden_size": 128, "intermediate_size": 352, "num_hidden_layers": 12}
ATTENTION = LoraShape(16, 32.0, 0.0, plain.TARGETS[:4])
ALL = LoraShape(16, 32.0, 0.0, plain.TARGETS)
Rows = tuple[int, list[list[int]], int]
"""Tokens of the prefix, lengths of the rows of each micro-batch, learned positions of each row."""
LONG: Rows = (0, [[120, 90, 60]], 20)
SHARED: Rows = (110, [[50, 70], [80, 40]], 10)
SHORT: Rows = (120, [[30, 20, 40, 10, 35, 25]], 8)


def group(rows: Rows) -> Group:
    prefix, lengths, learned = rows
    made = plain.random_group(np.random.default_rng(0), prefix, lengths)
    return Group(made.prefix, [[read_last(row, learned) for row in batch] for batch in made.micro_batches])


def read_last(row: TokenRow, learned: int) -> TokenRow:
    read_at = np.arange(len(row.tokens) - learned, len(row.tokens), dtype=np.int32)
    return replace(row, read_at=read_at, targets=row.tokens[:learned], weight=np.ones(learned, np.float32))


def came(base: Path, shape: LoraShape | None, rows: Rows, *, optimizer: str, recompute: bool) -> tuple[int, int]:
    """Bytes that the open base takes, and the peak of a step that is not the first."""
    gc.collect()
    before = mx.get_active_memory()
    student = MlxStudent(base, {}, cast="float32")
    weights = mx.get_active_memory() - before
    student.prepare(shape, optimizer=optimizer, weight_decay=0.0, initial=None, seed=0, recompute=recompute)
    student.update([group((1, [[3]], 1))], learning_rate=1e-4, clip_norm=1e-6, step=0)
    mx.reset_peak_memory()
    student.update([group(rows)], learning_rate=1e-4, clip_norm=1e-6, step=1)
    return weights, mx.get_peak_memory() - before


def foretold(base: Path, backend: Backend, shape: LoraShape | None, rows: Rows, weights: int, *, optimizer: str, recompute: bool) -> Memory:
    config, machine = open_config(base), backend.machine()
    config = complete(config, family_of(config))
    prefix, batches, learned = rows
    works = [Work(len(lengths), sum(lengths), max(lengths), learned * len(lengths), prefix) for lengths in batches]
    what, device = learnable(config, shape, optimizer), Device(4, machine.tile, machine.logits)
    memories = [
        training_memory(config, weight_bytes=weights, learnable=what, work=work, device=device, recompute=recompute) for work in works
    ]
    return max(memories, key=lambda memory: memory.total)


CASES: dict[str, tuple[LoraShape | None, Rows, str, bool]] = {
    "all projections": (ALL, LONG, "adamw", False),
    "all projections, computed again": (ALL, LONG, "adamw", True),
    "attention alone, two micro-batches": (ATTENTION, SHARED, "adamw", False),
    "attention alone, two micro-batches, computed again": (ATTENTION, SHARED, "adamw", True),
    "the last four layers": (replace(ALL, layers=4), SHARED, "adamw", False),
    "dropout": (replace(ALL, dropout=0.1), SHORT, "adamw", False),
    "dora": (replace(ALL, dora=True), SHARED, "adamw", False),
    "all weights": (None, SHORT, "adamw", False),
    "all weights, computed again": (None, SHORT, "adamw", True),
    "all weights, adafactor": (None, SHARED, "adafactor", False),
}


@pytest.mark.skipif(mx.metal.is_available(), reason="measured in float32")
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_the_peak_is_foretold(base: MakeBase, backend: Backend, case: tuple[LoraShape | None, Rows, str, bool]) -> None:
    shape, rows, optimizer, recompute = case
    folder = base(**SIZES)
    weights, peak = came(folder, shape, rows, optimizer=optimizer, recompute=recompute)
    told = foretold(folder, backend, shape, rows, weights, optimizer=optimizer, recompute=recompute)
    assert 0.85 * peak <= told.total <= 1.3 * peak, (told.total / peak, told)


@pytest.mark.skipif(mx.metal.is_available(), reason="measured in float32")
@pytest.mark.parametrize(("family", "shape"), [("qwen3", ALL), ("gemma2", ALL), ("phi3", replace(ALL, targets=plain.TARGETS_OF["phi3"]))])
def test_the_peak_of_other_families_is_foretold(base: MakeBase, backend: Backend, family: str, shape: LoraShape) -> None:
    folder = base(family, **(SIZES | {"num_hidden_layers": 6}))
    weights, peak = came(folder, shape, LONG, optimizer="adamw", recompute=False)
    told = foretold(folder, backend, shape, LONG, weights, optimizer="adamw", recompute=False)
    assert 0.85 * peak <= told.total <= 1.3 * peak, (told.total / peak, told)


@pytest.mark.skipif(mx.metal.is_available(), reason="measured in float32")
@pytest.mark.parametrize("shape", [replace(ATTENTION, targets=("q_proj",)), None], ids=["q_proj", "all weights"])
def test_many_logits_are_foretold(base: MakeBase, backend: Backend, shape: LoraShape | None) -> None:
    """Three pieces of a vocabulary that outweighs the layers."""
    rows: Rows = (5, [[140, 130, 120]], 110)
    folder = base(num_hidden_layers=1, vocab=30_000)
    weights, peak = came(folder, shape, rows, optimizer="adamw", recompute=False)
    told = foretold(folder, backend, shape, rows, weights, optimizer="adamw", recompute=False)
    assert 0.85 * peak <= told.total <= 1.3 * peak, (told.total / peak, told)


def test_norms_of_heads_and_four_norms_a_layer_keep_their_inputs(base: MakeBase, backend: Backend) -> None:
    """Qwen3 has norms on queries and keys (4 + 2 heads of 32), Gemma 2 two of the residual more: float32, of 5 layers of 6 and the rest."""
    kept = {}
    for family in ("llama", "qwen3", "gemma2"):
        folder = base(family, **(SIZES | {"num_hidden_layers": 6, "head_dim": 32}))
        kept[family] = foretold(folder, backend, ATTENTION, (0, [[100]], 100), 0, optimizer="adamw", recompute=False).kept
    assert kept["qwen3"] - kept["llama"] == 600 * (4 + 2) * 32 * 4
    assert kept["gemma2"] - kept["llama"] == 600 * 2 * 128 * 4


Grown = Callable[[Work], Work]


@pytest.mark.parametrize(
    "more",
    [
        lambda work: replace(work, tokens=2 * work.tokens),
        lambda work: replace(work, prefix=2 * work.prefix),
    ],
    ids=["tokens", "prefix"],
)
@pytest.mark.parametrize("recompute", [False, True])
def test_more_of_anything_takes_more(base: MakeBase, backend: Backend, more: Grown, recompute: bool) -> None:
    config = open_config(base(**SIZES))
    config = complete(config, family_of(config))
    work, what = Work(4, 2000, 600, 200, 500), learnable(config, ALL, "adamw")
    device = Device(2, 1 << 19, 1 << 22)
    less, grown = (
        training_memory(config, weight_bytes=1 << 30, learnable=what, work=each, device=device, recompute=recompute)
        for each in (work, more(work))
    )
    assert grown.total > less.total
