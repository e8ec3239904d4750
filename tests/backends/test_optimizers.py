"""Each optimizer steps as its reference does, keeps what it should, and finds it again to the byte."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file
from transformers.optimization import Adafactor

from mlx_distill.backends.base import LoraShape
from mlx_distill.backends.states import FILE, KINDS
from mlx_distill.errors import CheckpointError
from tests.backends import plain
from tests.backends.test_mlx_update import adapter_of, same, two_groups
from tests.conftest import MakeBase

Weights = dict[str, NDArray[np.float32]]
SHAPE = LoraShape(4, 8, 0.1, ("q_proj", "down_proj"), dora=True)
"""Matrices, and with DoRA vectors."""
RATES = (1e-2, 3e-3, 2e-2, 1e-3, 5e-3)
ALL = pytest.mark.parametrize("name", list(KINDS))


def prepared(base: Path, name: str, shape: LoraShape | None = SHAPE, *, decay: float = 0.0, seed: int = 0) -> Any:
    student = plain.open_student(base)
    initial = plain.random_adapter(base, shape, seed) if shape is not None else None
    student.prepare(shape, optimizer=name, weight_decay=decay, initial=initial, seed=seed)
    return student


def five(weights: Weights) -> list[Weights]:
    """Gradients of five steps, under PEFT's names: of most weights, a column of each matrix never has one."""
    generator = np.random.default_rng(3)
    drawn = [{name: generator.normal(0, 0.1, value.shape).astype(np.float32) for name, value in weights.items()} for _ in RATES]
    for gradients in drawn:
        for gradient in gradients.values():
            gradient[..., 0] = 0
    return drawn


def stepped(student: Any, steps: list[Weights]) -> Iterator[Weights]:
    """The weights after each step, under PEFT's names; the gradients are handed over by MLX's paths."""
    own = student._own
    for gradients, rate in zip(steps, RATES, strict=True):
        student._optimizer.apply({path: own.from_file(gradients[own.file_name(path)]) for path in own.values()}, rate)
        yield adapter_of(student)


def by_torch(weights: Weights, steps: list[Weights], made: Callable[[list[torch.Tensor]], torch.optim.Optimizer]) -> Iterator[Weights]:
    parameters = {name: torch.nn.Parameter(torch.tensor(value)) for name, value in weights.items()}
    optimizer = made(list(parameters.values()))
    for gradients, rate in zip(steps, RATES, strict=True):
        for name, parameter in parameters.items():
            parameter.grad = torch.tensor(gradients[name])
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
        yield {name: parameter.detach().numpy().copy() for name, parameter in parameters.items()}


def by_lion(weights: Weights, steps: list[Weights], decay: float) -> Iterator[Weights]:
    """Algorithm 2 of Chen et al., in float64, with their betas of 0.9 and 0.99."""
    values = {name: value.astype(np.float64) for name, value in weights.items()}
    means = {name: np.zeros_like(value) for name, value in values.items()}
    for gradients, rate in zip(steps, RATES, strict=True):
        for name, gradient in gradients.items():
            toward = np.sign(0.9 * means[name] + 0.1 * gradient)
            values[name] = values[name] - rate * (toward + decay * values[name])
            means[name] = 0.99 * means[name] + 0.01 * gradient
        yield {name: value.astype(np.float32) for name, value in values.items()}


def furthest(ours: Mapping[str, NDArray[np.float32]], theirs: Mapping[str, NDArray[np.float32]]) -> float:
    assert ours.keys() == theirs.keys()
    return max(float(np.abs(ours[name] - theirs[name]).max()) for name in ours)


def test_five_steps_of_adamw_are_torch_s(base: MakeBase) -> None:
    """MLX computes 1 - 0.999^t in float32, which makes the first steps longer or shorter by some 1e-5 of their length."""
    student = prepared(base(num_hidden_layers=1), "adamw", decay=0.1)
    weights = adapter_of(student)
    theirs = by_torch(weights, five(weights), lambda parameters: torch.optim.AdamW(parameters, weight_decay=0.1))
    for ours, their, rate in zip(stepped(student, five(weights)), theirs, np.cumsum(RATES), strict=True):
        assert furthest(ours, their) <= 5e-5 * rate + 3e-7


def test_five_steps_of_adafactor_are_those_of_transformers(base: MakeBase) -> None:
    """It is Shazeer and Stern's with the learning rate from outside; it factors the transpose of what MLX holds, and it is the same."""
    student = prepared(base(num_hidden_layers=1), "adafactor", decay=0.1)
    weights = adapter_of(student)
    theirs = by_torch(
        weights,
        five(weights),
        lambda parameters: Adafactor(parameters, lr=1.0, weight_decay=0.1, relative_step=False, scale_parameter=False),
    )
    for ours, their in zip(stepped(student, five(weights)), theirs, strict=True):
        assert furthest(ours, their) <= 5e-7


def test_a_step_of_torch_s_adafactor_is_as_long_for_weights_whose_rms_is_1(base: MakeBase) -> None:
    """torch's multiplies the learning rate by that RMS, and its epsilon is another; its first step shows the rest."""
    folder = base(num_hidden_layers=1)
    student = prepared(folder, "adafactor")
    weights = {name: value / np.float32(np.sqrt(np.mean(np.square(value)))) for name, value in adapter_of(student).items()}
    student._own.fill(weights)
    theirs = next(by_torch(weights, five(weights), lambda parameters: torch.optim.Adafactor(parameters)))
    assert furthest(next(stepped(student, five(weights))), theirs) <= 1e-6


def test_five_steps_of_lion_are_the_paper_s(base: MakeBase) -> None:
    student = prepared(base(num_hidden_layers=1), "lion", decay=0.1)
    weights = adapter_of(student)
    for ours, theirs in zip(stepped(student, five(weights)), by_lion(weights, five(weights), 0.1), strict=True):
        assert furthest(ours, theirs) <= 5e-7


@ALL
def test_weight_decay_takes_a_share_off_whatever_the_gradient_is(base: MakeBase, name: str) -> None:
    student = prepared(base(num_hidden_layers=1), name, decay=0.5)
    weights = adapter_of(student)
    nothing = [{name: np.zeros_like(value) for name, value in weights.items()} for _ in RATES]
    for share, ours in zip(np.cumprod([1 - rate * 0.5 for rate in RATES]), stepped(student, nothing), strict=True):
        assert furthest(ours, {name: value * np.float32(share) for name, value in weights.items()}) <= 1e-6


@ALL
@pytest.mark.parametrize("shape", [SHAPE, None], ids=["adapter", "whole"])
def test_five_steps_and_five_after_a_resume_are_ten_to_the_byte(base: MakeBase, tmp_path: Path, name: str, shape: LoraShape | None) -> None:
    folder = base(num_hidden_layers=1)
    whole, first, second = (prepared(folder, name, shape, decay=0.01, seed=3) for _ in range(3))
    for student, steps in ((whole, range(10)), (first, range(5)), (second, range(5, 10))):
        if student is second:
            first.save_state(tmp_path / "five")
            second.load_state(tmp_path / "five")
        for step in steps:
            student.update(two_groups(step), learning_rate=1e-3 * (step + 1), clip_norm=0.5, step=step)
    for place, student in (("whole", whole), ("resumed", second)):
        student.save_state(tmp_path / place)
    files = sorted(path.name for path in (tmp_path / "whole").iterdir())
    assert FILE in files
    for file in files:
        assert (tmp_path / "whole" / file).read_bytes() == (tmp_path / "resumed" / file).read_bytes(), file


@pytest.mark.parametrize("shape", [SHAPE, None], ids=["adapter", "whole"])
def test_adafactor_s_rows_and_columns_are_those_of_the_matrix_in_the_file(base: MakeBase, tmp_path: Path, shape: LoraShape | None) -> None:
    """After one step they are the means of the squares of the gradient, which here is known."""
    student = prepared(base(num_hidden_layers=1), "adafactor", shape)
    own = student._own
    generator = np.random.default_rng(1)
    gradients = {path: mx.array(generator.normal(0, 1, value.shape).astype(np.float32)) for path, value in own.values().items()}
    student._optimizer.apply(gradients, 1e-3)
    student.save_state(tmp_path)
    state = load_file(tmp_path / FILE)
    assert state.pop("step") == 1
    for path, gradient in gradients.items():
        name, square = own.file_name(path), np.square(own.to_file(gradient))
        wanted = {"v_row": square.mean(1), "v_col": square.mean(0)} if square.ndim == 2 else {"v": square}
        for kind, value in wanted.items():
            np.testing.assert_allclose(state.pop(f"{name}.{kind}"), value, rtol=1e-5)
    assert not state


@ALL
def test_the_checkpoint_of_another_optimizer_is_refused(base: MakeBase, tmp_path: Path, name: str) -> None:
    folder = base(num_hidden_layers=1)
    for shape in (SHAPE, replace(SHAPE, dora=False)):
        prepared(folder, name, shape).save_state(tmp_path / str(shape.dora))
        for other in KINDS.keys() - {name}:
            student = prepared(folder, other, shape, seed=1)
            before = adapter_of(student)
            with pytest.raises(CheckpointError, match=f"holds the state of {name}, and the optimizer is {other}") as caught:
                student.load_state(tmp_path / str(shape.dora))
            assert name in str(caught.value.hint)
            assert same(adapter_of(student), before)


def kept(student: Any) -> int:
    """How many numbers the optimizer's state has."""
    optimizer = student._optimizer
    return sum(optimizer.state[path][key].size for _, path, key in optimizer._places())


def test_the_state_of_lion_is_half_of_adamw_s_and_adafactor_s_is_next_to_nothing(base: MakeBase) -> None:
    folder = base(num_hidden_layers=1)
    trained = prepared(folder, "lion", None)
    parameters = sum(value.size for value in trained._own.values().values())
    assert kept(trained) == parameters
    assert kept(prepared(folder, "adamw", None)) == 2 * parameters
    assert kept(prepared(folder, "adafactor", None)) <= 0.05 * 2 * parameters
