"""A student that was saved and loaded goes on as if nothing had happened, to the byte; and damage is noticed before anything changes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from mlx_distill.backends.base import LoraShape
from mlx_distill.errors import BackendError, CheckpointError
from tests.backends import plain
from tests.backends.test_mlx_update import adapter_of, prepared, same, two_groups
from tests.conftest import MakeBase

SHAPE = LoraShape(4, 8, 0.1, ("v_proj", "q_proj", "down_proj"))
FILES = ("adapter_config.json", "adapter_model.safetensors", "optimizer.safetensors")


def learn(student: Any, steps: range) -> None:
    for step in steps:
        student.update(two_groups(step), learning_rate=1e-3 * (step + 1), clip_norm=0.5, step=step)


@plain.FORMS
def test_five_steps_and_five_after_a_resume_are_ten_to_the_byte(base: MakeBase, tmp_path: Path, bits: int | None, unpack: bool) -> None:
    folder = base(num_hidden_layers=1, bits=bits)
    whole, first, second = (prepared(folder, SHAPE, decay=0.01, seed=seed, unpack=unpack) for seed in (3, 3, 3))
    learn(whole, range(10))
    learn(first, range(5))
    first.save_state(tmp_path / "five")
    second.load_state(tmp_path / "five")
    learn(second, range(5, 10))
    for name, student in (("whole", whole), ("resumed", second)):
        student.save_state(tmp_path / name)
    for file in FILES:
        assert (tmp_path / "whole" / file).read_bytes() == (tmp_path / "resumed" / file).read_bytes(), file


def test_the_state_lies_under_peft_s_names_in_peft_s_orientation(base: MakeBase, tmp_path: Path) -> None:
    student = prepared(base(num_hidden_layers=11, hidden_size=32, intermediate_size=32), SHAPE)
    learn(student, range(1))
    student.save_state(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == list(FILES)
    weights, state = (load_file(tmp_path / file) for file in FILES[1:])
    assert len(weights) == 11 * 3 * 2
    assert weights["base_model.model.model.layers.10.self_attn.q_proj.lora_A.weight"].shape == (4, 32)
    assert weights["base_model.model.model.layers.10.self_attn.v_proj.lora_B.weight"].shape == (16, 4)
    assert state.pop("step") == 1
    assert {name: value.shape for name, value in state.items()} == {
        f"{name}.{moment}": value.shape for name, value in weights.items() for moment in "mv"
    }
    assert all(value.dtype == np.float32 for value in (*weights.values(), *state.values()))
    assert json.loads((tmp_path / FILES[0]).read_text())["r"] == 4


def test_what_an_adapter_folder_holds_is_what_is_trained_on(base: MakeBase, tmp_path: Path) -> None:
    folder = base(num_hidden_layers=11, hidden_size=32, intermediate_size=32)
    weights = plain.random_adapter(folder, SHAPE)
    student = prepared(folder, SHAPE, weights=weights)
    assert same(adapter_of(student), weights)
    student.save_adapter(tmp_path)
    assert same(load_file(tmp_path / FILES[1]), weights)


def test_values_of_another_base_are_refused(base: MakeBase) -> None:
    folder = base(num_hidden_layers=1)
    weights = plain.random_adapter(folder, SHAPE)
    name = next(iter(weights))
    for broken, message in (
        ({key: value for key, value in weights.items() if key != name}, "not of this base"),
        ({**weights, "other": weights[name]}, "not of this base: other"),
        ({**weights, name: weights[name][:, 1:]}, f"{name} is"),
    ):
        with pytest.raises(BackendError, match=message) as caught:
            prepared(folder, SHAPE, weights=broken)
        assert caught.value.hint


def test_a_checkpoint_of_another_shape_is_refused(base: MakeBase, tmp_path: Path) -> None:
    folder = base(num_hidden_layers=1)
    prepared(folder, SHAPE).save_state(tmp_path)
    for shape in (LoraShape(8, 8, 0.1, SHAPE.targets), LoraShape(4, 8, 0.1, ("q_proj",))):
        with pytest.raises(CheckpointError, match="the checkpoint's adapter is"):
            prepared(folder, shape).load_state(tmp_path)
    prepared(folder, LoraShape(4, 8, 0.1, SHAPE.targets[::-1])).load_state(tmp_path)


def test_a_damaged_state_is_refused_and_changes_nothing(base: MakeBase, tmp_path: Path) -> None:
    folder = base(num_hidden_layers=1)
    other, student = (prepared(folder, SHAPE, seed=seed) for seed in (1, 2))
    learn(other, range(1))
    before = adapter_of(student)
    other.save_state(tmp_path)
    file = tmp_path / FILES[2]
    state = load_file(file)
    name = min(set(state) - {"step"})
    without = {key: value for key, value in state.items() if key != name}
    for broken in (without, {**state, name: state[name][1:]}, {key: value for key, value in state.items() if key != "step"}, None):
        file.write_bytes(b"\x00" * 40) if broken is None else save_file(broken, file)
        with pytest.raises(CheckpointError, match="optimizer"):
            student.load_state(tmp_path)
        assert same(adapter_of(student), before)
    file.unlink()
    with pytest.raises(CheckpointError, match="optimizer"):
        student.load_state(tmp_path)
    (tmp_path / FILES[1]).write_bytes(b"")
    with pytest.raises(CheckpointError, match="no adapter can be read"):
        student.load_state(tmp_path)
