"""An adapter's files are PEFT's; its first values follow from the seed and its name; what cannot be read is refused with a way out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from mlx_distill.backends import lora
from mlx_distill.backends.base import LoraShape
from mlx_distill.errors import BackendError, CheckpointError

MODULES = {"model.layers.0.self_attn.q_proj": (64, 32), "model.layers.10.mlp.down_proj": (128, 64)}
A, B = (f"base_model.model.model.layers.0.self_attn.q_proj.lora_{which}.weight" for which in "AB")
SHAPE = LoraShape(8, 16, 0.05, ("q_proj", "down_proj"))


def saved(folder: Path, **changes: Any) -> Path:
    """An adapter whose config is changed afterwards."""
    lora.save(folder, lora.initial(MODULES, 8, seed=0), SHAPE, base="tiny")
    config = json.loads((folder / lora.CONFIG).read_text()) | changes
    (folder / lora.CONFIG).write_text(json.dumps({key: value for key, value in config.items() if value != "absent"}))
    return folder


def test_first_values_are_peft_s_a_uniform_and_b_zero() -> None:
    weights = lora.initial(MODULES, 8, seed=0)
    assert weights[A].shape == (8, 64) and weights[B].shape == (32, 8)
    assert not weights[B].any()
    assert np.abs(weights[A]).max() <= 64**-0.5 and weights[A].std() == pytest.approx(64**-0.5 / 3**0.5, rel=0.1)
    assert all(value.dtype == np.float32 for value in weights.values())


def test_first_values_follow_from_seed_and_name_whatever_else_is_adapted() -> None:
    last = "model.layers.10.mlp.down_proj"
    name = lora.names(last)[0]
    both, alone, other = (lora.initial(modules, 8, seed) for modules, seed in ((MODULES, 0), ({last: (128, 64)}, 0), (MODULES, 1)))
    np.testing.assert_array_equal(both[name], alone[name])
    assert not np.array_equal(both[name], other[name])
    assert not np.array_equal(both[A] * 64**0.5, both[name][:, :64] * 128**0.5)


def test_first_values_stay_those_of_this_version() -> None:
    """A seed in a recipe means the same start on every machine, backend and version."""
    np.testing.assert_allclose(lora.initial(MODULES, 8, seed=0)[A][0, :3], [-0.034194216, -0.056613475, 0.10324968], rtol=1e-6)


def test_the_files_are_peft_s(tmp_path: Path) -> None:
    saved(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]
    weights = load_file(tmp_path / "adapter_model.safetensors")
    assert {name: value.shape for name, value in weights.items()} == {
        A: (8, 64), B: (32, 8),
        A.replace("0.self_attn.q_proj", "10.mlp.down_proj"): (8, 128),
        B.replace("0.self_attn.q_proj", "10.mlp.down_proj"): (64, 8),
    }  # fmt: skip
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    wanted = {"peft_type": "LORA", "r": 8, "lora_alpha": 16, "lora_dropout": 0.05, "bias": "none", "task_type": "CAUSAL_LM"}
    assert config.items() >= wanted.items() and sorted(config["target_modules"]) == ["down_proj", "q_proj"]


def test_what_was_saved_is_read_again(tmp_path: Path) -> None:
    weights, shape = lora.load(saved(tmp_path))
    assert lora.same(shape, SHAPE), "the order of the targets means nothing"
    expected = lora.initial(MODULES, 8, seed=0)
    assert weights.keys() == expected.keys()
    assert all(np.array_equal(weights[name], expected[name]) for name in weights)


@pytest.mark.parametrize(
    "changed",
    [{"rank": 4}, {"alpha": 8}, {"dropout": 0.0}, {"targets": ("q_proj",)}, {"layers": 1}, {"rslora": True}, {"dora": True}],
)
def test_another_shape_is_not_the_same(changed: dict[str, Any]) -> None:
    values = {"rank": 8, "alpha": 16, "dropout": 0.05, "targets": ("q_proj", "down_proj")}
    assert not lora.same(SHAPE, LoraShape(**{**values, **changed}))


@pytest.mark.parametrize("dtype", [mx.bfloat16, mx.float16])
def test_half_precision_is_read_as_it_is(tmp_path: Path, dtype: mx.Dtype) -> None:
    saved(tmp_path)
    halves = {name: mx.array(value).astype(dtype) for name, value in lora.initial(MODULES, 8, seed=0).items()}
    mx.save_safetensors(str(tmp_path / "adapter_model.safetensors"), halves)
    weights, _ = lora.load(tmp_path)
    assert all(np.array_equal(weights[name], np.asarray(value.astype(mx.float32))) for name, value in halves.items())


@pytest.mark.parametrize("written", [".*(q_proj|down_proj)", ["self_attn.q_proj", "model.layers.10.mlp.down_proj"]])
def test_whatever_way_the_targets_are_written_the_tensors_say_which_they_are(tmp_path: Path, written: Any) -> None:
    assert lora.load(saved(tmp_path, target_modules=written))[1].targets == ("down_proj", "q_proj")


@pytest.mark.parametrize("changes", [{"target_modules": ["q_proj"]}, {"target_modules": ["n_proj"]}, {"layers_to_transform": [0]}])
def test_tensors_that_the_config_does_not_target_are_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(CheckpointError, match="does not target") as caught:
        lora.load(saved(tmp_path, **changes))
    assert caught.value.hint


@pytest.mark.parametrize("key", ["kasa_config", "use_qalora", "fan_in_fan_out", "lora_bias"])
def test_what_peft_would_compute_otherwise_is_refused(tmp_path: Path, key: str) -> None:
    with pytest.raises(CheckpointError, match=f"with {key} are not supported"):
        lora.load(saved(tmp_path, **{key: True}))


@pytest.mark.parametrize(
    "changes", [{"bias": "all"}, {"rank_pattern": {"q_proj": 4}}, {"alpha_pattern": {"q_proj": 4}}, {"modules_to_save": ["lm_head"]}]
)
def test_other_extras_of_peft_are_refused_by_name(tmp_path: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(CheckpointError, match=next(iter(changes))) as caught:
        lora.load(saved(tmp_path, **changes))
    assert caught.value.hint and str(tmp_path) in str(caught.value.file)


@pytest.mark.parametrize("start", ["pissa", "pissa_niter_4", "olora", "loftq"])
def test_an_adapter_that_goes_with_changed_base_weights_is_refused(tmp_path: Path, start: str) -> None:
    with pytest.raises(CheckpointError, match=f"began as '{start}'") as caught:
        lora.load(saved(tmp_path, init_lora_weights=start))
    assert "path_initial_model_for_weight_conversion" in str(caught.value.hint)
    assert lora.load(saved(tmp_path, init_lora_weights="gaussian"))


def test_config_and_tensors_must_not_contradict_each_other(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"lacks base_model.*lora_magnitude_vector"):
        lora.load(saved(tmp_path, use_dora=True))
    with pytest.raises(CheckpointError, match=r"has the ranks \(8, 8\); r is 4"):
        lora.load(saved(tmp_path, r=4))
    weights = lora.initial(MODULES, 8, seed=0)
    lora.save(tmp_path, weights | {lora.magnitude_name("model.layers.10.mlp.down_proj"): np.ones(64, np.float32)}, SHAPE, base="tiny")
    with pytest.raises(CheckpointError, match=r"use_dora false and yet base_model.*lora_magnitude_vector"):
        lora.load(tmp_path)
    lora.save(tmp_path, {name: value for name, value in weights.items() if name != B}, SHAPE, base="tiny")
    with pytest.raises(CheckpointError, match=r"lacks base_model.*lora_B"):
        lora.load(tmp_path)


def test_a_tensor_that_is_no_adapter_s_is_refused_by_name(tmp_path: Path) -> None:
    other = "base_model.model.model.embed_tokens.lora_embedding_A"
    saved(tmp_path)
    save_file(lora.initial(MODULES, 8, seed=0) | {other: np.ones((8, 8), np.float32)}, tmp_path / lora.WEIGHTS)
    with pytest.raises(CheckpointError, match=f"{other} is no tensor"):
        lora.load(tmp_path)


@pytest.mark.parametrize(("rslora", "scale"), [(False, 0.5), (True, 2.0)])
def test_the_scale_is_alpha_by_rank_or_by_its_root(rslora: bool, scale: float) -> None:
    assert LoraShape(16, 8, 0.0, ("q_proj",), rslora=rslora).scale == scale


def test_the_last_layers_are_chosen_by_their_numbers(tmp_path: Path) -> None:
    modules = [f"model.layers.{i}.mlp.{name}" for i in range(12) for name in ("up_proj", "down_proj")]
    shape = LoraShape(8, 16, 0.05, ("up_proj",), layers=2)
    last = lora.chosen(modules, shape)
    assert last == ["model.layers.10.mlp.up_proj", "model.layers.11.mlp.up_proj"]
    lora.save(tmp_path, lora.initial(dict.fromkeys(last, (64, 64)), 8, seed=0), shape, base="tiny")
    assert json.loads((tmp_path / lora.CONFIG).read_text())["layers_to_transform"] == [10, 11]
    assert lora.same(lora.load(tmp_path)[1], shape)


def test_layers_and_targets_that_a_base_lacks_are_refused_with_a_way_out() -> None:
    with pytest.raises(BackendError, match="11 layers; got last 12") as caught:
        lora.chosen(MODULES, LoraShape(8, 16, 0.0, ("q_proj",), layers=12))
    assert caught.value.hint == "lora.layers: all"
    with pytest.raises(BackendError, match="no projection up_proj") as caught:
        lora.chosen(MODULES, LoraShape(8, 16, 0.0, ("q_proj", "up_proj")))
    assert caught.value.hint == "lora.targets may name down_proj, q_proj"


@pytest.mark.parametrize("kind", ["IA3", "absent", None])
def test_another_kind_of_adapter_is_refused(tmp_path: Path, kind: str | None) -> None:
    with pytest.raises(CheckpointError, match="not 'LORA'"):
        lora.load(saved(tmp_path, peft_type=kind))


@pytest.mark.parametrize("key", ["r", "lora_alpha", "target_modules"])
def test_a_config_that_lacks_something_is_refused(tmp_path: Path, key: str) -> None:
    with pytest.raises(CheckpointError, match="missing") as caught:
        lora.load(saved(tmp_path, **{key: "absent"}))
    assert caught.value.hint


def test_damage_is_refused_with_the_place_and_a_way_out(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no adapter can be read") as caught:
        lora.load(tmp_path / "nothing")
    assert "nothing" in str(caught.value.file) and "`train`" in str(caught.value.hint)
    for name, content in ((lora.CONFIG, b"{"), (lora.CONFIG, b"[]"), (lora.WEIGHTS, b""), (lora.WEIGHTS, b"\x00" * 64)):
        (saved(tmp_path / "damaged") / name).write_bytes(content)
        with pytest.raises(CheckpointError) as caught:
            lora.load(tmp_path / "damaged")
        assert caught.value.hint and "damaged" in str(caught.value.file)
    whole = (saved(tmp_path / "short") / lora.WEIGHTS).read_bytes()
    (tmp_path / "short" / lora.WEIGHTS).write_bytes(whole[:-8])
    with pytest.raises(CheckpointError, match="bytes"):
        lora.load(tmp_path / "short")
