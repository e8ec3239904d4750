"""The memory that a training is foretold to need is what it comes to need, within -15 % and +30 %, on PyTorch -10 % and +25 %."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from mlx_distill.backends.base import Backend, LoraShape
from mlx_distill.backends.choose import choose
from mlx_distill.models.estimates import Device, Memory, Work, training_memory
from mlx_distill.models.families import complete, family_of
from mlx_distill.records import Group, TokenRow
from mlx_distill.workflows.preparation import open_config
from mlx_distill.workflows.room import learnable
from tests.backends import plain
from tests.backends.peaks import COUNTS
from tests.backends.sides import SIDES, Side, each_side
from tests.conftest import MakeBase

SIZES = {"hidden_size": 128, "intermediate_size": 352, "num_hidden_layers": 12}
ATTENTION = LoraShape(16, 32.0, 0.0, plain.TARGETS[:4])
ALL = LoraShape(16, 32.0, 0.0, plain.TARGETS)
WITHIN = {"mlx": (0.85, 1.3), "torch": (0.9, 1.25)}
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


def came(side: Side, base: Path, shape: LoraShape | None, rows: Rows, *, optimizer: str, recompute: bool) -> int:
    """The peak of a step that is not the first, with everything that stands then."""
    count = COUNTS[side.name]()
    with count.begun():
        student = side.open(base)
        student.prepare(shape, optimizer=optimizer, weight_decay=0.0, initial=None, seed=0, recompute=recompute)
        student.update([group((1, [[3]], 1))], learning_rate=1e-4, clip_norm=1e-6, step=0)
        with count.measured():
            student.update([group(rows)], learning_rate=1e-4, clip_norm=1e-6, step=1)
    return count.peak


def foretold(backend: Backend, base: Path, shape: LoraShape | None, rows: Rows, *, optimizer: str, recompute: bool) -> Memory:
    config = open_config(base)
    config = complete(config, family_of(config))
    prefix, batches, learned = rows
    works = [Work(len(lengths), sum(lengths), max(lengths), learned * len(lengths), prefix) for lengths in batches]
    weights = backend.weight_bytes(base, memory_limit=1 if "quantization" in config else None)
    what, device = learnable(config, shape, optimizer), backend.machine().working
    memory = partial(training_memory, config, weight_bytes=weights, learnable=what, device=device, recompute=recompute)
    return max((memory(work=work) for work in works), key=lambda memory: memory.total)


def require_foretold(
    side: Side, base: Path, shape: LoraShape | None, rows: Rows, *, optimizer: str = "adamw", recompute: bool = False
) -> None:
    peak = came(side, base, shape, rows, optimizer=optimizer, recompute=recompute)
    told = foretold(choose(side.name), base, shape, rows, optimizer=optimizer, recompute=recompute)
    least, most = WITHIN[side.name]
    assert least * peak <= told.total <= most * peak, (told.total / peak, told)


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


in_float32 = pytest.mark.skipif(mx.metal.is_available(), reason="measured in float32")


@in_float32
@each_side
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_the_peak_is_foretold(base: MakeBase, side: Side, case: tuple[LoraShape | None, Rows, str, bool]) -> None:
    shape, rows, optimizer, recompute = case
    require_foretold(side, base(**SIZES), shape, rows, optimizer=optimizer, recompute=recompute)


@in_float32
@each_side
@pytest.mark.parametrize(("family", "shape"), [("qwen3", ALL), ("gemma2", ALL), ("phi3", replace(ALL, targets=plain.TARGETS_OF["phi3"]))])
def test_the_peak_of_other_families_is_foretold(base: MakeBase, side: Side, family: str, shape: LoraShape) -> None:
    require_foretold(side, base(family, **(SIZES | {"num_hidden_layers": 6})), shape, LONG)


@pytest.mark.skipif("torch" not in SIDES, reason="MLX unpacks nothing")
@pytest.mark.parametrize("recompute", [False, True], ids=["kept", "computed again"])
def test_the_peak_with_a_matrix_unpacked_at_a_time_is_foretold(base: MakeBase, recompute: bool) -> None:
    wide = {"intermediate_size": 2048, "num_hidden_layers": 4}
    require_foretold(SIDES["torch"], base(bits=4, **(SIZES | wide)), ALL, SHARED, recompute=recompute)


@in_float32
@each_side
@pytest.mark.parametrize("shape", [replace(ATTENTION, targets=("q_proj",)), None], ids=["q_proj", "all weights"])
def test_many_logits_are_foretold(base: MakeBase, side: Side, shape: LoraShape | None) -> None:
    """Three pieces of a vocabulary that outweighs the layers."""
    rows: Rows = (5, [[140, 130, 120]], 110)
    require_foretold(side, base(num_hidden_layers=1, vocab=30_000), shape, rows)


def test_norms_of_heads_and_four_norms_a_layer_keep_their_inputs(base: MakeBase, backend: Backend) -> None:
    """Qwen3 has norms on queries and keys (4 + 2 heads of 32), Gemma 2 two of the residual more: float32, of 5 layers of 6 and the rest."""
    kept = {}
    for family in ("llama", "qwen3", "gemma2"):
        folder = base(family, **(SIZES | {"num_hidden_layers": 6, "head_dim": 32}))
        kept[family] = foretold(backend, folder, ATTENTION, (0, [[100]], 100), optimizer="adamw", recompute=False).kept
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
