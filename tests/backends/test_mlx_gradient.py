"""The gradient of an effective batch is the plain one, for every family and way of storing weights, however its rows are put together, and
where activations are computed again; and nothing of a step outlives it."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_distill.backends.base import LoraShape
from mlx_distill.records import Group, TokenRow
from tests.backends import plain
from tests.backends.test_mlx_update import two_groups
from tests.conftest import MakeBase

BASES = [(family, bits) for family in plain.FAMILIES for bits in (None, 4)]


def student_of(base: MakeBase, shape: LoraShape | None, *, recompute: bool = False, family: str = "qwen2", **config: Any) -> Any:
    folder = base(family, **config)
    student = plain.open_student(folder, unpack=True)
    weights = None if shape is None else plain.random_adapter(folder, shape)
    student.prepare(shape, optimizer="adamw", weight_decay=0.0, initial=weights, seed=0, recompute=recompute)
    return student


@pytest.fixture(scope="module", params=BASES, ids=lambda of: f"{of[0]}, {'whole' if of[1] is None else '4-bit'}")
def pair(request: pytest.FixtureRequest, base: MakeBase) -> tuple[Any, Any]:
    """A student, and mlx-lm's own model with the same adapter."""
    family, bits = request.param
    folder, shape = base(family, bits=bits), plain.shape_of(family)
    weights = plain.random_adapter(folder, shape)
    return student_of(base, shape, family=family, bits=bits), plain.plain_model(folder, weights, shape)


@st.composite
def batches(draw: st.DrawFn) -> Group:
    """1 to 8 micro-batches of uneven rows, with or without a common prefix; and a row of one token: its article is empty."""
    lengths = draw(st.lists(st.lists(st.integers(1, 12), min_size=1, max_size=3), min_size=1, max_size=8))
    lengths[draw(st.integers(0, len(lengths) - 1))].append(1)
    generator = np.random.default_rng(draw(st.integers(0, 999)))
    return plain.random_group(generator, draw(st.sampled_from([0, 1, 9])), lengths)


@settings(max_examples=4, deadline=None, derandomize=True)
@given(group=batches())
def test_whatever_the_family_and_the_batch_the_gradient_is_the_plain_one(pair: tuple[Any, Any], group: Group) -> None:
    student, model = pair
    assert plain.distance(plain.our_gradient(student, [group]), plain.gradient(model, [group])) <= 1e-5
    losses = {name: loss.nats for name, loss in student.gradient([group], 0)[1].row_losses.items()}
    assert losses == pytest.approx(plain.row_nats(model, [group]), rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("recompute", [False, True])
def test_an_adapter_on_the_last_layers_has_the_plain_gradient(base: MakeBase, layers: int, recompute: bool) -> None:
    folder, shape = base(num_hidden_layers=3), replace(plain.shape_of(), layers=layers)
    model = plain.plain_model(folder, plain.random_adapter(folder, shape), shape)
    ours = plain.our_gradient(student_of(base, shape, recompute=recompute, num_hidden_layers=3), two_groups())
    assert plain.distance(ours, plain.gradient(model, two_groups())) <= 1e-5


@pytest.mark.parametrize("window", [1, 4, 100])
def test_layers_that_see_a_window_have_the_plain_gradient(base: MakeBase, window: int) -> None:
    config: dict[str, Any] = {"sliding_window": window, "layer_types": ["sliding_attention", "full_attention"]}
    folder, shape = base("llama", **config), plain.shape_of()
    model = plain.plain_model(folder, plain.random_adapter(folder, shape), shape)
    assert model.model.layers[0].use_sliding
    ours = plain.our_gradient(student_of(base, shape, family="llama", **config), two_groups())
    assert plain.distance(ours, plain.gradient(model, two_groups())) <= 1e-5


@pytest.mark.parametrize(
    "shape", [plain.shape_of(), plain.shape_of(dropout=0.3), replace(plain.shape_of(dropout=0.3), dora=True), None], ids=str
)
@pytest.mark.parametrize("family", ["qwen2", "gemma2"])
def test_activations_that_are_computed_again_give_the_same_gradient(base: MakeBase, family: str, shape: LoraShape | None) -> None:
    """With dropout too: what is computed again drops what it dropped."""
    kept, again = (
        plain.our_gradient(student_of(base, shape, recompute=recompute, family=family), two_groups(), 3) for recompute in (False, True)
    )
    assert plain.distance(again, kept) <= 1e-6


def regrouped(group: Group, sizes: Sequence[int]) -> Group:
    rows = iter(group.rows)
    return Group(group.prefix, [[next(rows) for _ in range(size)] for size in sizes])


@pytest.mark.parametrize("recompute", [False, True])
def test_one_micro_batch_is_the_same_rows_in_several(base: MakeBase, recompute: bool) -> None:
    student = student_of(base, plain.shape_of(), recompute=recompute)
    group = plain.random_group(np.random.default_rng(5), 8, [[4, 11, 2, 7, 3, 5]])
    whole = plain.our_gradient(student, [group])
    for sizes in ([1, 5], [2, 2, 2], [1] * 6):
        assert plain.distance(plain.our_gradient(student, [regrouped(group, sizes)]), whole) <= 1e-6


def test_tokens_are_counted_as_they_are_forwarded(base: MakeBase) -> None:
    """Each prefix once, each row once, and no padding: 9 + 27 + 5, and 26."""
    student = student_of(base, plain.shape_of())
    assert student.gradient(two_groups(), 0)[1].computed == 9 + 4 + 11 + 2 + 7 + 3 + 5 + 12 + 6 + 8
    step = student.update(two_groups(), learning_rate=0.0, clip_norm=None, step=0)
    assert (step.computed, step.padded) == (67, 0)


# memory


def peak_of(student: Any, groups: list[Group], step: int = 0) -> int:
    """Above what stands before the step."""
    mx.reset_peak_memory()
    before = mx.get_active_memory()
    student.update(groups, learning_rate=1e-3, clip_norm=1.0, step=step)
    return int(mx.get_peak_memory()) - before


@pytest.mark.parametrize("recompute", [False, True])
def test_nothing_of_a_step_is_left_to_a_collection_of_cycles(base: MakeBase, recompute: bool) -> None:
    student = student_of(base, plain.shape_of(dropout=0.1), recompute=recompute)
    groups = [plain.random_group(np.random.default_rng(1), 20, [[30, 20], [40]])]
    peak_of(student, groups)
    gc.collect()
    gc.disable()
    try:
        before = mx.get_active_memory()
        for step in range(3):
            student.update(groups, learning_rate=1e-3, clip_norm=1.0, step=step)
        assert mx.get_active_memory() - before <= 4096
    finally:
        gc.enable()


def test_activations_that_are_computed_again_take_less_than_half_of_the_memory(base: MakeBase) -> None:
    groups = [plain.random_group(np.random.default_rng(1), 60, [[150, 120]])]
    peaks = []
    for recompute in (False, True):
        student = student_of(base, plain.shape_of(), recompute=recompute, num_hidden_layers=12)
        peak_of(student, groups)
        held = mx.get_active_memory()
        peaks.append(peak_of(student, groups, 1) - held)
    assert peaks[1] < 0.5 * peaks[0], peaks


def test_two_thousand_steps_take_no_more_memory_at_the_end_than_at_the_beginning(base: MakeBase) -> None:
    """Of every tenth of them the peak, over rows of lengths that change from step to step."""
    shape = LoraShape(2, 4.0, 0.0, ("q_proj", "v_proj"))
    config: dict[str, Any] = {
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "num_hidden_layers": 1,
    }
    student, generator = student_of(base, shape, **config), np.random.default_rng(0)
    shapes = [[int(n) for n in generator.integers(1, 24, 3)] for _ in range(199)] + [[24, 24, 24]]
    peaks = []
    for tenth in range(10):
        mx.reset_peak_memory()
        for step, lengths in enumerate(shapes):
            student.update([short(generator, lengths)], learning_rate=1e-4, clip_norm=1.0, step=200 * tenth + step)
        peaks.append(mx.get_peak_memory())
    assert peaks[-1] <= 1.02 * peaks[0], peaks


def short(generator: np.random.Generator, lengths: Sequence[int]) -> Group:
    """One learned position a row, behind 4 tokens."""
    rows = [plain.random_row(generator, str(i), n) for i, n in enumerate(lengths)]
    return Group(plain.random_ids(generator, 4), [[last(row) for row in rows]])


def last(row: TokenRow) -> TokenRow:
    return replace(row, read_at=row.read_at[-1:], targets=row.targets[-1:], weight=row.weight[-1:])
