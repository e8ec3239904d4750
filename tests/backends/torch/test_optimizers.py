"""PyTorch's steps are MLX's, and a run goes on with the other from the very file that the one has written."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file

from mlx_distill.backends.base import LoraShape
from mlx_distill.backends.states import FILE, KINDS
from mlx_distill.backends.torch import lora
from mlx_distill.backends.torch.optimizers import Optimizer
from mlx_distill.backends.torch.trained import Adapter, Whole
from mlx_distill.errors import BackendError, CheckpointError
from tests.backends import plain
from tests.backends.torch.test_lora import opened
from tests.conftest import MakeBase

Weights = dict[str, NDArray[np.float32]]
SHAPE = LoraShape(4, 8, 0.0, ("q_proj", "down_proj"), dora=True)
"""Matrices, and with DoRA vectors."""
ALL = pytest.mark.parametrize("name", list(KINDS))
BOTH = pytest.mark.parametrize("shape", [SHAPE, None], ids=["adapter", "whole"])
DECAY = 0.1


class Mlx:
    """What a student of MLX trains, and its optimizer, in NumPy under the names of files."""

    def __init__(self, base: Path, name: str, shape: LoraShape | None):
        student = plain.open_student(base)
        initial = None if shape is None else plain.random_adapter(base, shape)
        student.prepare(shape, optimizer=name, weight_decay=DECAY, initial=initial, seed=0)
        self.own: Any = student._own
        self.optimizer: Any = student._optimizer

    def apply(self, gradients: Weights, rate: float) -> None:
        self.optimizer.apply({path: self.own.from_file(gradients[self.own.file_name(path)]) for path in self.own.values()}, rate)

    def weights(self) -> Weights:
        return {self.own.file_name(path): np.array(self.own.to_file(value)) for path, value in self.own.values().items()}


class Torch:
    """The same of PyTorch."""

    def __init__(self, base: Path, name: str, shape: LoraShape | None):
        model = opened(base)
        if shape is None:
            self.own: Any = Whole(model, base, alone=True)
        else:
            self.own = Adapter(model, lora.linears(model.net), shape, plain.random_adapter(base, shape))
        self.optimizer = Optimizer(name, self.own, weight_decay=DECAY)

    def apply(self, gradients: Weights, rate: float) -> None:
        self.optimizer.apply({path: torch.tensor(gradients[self.own.file_name(path)]) for path in self.own.values()}, rate)

    def weights(self) -> Weights:
        return {self.own.file_name(path): value.detach().numpy().copy() for path, value in self.own.values().items()}


def learn(one: Mlx | Torch, steps: range) -> Mlx | Torch:
    """Random gradients; of most weights, a column of each matrix never has one."""
    weights = one.weights()
    for step in steps:
        generator = np.random.default_rng([3, step])
        gradients = {name: generator.normal(0, 0.1, weights[name].shape).astype(np.float32) for name in sorted(weights)}
        for gradient in gradients.values():
            gradient[..., 0] = 0
        one.apply(gradients, 1e-3 * (1 + step % 5))
    return one


def save(one: Mlx | Torch, folder: Path) -> Path:
    one.own.save(folder, base="tiny")
    one.optimizer.save(folder)
    return folder


def load(one: Mlx | Torch, folder: Path) -> Mlx | Torch:
    one.own.fill(one.own.read(folder))
    one.optimizer.adopt(one.optimizer.read(folder))
    return one


def furthest(one: Weights, other: Weights) -> float:
    assert one.keys() == other.keys()
    return max(float(np.abs(one[name] - other[name]).max()) for name in one)


@ALL
@BOTH
def test_twenty_steps_are_mlx_s(base: MakeBase, name: str, shape: LoraShape | None) -> None:
    folder = base(num_hidden_layers=1)
    ours, theirs = (learn(kind(folder, name, shape), range(20)) for kind in (Torch, Mlx))
    assert furthest(ours.weights(), theirs.weights()) <= 1e-6
    assert furthest(ours.weights(), Torch(folder, name, shape).weights()) > 1e-2


@ALL
@BOTH
@pytest.mark.parametrize(("first", "second"), [(Mlx, Torch), (Torch, Mlx)], ids=["mlx to torch", "torch to mlx"])
def test_what_one_has_begun_the_other_goes_on_with(
    base: MakeBase, tmp_path: Path, name: str, shape: LoraShape | None, first: Any, second: Any
) -> None:
    folder = base(num_hidden_layers=1)
    written = save(learn(first(folder, name, shape), range(7)), tmp_path / "seven")
    resumed = load(second(folder, name, shape), written)
    again = save(resumed, tmp_path / "again")
    assert {path.name: path.read_bytes() for path in written.iterdir()} == {path.name: path.read_bytes() for path in again.iterdir()}
    whole = learn(first(folder, name, shape), range(20))
    assert furthest(learn(resumed, range(7, 20)).weights(), whole.weights()) <= 1e-6


@ALL
@BOTH
def test_seven_steps_and_thirteen_after_a_resume_are_twenty_to_the_byte(
    base: MakeBase, tmp_path: Path, name: str, shape: LoraShape | None
) -> None:
    folder = base(num_hidden_layers=1)
    save(learn(Torch(folder, name, shape), range(7)), tmp_path / "seven")
    save(learn(load(Torch(folder, name, shape), tmp_path / "seven"), range(7, 20)), tmp_path / "resumed")
    save(learn(Torch(folder, name, shape), range(20)), tmp_path / "whole")
    for path in (tmp_path / "whole").iterdir():
        assert path.read_bytes() == (tmp_path / "resumed" / path.name).read_bytes(), path.name


@BOTH
def test_adafactor_s_rows_and_columns_are_those_of_the_matrix_in_the_file(base: MakeBase, tmp_path: Path, shape: LoraShape | None) -> None:
    """After one step they are the means of the squares of the gradient."""
    one = Torch(base(num_hidden_layers=1), "adafactor", shape)
    generator = np.random.default_rng(1)
    gradients = {name: generator.normal(0, 1, value.shape).astype(np.float32) for name, value in one.weights().items()}
    one.apply(gradients, 1e-3)
    one.optimizer.save(tmp_path)
    state = load_file(tmp_path / FILE)
    assert state.pop("step") == 1
    for name, gradient in gradients.items():
        square = np.square(gradient)
        wanted = {"v_row": square.mean(1), "v_col": square.mean(0)} if square.ndim == 2 else {"v": square}
        for kind, value in wanted.items():
            np.testing.assert_allclose(state.pop(f"{name}.{kind}"), value, rtol=1e-5)
    assert not state


@ALL
def test_before_the_first_step_the_state_is_saved_and_read_too(base: MakeBase, tmp_path: Path, name: str) -> None:
    folder = base(num_hidden_layers=1)
    save(Torch(folder, name, SHAPE), tmp_path / "torch")
    save(Mlx(folder, name, SHAPE), tmp_path / "mlx")
    assert (tmp_path / "torch" / FILE).read_bytes() == (tmp_path / "mlx" / FILE).read_bytes()
    load(Torch(folder, name, SHAPE), tmp_path / "mlx")


@ALL
@BOTH
def test_weights_that_a_model_of_fewer_bits_shows_follow_after_a_step(base: MakeBase, name: str, shape: LoraShape | None) -> None:
    """A step changes the values in place; whatever was computed of the old ones must not stay."""
    folder = base(num_hidden_layers=1)
    model = opened(folder, dtype=torch.bfloat16)
    own: Any = Whole(model, folder, alone=True)
    if shape is not None:
        own = Adapter(model, lora.linears(model.net), shape, plain.random_adapter(folder, shape))
    own.put_on()
    ids = torch.arange(9)[None]
    own.settle()
    before = model.net(input_ids=ids).logits
    optimizer = Optimizer(name, own, weight_decay=0.0)
    optimizer.apply({path: torch.ones_like(value) for path, value in own.values().items()}, 0.05)
    own.settle()
    after = model.net(input_ids=ids).logits
    own.fill({own.file_name(path): value.detach().numpy() for path, value in own.values().items()})
    own.settle()
    assert not torch.equal(before, after)
    assert torch.equal(model.net(input_ids=ids).logits, after)


@ALL
def test_the_state_of_another_optimizer_or_a_damaged_one_is_refused_and_changes_nothing(base: MakeBase, tmp_path: Path, name: str) -> None:
    folder = base(num_hidden_layers=1)
    save(learn(Torch(folder, name, SHAPE), range(1)), tmp_path)
    for other in KINDS.keys() - {name}:
        with pytest.raises(CheckpointError, match=f"holds the state of {name}, and the optimizer is {other}") as caught:
            load(Torch(folder, other, SHAPE), tmp_path)
        assert name in str(caught.value.hint)
    with pytest.raises(CheckpointError, match=r"cannot be read: .* is missing"):
        Torch(folder, name, LoraShape(4, 8, 0.0, ("q_proj", "v_proj"), dora=True)).optimizer.read(tmp_path)
    with pytest.raises(CheckpointError, match=r"cannot be read: .* is F32 .*, and not F32"):
        Torch(folder, name, LoraShape(5, 8, 0.0, ("q_proj", "down_proj"), dora=True)).optimizer.read(tmp_path)


def test_an_optimizer_that_there_is_not_is_refused(base: MakeBase) -> None:
    with pytest.raises(BackendError, match="no optimizer named 'sgd'") as caught:
        Torch(base(num_hidden_layers=1), "sgd", SHAPE)
    assert "adamw, adafactor, lion" in str(caught.value.hint)


def kept(one: Mlx | Torch) -> int:
    """How many numbers the optimizer's state has."""
    return sum(math.prod(shape) for shape in one.optimizer._shapes().values())


def test_the_state_of_lion_is_half_of_adamw_s_and_adafactor_s_is_next_to_nothing(base: MakeBase) -> None:
    folder = base(num_hidden_layers=1)
    sizes = {name: kept(Torch(folder, name, None)) for name in KINDS}
    assert sizes["adamw"] == 2 * sizes["lion"]
    assert sizes["adafactor"] <= 0.05 * sizes["adamw"]
    assert sizes == {name: kept(Mlx(folder, name, None)) for name in KINDS}
