"""A base as PyTorch opens it: transformers' modules, every tensor of the files in its place, packed ones packed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from mlx_distill.backends.torch.model import Model, open_model
from mlx_distill.backends.torch.packed import PackedEmbedding, PackedLinear
from mlx_distill.errors import CheckpointError
from tests.checkpoints import FAMILIES
from tests.conftest import MakeBase


def opened(base: Path, *, dtype: torch.dtype = torch.float32, unpack: bool = False) -> Model:
    return open_model(base, device=torch.device("cpu"), dtype=dtype, unpack=unpack)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_tensor_of_the_files_lies_under_its_own_name_as_it_is(family: str, base: MakeBase) -> None:
    folder = base(family, bits=4)
    net = opened(folder).net
    for name, value in load_file(folder / "model.safetensors").items():
        there = dict([*net.named_parameters(), *net.named_buffers()])[name]
        stored = there.view(torch.uint32) if there.dtype == torch.int32 else there
        assert np.array_equal(stored.numpy(), value), name
    assert not any(tensor.is_meta for tensor in [*net.parameters(), *net.buffers()])
    assert not any(value.requires_grad for value in net.parameters())
    assert not net.training


def test_packed_weights_stay_packed_unless_they_are_to_be_unpacked(base: MakeBase) -> None:
    folder = base(bits=4)
    kinds = [type(module) for module in opened(folder).net.modules()]
    assert kinds.count(PackedLinear) == 14
    assert kinds.count(PackedEmbedding) == 1, "the embedding, which is the head too"
    packed, plain = opened(folder), opened(folder, unpack=True)
    assert not any(isinstance(module, (PackedLinear, PackedEmbedding)) for module in plain.net.modules())
    assert sum(tensor.nbytes for tensor in packed.net.buffers()) < 0.3 * sum(value.nbytes for value in plain.net.parameters())
    x, ids = torch.randn(5, 64), torch.tensor([3, 7])
    for rows in (None, ids):
        assert torch.allclose(packed.head.logits(x, rows), plain.head.logits(x, rows), atol=1e-5)
    weights = torch.rand(5, packed.head.vocabulary)
    assert torch.allclose(packed.head.mixed(weights), plain.head.mixed(weights), atol=1e-4)
    assert torch.allclose(packed.head.rows(ids), plain.head.rows(ids), atol=1e-6)


@pytest.mark.parametrize("bits", [None, 4])
@pytest.mark.parametrize("unpack", [False, True])
def test_a_head_that_is_the_embedding_takes_no_memory_of_its_own(bits: int | None, unpack: bool, base: MakeBase) -> None:
    model = opened(base(bits=bits), unpack=unpack)
    assert model.head.table.weight.data_ptr() == model.embedding.weight.data_ptr()
    untied = opened(base(bits=bits, tied=False), unpack=unpack)
    assert untied.head.table.weight.data_ptr() != untied.embedding.weight.data_ptr()


def test_what_is_not_packed_is_held_in_the_type_that_computes(base: MakeBase) -> None:
    net = opened(base(bits=4), dtype=torch.bfloat16).net
    assert {value.dtype for value in net.parameters()} == {torch.bfloat16}
    assert {value.dtype for name, value in net.named_buffers() if name.endswith(("scales", "biases"))} == {torch.bfloat16}


def broken(base: Path, into: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    shutil.copytree(base, into)
    weights = load_file(into / "model.safetensors")
    change(weights)
    save_file(weights, into / "model.safetensors")
    return into


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda weights: weights.pop("model.norm.weight"), "its files lack model.norm.weight"),
        (
            lambda weights: weights.update({"model.norm.weight": np.ones(5, np.float32)}),
            r"model.norm.weight is \(5,\); the config asks for \(64,\)",
        ),
        (lambda weights: weights.update({"model.layers.7.x": np.ones(5, np.float32)}), "model.layers.7.x has no place in a qwen2"),
    ],
)
def test_a_base_whose_files_do_not_fit_its_config_is_refused_by_the_tensors_name(
    change: Callable[[dict[str, Any]], None], said: str, base: MakeBase, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match=said) as refused:
        opened(broken(base(), tmp_path / "broken", change))
    assert refused.value.hint == "convert it again"


def test_what_is_no_base_is_refused_with_the_way_out(tmp_path: Path, base: MakeBase) -> None:
    with pytest.raises(CheckpointError, match="no base") as refused:
        opened(tmp_path)
    assert "mlx-distill convert" in str(refused.value.hint)
    shutil.copytree(base(), tmp_path / "torn")
    (tmp_path / "torn/config.json").write_text("[1, 2")
    with pytest.raises(CheckpointError, match="cannot be read"):
        opened(tmp_path / "torn")
    (tmp_path / "torn/config.json").write_text("[1, 2]")
    with pytest.raises(CheckpointError, match="no mapping"):
        opened(tmp_path / "torn")
    shutil.copytree(base(), tmp_path / "short")
    file = tmp_path / "short/model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="cannot be opened"):
        opened(tmp_path / "short")


def test_a_head_beside_the_embedding_that_it_is_tied_to_is_passed_over(base: MakeBase, tmp_path: Path) -> None:
    def add(weights: dict[str, Any]) -> None:
        weights["lm_head.weight"] = np.full((384, 64), 9, np.float32)

    model = opened(broken(base(), tmp_path / "two", add))
    assert float(model.head.table.weight.abs().max()) < 9


def test_the_config_that_is_told_of_its_packing_is_nobody_elses(base: MakeBase) -> None:
    """transformers would look for a quantizer of that name."""
    config = json.loads((base(bits=4) / "config.json").read_text())
    assert config["quantization_config"]["bits"] == 4
    assert getattr(opened(base(bits=4)).net.config, "quantization_config", None) is None
