"""One effective batch: its losses and its gradient are those of the plain computation, and it is applied once, or not at all."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mlx.utils import tree_flatten
from numpy.typing import NDArray

from mlx_distill.backends.base import LoraShape
from mlx_distill.errors import BackendError
from mlx_distill.records import Group, LossSum, Step, TokenRow
from tests.backends import plain
from tests.conftest import MakeBase

WHOLE = 1e9
"""A norm that nothing is clipped to."""


def prepared(
    base: Path,
    shape: LoraShape | None = None,
    *,
    weights: plain.Weights | None = None,
    seed: int = 0,
    decay: float = 0.0,
    unpack: bool = False,
) -> Any:
    student = plain.open_student(base, unpack=unpack)
    student.prepare(shape or plain.shape_of(), optimizer="adamw", weight_decay=decay, initial=weights, seed=seed)
    return student


def two_groups(seed: int = 0) -> list[Group]:
    """Uneven rows: three micro-batches behind a prefix, and two without one."""
    generator = np.random.default_rng(seed)
    return [plain.random_group(generator, 9, [[4, 11, 2], [7], [3, 5]]), plain.random_group(generator, 0, [[12, 6], [8]])]


def adapter_of(student: Any) -> dict[str, NDArray[np.float32]]:
    """A copy of the weights in training, under PEFT's names."""
    own = student._own
    return {own.file_name(path): own.to_file(value).copy() for path, value in own.values().items()}


def state_of(student: Any, folder: Path) -> dict[str, str]:
    student.save_state(folder)
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def same(one: plain.Weights, other: plain.Weights) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


# what it computes


@plain.FORMS
@pytest.mark.parametrize("family", plain.FAMILIES)
def test_losses_and_gradient_are_those_of_rows_forwarded_alone(base: MakeBase, family: str, bits: int | None, unpack: bool) -> None:
    folder, shape, groups = base(family, bits=bits), plain.shape_of(family), two_groups()
    weights = plain.random_adapter(folder, shape)
    student, model = prepared(folder, shape, weights=weights, unpack=unpack), plain.plain_model(folder, weights, shape)
    assert plain.distance(plain.our_gradient(student, groups), plain.gradient(model, groups)) <= 1e-5
    expected = plain.row_nats(model, groups)
    step: Step = student.update(groups, learning_rate=0.0, clip_norm=None, step=0)
    assert {name: loss.nats for name, loss in step.row_losses.items()} == pytest.approx(expected, rel=1e-5)
    assert step.loss.nats == pytest.approx(sum(expected.values()), rel=1e-5)
    assert step.loss.tokens == pytest.approx(sum(float(row.weight.sum()) for group in groups for row in group.rows))
    norm = np.sqrt(sum(float(np.square(value).sum()) for value in plain.gradient(model, groups).values()))
    assert step.applied and step.grad_norm == pytest.approx(norm, rel=1e-5)


@plain.FORMS
def test_an_untied_head_gives_the_plain_gradient_too(base: MakeBase, bits: int | None, unpack: bool) -> None:
    folder, shape, groups = base("llama", bits=bits, tied=False), plain.shape_of(), two_groups()
    weights = plain.random_adapter(folder, shape)
    ours = plain.our_gradient(prepared(folder, shape, weights=weights, unpack=unpack), groups)
    assert plain.distance(ours, plain.gradient(plain.plain_model(folder, weights, shape), groups)) <= 1e-5


def test_restricted_positions_among_free_ones_give_the_plain_gradient(base: MakeBase) -> None:
    folder, shape, generator = base(bits=4), plain.shape_of(), np.random.default_rng(3)
    weights = plain.random_adapter(folder, shape)
    closed = plain.random_group(generator, 6, [[5, 9], [4]], closed=True)
    mixed = Group(closed.prefix, [[*closed.micro_batches[0], plain.random_row(generator, "free", 6)], closed.micro_batches[1]])
    ours = plain.our_gradient(prepared(folder, shape, weights=weights), [mixed])
    assert plain.distance(ours, plain.gradient(plain.plain_model(folder, weights, shape), [mixed])) <= 1e-5


LENGTHS = st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=3), min_size=1, max_size=3)


@settings(max_examples=15, deadline=None, derandomize=True)
@given(groups=st.lists(st.tuples(st.integers(0, 7), LENGTHS), min_size=1, max_size=2), closed=st.booleans(), seed=st.integers(0, 99))
def test_whatever_the_shapes_the_gradient_is_the_plain_one(
    tiny: tuple[Any, Any], groups: list[tuple[int, list[list[int]]]], closed: bool, seed: int
) -> None:
    student, model = tiny
    generator = np.random.default_rng(seed)
    made = [plain.random_group(generator, prefix, lengths, closed=closed) for prefix, lengths in groups]
    assert plain.distance(plain.our_gradient(student, made), plain.gradient(model, made)) <= 1e-5
    losses = student.loss(made)
    assert {name: loss.nats for name, loss in losses.items()} == pytest.approx(plain.row_nats(model, made), rel=1e-5, abs=1e-6)


@pytest.fixture(scope="module")
def tiny(base: MakeBase) -> tuple[Any, Any]:
    folder, shape = base(num_hidden_layers=1), plain.shape_of()
    weights = plain.random_adapter(folder, shape)
    return prepared(folder, shape, weights=weights), plain.plain_model(folder, weights, shape)


def regrouped(group: Group, sizes: Sequence[int]) -> Group:
    rows = iter(group.rows)
    return Group(group.prefix, [[next(rows) for _ in range(size)] for size in sizes])


@pytest.mark.parametrize("sizes", [[6], [1, 1, 1, 1, 1, 1], [1, 4, 1]])
def test_splitting_a_batch_differently_changes_nothing(tiny: tuple[Any, Any], sizes: list[int]) -> None:
    group = plain.random_group(np.random.default_rng(5), 8, [[4, 11, 2], [7], [3, 5]])
    one, other = (plain.our_gradient(tiny[0], [whole]) for whole in (group, regrouped(group, sizes)))
    assert plain.distance(one, other) <= 1e-6
    losses, others = (tiny[0].loss([whole]) for whole in (group, regrouped(group, sizes)))
    assert {name: loss.nats for name, loss in losses.items()} == pytest.approx({name: loss.nats for name, loss in others.items()}, rel=1e-6)


def test_a_prefix_shared_is_a_prefix_written_out_in_each_row(tiny: tuple[Any, Any]) -> None:
    group = plain.random_group(np.random.default_rng(6), 8, [[4, 11], [7]])
    whole = Group(group.prefix[:0], [[with_prefix(group.prefix, row) for row in batch] for batch in group.micro_batches])
    assert plain.distance(plain.our_gradient(tiny[0], [group]), plain.our_gradient(tiny[0], [whole])) <= 1e-5


def with_prefix(prefix: NDArray[np.int32], row: TokenRow) -> TokenRow:
    return replace(row, tokens=np.concatenate([prefix, row.tokens]), read_at=row.read_at + len(prefix))


def test_a_row_of_weight_zero_teaches_nothing(tiny: tuple[Any, Any]) -> None:
    group = plain.random_group(np.random.default_rng(7), 4, [[5, 6]])
    first, second = group.micro_batches[0]
    mute = replace(second, weight=np.zeros_like(second.weight))
    gradients = [plain.our_gradient(tiny[0], [Group(group.prefix, [rows])]) for rows in ([first], [first, mute])]
    assert plain.distance(*gradients) <= 1e-6
    assert tiny[0].loss([Group(group.prefix, [[mute]])])[mute.id] == LossSum(0.0, 0.0)


def test_weights_count_as_often_as_they_say(tiny: tuple[Any, Any]) -> None:
    """A target of weight 3 is three targets of weight 1."""
    row = plain.random_row(np.random.default_rng(8), "row", 6)
    once, thrice = (replace(row, weight=np.full_like(row.weight, weight)) for weight in (1, 3))
    copies = [replace(once, id=f"copy {i}") for i in range(3)]
    other = replace(plain.random_row(np.random.default_rng(9), "other", 4), id="other")
    ours = plain.our_gradient(tiny[0], [Group(row.tokens[:0], [[thrice, other]])])
    assert plain.distance(ours, plain.our_gradient(tiny[0], [Group(row.tokens[:0], [[*copies, other]])])) <= 1e-6


# what it applies


def test_steps_are_those_of_torch_adamw(base: MakeBase) -> None:
    torch = pytest.importorskip("torch")
    folder, shape = base(num_hidden_layers=1), plain.shape_of()
    student = prepared(folder, shape, weights=plain.random_adapter(folder, shape), decay=0.1)
    parameters = {name: torch.nn.Parameter(torch.from_numpy(np.array(value))) for name, value in student._own.values().items()}
    optimizer = torch.optim.AdamW(parameters.values(), lr=1e-2, weight_decay=0.1)
    for step in range(3):
        groups = two_groups(step)
        for name, value in plain.our_gradient(student, groups, step).items():
            parameters[name].grad = torch.from_numpy(value.copy())
        torch.nn.utils.clip_grad_norm_(parameters.values(), 0.5)
        optimizer.step()
        student.update(groups, learning_rate=1e-2, clip_norm=0.5, step=step)
    for name, value in student._own.values().items():
        np.testing.assert_allclose(np.asarray(value), parameters[name].detach().numpy(), rtol=1e-4, atol=2e-6)


def test_a_long_gradient_is_cut_to_the_norm_and_a_short_one_is_not(base: MakeBase) -> None:
    """After one step AdamW's first mean is a tenth of the gradient that it was given."""
    folder, shape = base(num_hidden_layers=1), plain.shape_of()
    weights = plain.random_adapter(folder, shape)
    for clip, wanted in ((None, 1.0), (0.25, 0.25), (4.0, 1.0)):
        student = prepared(folder, shape, weights=weights)
        gradient = plain.our_gradient(student, two_groups())
        norm = float(np.sqrt(sum(np.square(value).sum() for value in gradient.values())))
        step = student.update(two_groups(), learning_rate=1e-3, clip_norm=None if clip is None else clip * norm, step=0)
        assert step.grad_norm == pytest.approx(norm, rel=1e-5), "what is reported is the norm before the cut"
        means = {path: np.asarray(student._optimizer.state[path]["m"]) * 10 / wanted for path in gradient}
        assert plain.distance(means, gradient) <= 1e-5


@pytest.mark.parametrize("weight", [np.inf, np.nan])
def test_a_step_that_is_not_finite_changes_nothing(base: MakeBase, tmp_path: Path, weight: float) -> None:
    student = prepared(base(num_hidden_layers=1))
    student.update(two_groups(), learning_rate=1e-2, clip_norm=1.0, step=0)
    before = state_of(student, tmp_path / "before")
    bad, good = two_groups(1)
    row = bad.micro_batches[1][0]
    broken = [Group(bad.prefix, [bad.micro_batches[0], [replace(row, weight=np.full_like(row.weight, weight))]]), good]
    step = student.update(broken, learning_rate=1e-2, clip_norm=1.0, step=1)
    assert not step.applied and not np.isfinite(step.loss.nats)
    assert state_of(student, tmp_path / "after") == before
    assert student.update(two_groups(1), learning_rate=1e-2, clip_norm=1.0, step=2).applied


def test_weights_that_have_become_infinite_are_noticed(base: MakeBase) -> None:
    folder, shape = base(num_hidden_layers=1), plain.shape_of()
    weights = plain.random_adapter(folder, shape)
    next(iter(weights.values()))[0, 0] = np.inf
    assert not prepared(folder, shape, weights=weights).update(two_groups(), learning_rate=1e-2, clip_norm=1.0, step=0).applied


def test_a_batch_that_weighs_nothing_is_not_applied(base: MakeBase) -> None:
    student = prepared(base(num_hidden_layers=1))
    row = plain.random_row(np.random.default_rng(0), "row", 5)
    mute = Group(row.tokens[:0], [[replace(row, weight=np.zeros_like(row.weight))]])
    before = adapter_of(student)
    assert not student.update([mute], learning_rate=1e-2, clip_norm=1.0, step=0).applied
    assert same(adapter_of(student), before)


def test_a_learning_rate_of_zero_changes_no_weight(base: MakeBase) -> None:
    student = prepared(base(num_hidden_layers=1), decay=0.1)
    before = adapter_of(student)
    assert student.update(two_groups(), learning_rate=0.0, clip_norm=1.0, step=0).applied
    assert same(adapter_of(student), before)


@plain.FORMS
def test_learning_lowers_the_loss_and_leaves_the_base_as_it_is(base: MakeBase, bits: int | None, unpack: bool) -> None:
    student, groups = prepared(base(num_hidden_layers=1, bits=bits), unpack=unpack), two_groups()
    frozen = bare(student)
    steps = [student.update(groups, learning_rate=1e-2, clip_norm=1.0, step=step) for step in range(8)]
    assert steps[-1].loss.mean < 0.8 * steps[0].loss.mean
    assert sum(student.loss(groups).values(), LossSum()).mean < steps[-1].loss.mean
    assert len(frozen) >= 12 and same(bare(student), frozen)


def bare(student: Any) -> dict[str, NDArray[Any]]:
    """A copy of the base's own weights, wherever adapters have put them."""
    flat = tree_flatten(student._model.parameters())
    return {name.replace(".linear.", "."): np.array(value) for name, value in flat if ".lora_" not in name}


# where it starts, and its dropout


def test_the_adapter_starts_as_the_bare_base(base: MakeBase) -> None:
    folder, groups = base(bits=4), two_groups()
    ours = prepared(folder).loss(groups)
    assert {name: loss.nats for name, loss in ours.items()} == pytest.approx(plain.row_nats(plain.plain_model(folder), groups), rel=1e-5)


def test_the_same_seed_starts_the_same_and_another_seed_another(base: MakeBase, tmp_path: Path) -> None:
    files = []
    for i, seed in enumerate((3, 3, 4)):
        prepared(base(num_hidden_layers=1), seed=seed).save_adapter(tmp_path / str(i))
        files.append((tmp_path / str(i) / "adapter_model.safetensors").read_bytes())
    assert files[0] == files[1] != files[2]


def test_trainable_parameters_are_counted(base: MakeBase) -> None:
    student = plain.open_student(base(num_hidden_layers=1, bits=4))
    count = student.prepare(LoraShape(4, 8, 0.0, ("q_proj", "down_proj")), optimizer="adamw", weight_decay=0, initial=None, seed=0)
    assert count == 4 * (64 + 64) + 4 * (128 + 64)


@pytest.mark.parametrize(("family", "there"), [("qwen2", "gate_proj, k_proj"), ("phi3", "down_proj, gate_up_proj, o_proj, qkv_proj")])
def test_an_unknown_projection_is_refused_with_those_that_are_there(base: MakeBase, family: str, there: str) -> None:
    student = plain.open_student(base(family, num_hidden_layers=1, tied=False))
    for target in ("query", "lm_head", "embed_tokens"):
        with pytest.raises(BackendError, match=f"no projection {target}") as caught:
            student.prepare(LoraShape(4, 8, 0.0, ("o_proj", target)), optimizer="adamw", weight_decay=0, initial=None, seed=0)
        assert there in str(caught.value.hint) and "lm_head" not in str(caught.value.hint)


def test_an_unknown_optimizer_is_refused(base: MakeBase) -> None:
    student = plain.open_student(base(num_hidden_layers=1))
    with pytest.raises(BackendError, match="'sgd'"):
        student.prepare(plain.shape_of(), optimizer="sgd", weight_decay=0, initial=None, seed=0)


def test_dropout_follows_from_seed_and_step_alone(base: MakeBase) -> None:
    folder, shape = base(num_hidden_layers=1), plain.shape_of(dropout=0.3)
    weights = plain.random_adapter(folder, shape)
    one, other, stranger = (prepared(folder, shape, weights=weights, seed=seed) for seed in (5, 5, 6))
    mx.random.seed(99)  # somebody else's draws change nothing
    other.update(two_groups(3), learning_rate=0.0, clip_norm=None, step=17)
    first, second, else_seed, else_step = (
        student.update(two_groups(), learning_rate=0.0, clip_norm=None, step=step).loss.nats
        for student, step in ((one, 4), (other, 4), (stranger, 4), (one, 5))
    )
    assert first == second
    assert len({first, else_seed, else_step}) == 3


def test_dropout_is_off_where_losses_are_measured(base: MakeBase) -> None:
    folder, shape = base(num_hidden_layers=1), plain.shape_of(dropout=0.3)
    weights = plain.random_adapter(folder, shape)
    student, groups = prepared(folder, shape, weights=weights), two_groups()
    expected = plain.row_nats(plain.plain_model(folder, weights, shape), groups)
    for _ in range(2):
        assert {name: loss.nats for name, loss in student.loss(groups).items()} == pytest.approx(expected, rel=1e-5)
        assert student.update(groups, learning_rate=0.0, clip_norm=None, step=0).loss.nats != pytest.approx(
            sum(expected.values()), rel=1e-3
        )


def test_with_dropout_the_gradient_is_the_slope_of_the_loss(base: MakeBase) -> None:
    """The prefix is forwarded twice, once for its values and once for its gradient: with the same neurons dropped."""
    folder, shape = base(num_hidden_layers=1), plain.shape_of(dropout=0.3)
    weights, group = plain.random_adapter(folder, shape), plain.random_group(np.random.default_rng(2), 12, [[3, 2], [4]])
    student = prepared(folder, shape, weights=weights)
    gradient = plain.our_gradient(student, [group], step=1)
    norm = np.sqrt(sum(float(np.square(value).sum()) for value in gradient.values()))
    start, losses = student._own.values(), []
    for sign in (1, -1):
        moved = {name: value + mx.array(sign * 1e-2 * gradient[name] / norm) for name, value in start.items()}
        student._set(list(moved), list(moved.values()))
        losses.append(student.update([group], learning_rate=0.0, clip_norm=None, step=1).loss.mean)
    assert (losses[0] - losses[1]) / 2e-2 == pytest.approx(norm, rel=1e-2)
