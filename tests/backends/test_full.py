"""Full fine-tuning: the gradient of every weight is the plain computation's, what is saved answers the same, and the base comes back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from mlx_distill.backends import full
from mlx_distill.backends.base import Backend
from mlx_distill.backends.mlx.model import open_model
from mlx_distill.backends.mlx.student import MlxStudent
from mlx_distill.backends.mlx.trained import Whole
from mlx_distill.convert import convert
from mlx_distill.errors import BackendError, CheckpointError
from mlx_distill.records import Group
from tests.backends import plain
from tests.backends.test_mlx_update import adapter_of, prepared, same, two_groups
from tests.checkpoints import VOCABULARY, make_checkpoint
from tests.conftest import MakeBase

EVERYTHING = np.arange(VOCABULARY, dtype=np.int32)
IDS = plain.random_ids(np.random.default_rng(0), 12)


def whole(base: Path, *, seed: int = 0) -> Any:
    student = MlxStudent(base, {}, cast="float32")
    student.prepare(None, optimizer="adamw", weight_decay=0.0, initial=None, seed=seed)
    return student


def learn(student: Any, steps: range) -> Any:
    for step in steps:
        student.update(two_groups(step), learning_rate=1e-3, clip_norm=1.0, step=step)
    return student


def nats(student: Any, groups: list[Group]) -> dict[str, float]:
    return {name: loss.nats for name, loss in student.loss(groups).items()}


def answer(student: Any, adapter: str | None) -> Any:
    session = student.session(IDS[:4], adapter=adapter)
    (handle,) = session.admit([IDS[4:]])
    return session.read({handle: [-1]}, {handle: [EVERYTHING]})[handle][0]


@pytest.mark.parametrize(("family", "tied"), [("qwen2", True), ("llama", False), ("qwen3", True), ("phi3", True), ("gemma2", True)])
def test_the_gradient_of_every_weight_is_that_of_rows_forwarded_alone(backend: Backend, tmp_path: Path, family: str, tied: bool) -> None:
    source = make_checkpoint(tmp_path / "checkpoint", family, tied=tied)
    folder = convert(source, tmp_path / "base", backend=backend, bits=None, group_size=64).out
    closed = plain.random_group(np.random.default_rng(1), 5, [[6, 9]], closed=True)
    student, groups, model = whole(folder), [*two_groups(), closed], plain.plain_model(folder)
    model.unfreeze()
    theirs = plain.gradient(model, groups)
    assert theirs.keys() == load_file(folder / "model.safetensors").keys(), "embeddings, norms and biases too"
    assert plain.distance(plain.our_gradient(student, groups), theirs) <= 1e-5


def test_it_counts_every_weight_and_learns(base: MakeBase) -> None:
    folder = base()
    student = MlxStudent(folder, {}, cast="float32")
    count = student.prepare(None, optimizer="adamw", weight_decay=0.0, initial=None, seed=0)
    assert count == json.loads((folder / "base.json").read_text())["parameters"]
    groups = two_groups()
    before = sum(nats(student, groups).values())
    for step in range(8):
        student.update(groups, learning_rate=3e-3, clip_norm=None, step=step)
    assert sum(nats(student, groups).values()) < before / 2


def test_what_is_saved_answers_the_same_and_its_names_are_the_checkpoint_s(backend: Backend, base: MakeBase, tmp_path: Path) -> None:
    folder = base()
    student = learn(whole(folder), range(2))
    student.save_adapter(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["full_config.json", "model.safetensors"]
    assert load_file(tmp_path / full.WEIGHTS).keys() == load_file(folder / "model.safetensors").keys()
    opened = backend.open(folder, adapters={"run": tmp_path})
    np.testing.assert_array_equal(answer(opened, "run"), answer(student, None))
    assert nats(opened, two_groups()) == nats(student, two_groups())
    assert not np.array_equal(answer(opened, "run"), answer(backend.open(folder), None))


def test_a_resume_is_exact(base: MakeBase, tmp_path: Path) -> None:
    folder = base(num_hidden_layers=1)
    learn(whole(folder), range(2)).save_state(tmp_path / "two")
    resumed = whole(folder, seed=1)
    resumed.load_state(tmp_path / "two")
    learn(resumed, range(2, 4)).save_state(tmp_path / "resumed")
    learn(whole(folder, seed=1), range(4)).save_state(tmp_path / "whole")
    for path in (tmp_path / "whole").iterdir():
        assert path.read_bytes() == (tmp_path / "resumed" / path.name).read_bytes(), path.name


def test_steps_too_small_for_bfloat16_are_not_lost(backend: Backend, tmp_path: Path) -> None:
    source = make_checkpoint(tmp_path / "checkpoint", dtype="bfloat16", num_hidden_layers=1)
    folder = convert(source, tmp_path / "base", backend=backend, bits=None, group_size=64).out
    model = open_model(folder, None)
    trained, name = Whole(model, folder, alone=True), "model.norm.weight"
    trained.put_on()
    first = np.asarray(trained.values()[name])

    def loss(weight: mx.array) -> mx.array:
        trained.set({name: weight})
        return mx.square(plain.logits_of(model, IDS)).mean()

    for _ in range(4):
        weight = trained.values()[name]
        gradient = mx.grad(loss)(weight)
        assert gradient.dtype == mx.float32
        trained.set({name: weight - 1e-4 * mx.sign(gradient)})
    last = trained.values()[name]
    np.testing.assert_allclose(np.abs(np.asarray(last) - first), 4e-4, rtol=0.01)
    assert model.model.norm.weight.dtype == mx.bfloat16, "computed in the base's own type"
    assert mx.array_equal(model.model.norm.weight, last.astype(mx.bfloat16))


def test_base_adapter_and_trained_weights_are_put_on_in_turns(backend: Backend, base: MakeBase, tmp_path: Path) -> None:
    folder = base()
    learn(whole(folder), range(1)).save_adapter(tmp_path / "whole")
    prepared(folder, weights=plain.random_adapter(folder, plain.shape_of())).save_adapter(tmp_path / "lora")
    alone = {name: answer(backend.open(folder, adapters={name: tmp_path / name}), name) for name in ("whole", "lora")}
    student = backend.open(folder, adapters={name: tmp_path / name for name in ("whole", "lora")})
    bare = answer(backend.open(folder), None)
    for name in ("whole", None, "lora", "whole", "lora", None):
        np.testing.assert_array_equal(answer(student, name), bare if name is None else alone[name])


@pytest.mark.parametrize("unpack", [False, True])
def test_a_quantized_base_is_refused_with_a_way_out(base: MakeBase, unpack: bool) -> None:
    student = plain.open_student(base(bits=4), unpack=unpack)
    with pytest.raises(BackendError, match="quantized") as caught:
        student.prepare(None, optimizer="adamw", weight_decay=0.0, initial=None, seed=0)
    assert "bits: none" in str(caught.value.hint)


def test_first_values_may_be_given(base: MakeBase, tmp_path: Path) -> None:
    folder, student = base(), whole(base())
    learn(student, range(1))
    other = MlxStudent(folder, {}, cast="float32")
    other.prepare(None, optimizer="adamw", weight_decay=0.0, initial=adapter_of(student), seed=0)
    assert same(adapter_of(other), adapter_of(student))
    name = "model.norm.weight"
    for broken, message in (
        ({k: v for k, v in adapter_of(student).items() if k != name}, f"not of this base: {name}"),
        ({**adapter_of(student), name: np.ones(3, np.float32)}, f"{name} is"),
    ):
        with pytest.raises(BackendError, match=message) as caught:
            other.prepare(None, optimizer="adamw", weight_decay=0.0, initial=broken, seed=0)
        assert caught.value.hint


def test_damage_is_refused_with_the_place(backend: Backend, base: MakeBase, tmp_path: Path) -> None:
    folder = base(num_hidden_layers=1)
    whole(folder).save_adapter(tmp_path)
    file, weights = tmp_path / full.WEIGHTS, load_file(tmp_path / full.WEIGHTS)
    for damage, message in (
        (lambda: file.write_bytes(file.read_bytes()[:-4]), "bytes"),
        (lambda: save_file({**weights, "model.norm.weight": np.ones(64, np.float16)}, file), "F16"),
        (lambda: (tmp_path / full.CONFIG).write_text("{"), "no trained weights can be read"),
    ):
        damage()
        with pytest.raises(CheckpointError, match=message) as caught:
            backend.open(folder, adapters={"run": tmp_path})
        assert caught.value.hint and str(tmp_path) in str(caught.value.file)


def test_a_checkpoint_of_an_adapter_does_not_go_on_as_a_full_one(base: MakeBase, tmp_path: Path) -> None:
    folder = base(num_hidden_layers=1)
    prepared(folder).save_state(tmp_path / "lora")
    whole(folder).save_state(tmp_path / "whole")
    with pytest.raises(CheckpointError, match="no trained weights can be read"):
        whole(folder).load_state(tmp_path / "lora")
    with pytest.raises(CheckpointError, match="no adapter can be read"):
        prepared(folder).load_state(tmp_path / "whole")
