"""What is trained, an adapter or all weights: where gradients arrive, what a step too small for bfloat16 does, and files that MLX reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from torch import Tensor

from mlx_distill.backends import full
from mlx_distill.backends.base import Backend, LoraShape
from mlx_distill.backends.torch import lora
from mlx_distill.backends.torch.model import Model
from mlx_distill.backends.torch.trained import Adapter, Trained, Whole
from mlx_distill.convert import convert
from mlx_distill.errors import BackendError, CheckpointError
from tests.backends import plain
from tests.backends.torch.test_lora import DORA, IDS, opened
from tests.checkpoints import make_checkpoint
from tests.conftest import MakeBase


def logits(model: Model) -> Tensor:
    out: Tensor = model.net(input_ids=IDS).logits.float()
    return out


def learned(model: Model, trained: Trained, times: int = 1) -> dict[str, Tensor]:
    """The gradient of a number that all logits make, so many times over."""
    trained.settle()
    trained.learn(True)
    for _ in range(times):
        logits(model).square().mean().backward()
    trained.learn(False)
    return {path: grad for path, value in trained.values().items() if (grad := value.grad) is not None}


def whole(base: Path, *, dtype: torch.dtype = torch.float32, alone: bool = True) -> tuple[Model, Whole]:
    model = opened(base, dtype=dtype)
    trained = Whole(model, base, alone=alone)
    trained.put_on()
    return model, trained


@pytest.mark.parametrize(("family", "tied"), [("qwen2", True), ("llama", False), ("phi3", True), ("gemma2", True)])
def test_all_weights_have_the_checkpoint_s_names_and_autograd_s_gradients(
    backend: Backend, tmp_path: Path, family: str, tied: bool
) -> None:
    source = make_checkpoint(tmp_path / "checkpoint", family, tied=tied)
    folder = convert(source, tmp_path / "base", backend=backend, bits=None, group_size=64).out
    found = learned(*whole(folder))
    plainly = opened(folder)
    plainly.net.requires_grad_(True)
    logits(plainly).square().mean().backward()
    wanted = {path: weight.grad for path, weight in plainly.net.named_parameters()}
    assert list(found) == sorted(wanted) == sorted(load_file(folder / "model.safetensors"))
    for path in found:
        torch.testing.assert_close(found[path], wanted[path])


def test_after_learning_nothing_asks_for_a_gradient(base: MakeBase) -> None:
    folder = base()
    model, trained = whole(folder)
    bare = opened(folder)
    adapter = Adapter(bare, lora.linears(bare.net), DORA, plain.random_adapter(folder, DORA))
    adapter.put_on()
    for each, own in ((model, trained), (bare, adapter)):
        learned(each, own)
        assert not logits(each).requires_grad
        assert not any(parameter.requires_grad for parameter in each.net.parameters())


def test_an_adapter_s_gradient_reaches_its_values_alone(base: MakeBase) -> None:
    folder = base()
    model = opened(folder)
    adapter = Adapter(model, lora.linears(model.net), DORA, plain.random_adapter(folder, DORA))
    adapter.put_on()
    found = learned(model, adapter)
    assert list(found) == list(adapter.values()) == sorted(found)
    assert all(bool(gradient.any()) for gradient in found.values())
    assert all(weight.grad is None for path, weight in model.net.named_parameters() if "lora" not in path and "magnitude" not in path)


def test_dropout_is_on_while_learning_alone(base: MakeBase) -> None:
    folder, shape = base(), LoraShape(4, 8, 0.5, ("q_proj", "up_proj"))
    model = opened(folder)
    adapter = Adapter(model, lora.linears(model.net), shape, plain.random_adapter(folder, shape))
    adapter.put_on()
    before = logits(model)
    adapter.learn(True)
    for key in (1, 2):
        adapter.draw(key)
        assert not torch.allclose(logits(model), before)
    adapter.learn(False)
    assert torch.equal(logits(model), before)


# A model of fewer bits


def half(backend: Backend, folder: Path) -> Path:
    source = make_checkpoint(folder / "checkpoint", dtype="bfloat16", num_hidden_layers=1)
    return convert(source, folder / "base", backend=backend, bits=None, group_size=64).out


def test_steps_too_small_for_bfloat16_are_not_lost(backend: Backend, tmp_path: Path) -> None:
    model, trained = whole(half(backend, tmp_path), dtype=torch.bfloat16)
    name = "model.norm.weight"
    first = trained.values()[name].detach().clone()
    shown = model.net.model.norm.weight.clone()
    with torch.no_grad():
        for _ in range(40):
            trained.values()[name].add_(1e-4)
            trained.settle()
    last = trained.values()[name]
    torch.testing.assert_close(last - first, torch.full_like(first, 4e-3), rtol=0.01, atol=0.0)
    assert model.net.model.norm.weight.dtype == torch.bfloat16, "computed in the base's own type"
    assert torch.equal(model.net.model.norm.weight, last.bfloat16())
    assert not torch.equal(model.net.model.norm.weight, shown)


def test_gradients_of_a_bfloat16_model_are_added_up_in_float32_and_the_weights_keep_none(backend: Backend, tmp_path: Path) -> None:
    folder = half(backend, tmp_path)
    once, often = (learned(*whole(folder, dtype=torch.bfloat16), times=times) for times in (1, 3))
    for path, gradient in often.items():
        assert gradient.dtype == torch.float32
        torch.testing.assert_close(gradient, 3 * once[path], rtol=1e-6, atol=0.0)
    model, trained = whole(folder, dtype=torch.bfloat16)
    learned(model, trained)
    assert all(weight.grad is None for weight in model.net.parameters())
    wanted = learned(*whole(folder))
    distances = [float((once[path] - wanted[path]).norm() / wanted[path].norm()) for path in wanted]
    assert max(distances) <= 0.05


# Several, in turns


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_base_adapter_and_trained_weights_are_put_on_in_turns(base: MakeBase, dtype: torch.dtype) -> None:
    folder = base()
    model = opened(folder, dtype=dtype)
    bare = lora.linears(model.net)
    adapter = Adapter(model, bare, DORA, plain.random_adapter(folder, DORA))
    weights = Whole(model, folder, alone=False)
    weights.fill({path: value.detach().numpy() * np.float32(1.5) for path, value in weights.values().items()})
    base_s = logits(model)
    said: dict[str, Tensor] = {}
    turns: list[tuple[str, Any]] = [("adapter", adapter), ("whole", weights)]
    for name, trained in turns * 2:
        trained.put_on()
        trained.settle()
        assert torch.equal(said.setdefault(name, logits(model)), logits(model))
        trained.take_off()
        assert torch.equal(logits(model), base_s)
    assert not torch.allclose(said["adapter"], base_s) and not torch.allclose(said["whole"], base_s)
    assert not torch.allclose(said["adapter"], said["whole"])


# Files


@pytest.mark.parametrize("shape", [DORA, None], ids=["adapter", "whole"])
def test_mlx_reads_what_torch_writes_and_writes_the_same_bytes(base: MakeBase, tmp_path: Path, shape: LoraShape | None) -> None:
    folder = base()
    model = opened(folder)
    trained: Any = Whole(model, folder, alone=True) if shape is None else Adapter(model, lora.linears(model.net), shape)
    generator = np.random.default_rng(0)
    trained.fill(
        {trained.file_name(path): generator.normal(0, 1, value.shape).astype(np.float32) for path, value in trained.values().items()}
    )
    trained.save(tmp_path / "torch", base="tiny")
    student = plain.open_student(folder)
    student.prepare(shape, optimizer="adamw", weight_decay=0.0, initial=None, seed=0)
    theirs = student._own
    theirs.fill(theirs.read(tmp_path / "torch"))
    theirs.save(tmp_path / "mlx", base="tiny")
    trained.fill(trained.read(tmp_path / "mlx"))
    trained.save(tmp_path / "again", base="tiny")
    for path in (tmp_path / "torch").iterdir():
        assert path.read_bytes() == (tmp_path / "mlx" / path.name).read_bytes() == (tmp_path / "again" / path.name).read_bytes()


def test_a_checkpoint_of_another_shape_or_kind_is_refused(base: MakeBase, tmp_path: Path) -> None:
    folder = base()
    _, trained = whole(folder)
    trained.save(tmp_path / "whole", base="tiny")
    bare = opened(folder)
    adapter, other = (Adapter(bare, lora.linears(bare.net), LoraShape(rank, 8, 0.0, ("q_proj",))) for rank in (4, 8))
    adapter.save(tmp_path / "lora", base="tiny")
    for own, place, message in (
        (other, "lora", "the checkpoint's adapter is"),
        (adapter, "whole", "no adapter can be read"),
        (trained, "lora", "no trained weights can be read"),
    ):
        with pytest.raises(CheckpointError, match=message):
            own.read(tmp_path / place)
    assert full.is_full(tmp_path / "whole") and not full.is_full(tmp_path / "lora")


# What cannot be trained


@pytest.mark.parametrize("unpack", [False, True])
def test_a_quantized_base_is_refused_with_a_way_out(base: MakeBase, unpack: bool) -> None:
    folder = base(bits=4)
    with pytest.raises(BackendError, match="quantized") as caught:
        Whole(opened(folder, unpack=unpack), folder, alone=True)
    assert "bits: none" in str(caught.value.hint)


def test_weights_of_another_base_are_refused_and_nothing_is_set(base: MakeBase) -> None:
    model, trained = whole(base())
    before, name = logits(model), "model.norm.weight"
    weights = {path: value.detach().numpy() * np.float32(2) for path, value in trained.values().items()}
    for broken, message in (
        ({path: value for path, value in weights.items() if path != name}, f"not of this base: {name}"),
        ({**weights, name: np.ones(3, np.float32)}, f"{name} is"),
    ):
        with pytest.raises(BackendError, match=message) as caught:
            trained.fill(broken)
        assert caught.value.hint
    assert torch.equal(logits(model), before)
