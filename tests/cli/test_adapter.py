"""`adapter`: mlx-lm reads what we export, we read what mlx-lm writes, and a merged base answers as base and adapter do."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten, tree_unflatten
from mlx_lm.tuner.utils import linear_to_lora_layers
from mlx_lm.utils import load_adapters, load_model
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from mlx_distill.backends import lora, merge
from mlx_distill.backends.base import LoraShape
from tests.backends import plain
from tests.cli.conftest import Place
from tests.conftest import MakeBase
from tests.students import call

IDS = plain.random_ids(np.random.default_rng(0), 20)
KINDS: list[dict[str, Any]] = [{}, {"rslora": True}, {"dora": True}, {"layers": 1}]


def logits(model: nn.Module) -> NDArray[np.float32]:
    model.eval()
    return np.asarray(plain.logits_of(model, IDS))


def adapter(base: Path, folder: Path, shape: LoraShape) -> Path:
    """In PEFT's format, of random values."""
    lora.save(folder, plain.random_adapter(base, shape), shape, base="tiny")
    return folder


def with_adapter(base: Path, folder: Path) -> NDArray[np.float32]:
    """The logits of base and adapter, by mlx-lm's layers."""
    return logits(plain.plain_model(base, *lora.load(folder)))


# import and export


@pytest.mark.parametrize("bits", [None, 4])
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_mlx_lm_loads_what_is_exported_and_gives_the_same_logits(base: MakeBase, tmp_path: Path, bits: int | None, kind: Any) -> None:
    folder = base(bits=bits)
    source = adapter(folder, tmp_path / "ours", replace(plain.shape_of(), **kind))
    called = call("adapter", "export", source, tmp_path / "theirs", "--to", "mlx-lm", "--json")
    assert called.code == 0, called.err
    assert called.document["kind"] == ("dora" if "dora" in kind else "lora")
    assert called.document["layers"] == ([1] if "layers" in kind else [0, 1])
    model = load_adapters(load_model(folder)[0], str(tmp_path / "theirs"))
    assert {path for path, part in model.named_modules() if "lora_a" in part} == set(lora.modules_of(lora.load(source)[0]))
    theirs = logits(model)
    np.testing.assert_allclose(theirs, with_adapter(folder, source), atol=1e-4)
    assert np.abs(theirs - logits(load_model(folder)[0])).max() > 0.1, "the adapter does something"


def mlx_lm_s(base: Path, folder: Path, *, kind: str = "lora", layers: int = 2, keys: list[str] | None = None) -> NDArray[np.float32]:
    """An adapter as mlx-lm's trainer leaves it, of random values; and the logits that it gives there."""
    model, _ = load_model(base)
    model.freeze()
    parameters: dict[str, Any] = {"rank": 4, "scale": 3.0, "dropout": 0.05, **({"keys": keys} if keys else {})}
    linear_to_lora_layers(model, layers, parameters, use_dora=kind == "dora")
    generator = np.random.default_rng(1)
    values = {
        path: mx.array(generator.normal(0, 0.1, value.shape).astype(np.float32)) + (1 if path.endswith(".m") else 0)
        for path, value in tree_flatten(model.trainable_parameters())
    }
    model.load_weights(list(values.items()), strict=False)
    folder.mkdir()
    mx.save_safetensors(str(folder / "adapters.safetensors"), values)
    config = {"fine_tune_type": kind, "num_layers": layers, "lora_parameters": parameters, "model": "owner/tiny", "iters": 10}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return logits(model)


@pytest.mark.parametrize(
    "made",
    [{}, {"kind": "dora"}, {"layers": 1}, {"keys": ["self_attn.q_proj", "mlp.up_proj"]}, {"keys": ["model.layers.1.self_attn.v_proj"]}],
    ids=str,
)
def test_what_mlx_lm_wrote_is_imported_and_gives_the_same_logits(base: MakeBase, tmp_path: Path, made: dict[str, Any]) -> None:
    folder = base()
    theirs = mlx_lm_s(folder, tmp_path / "theirs", **made)
    called = call("adapter", "import", tmp_path / "theirs", tmp_path / "ours", "--json")
    assert called.code == 0, called.err
    assert called.document.items() >= {"rank": 4, "alpha": 12.0, "scale": 3.0, "base": "owner/tiny", "out": str(tmp_path / "ours")}.items()
    np.testing.assert_allclose(with_adapter(folder, tmp_path / "ours"), theirs, atol=1e-4)
    assert json.loads((tmp_path / "ours" / "adapter_config.json").read_text())["base_model_name_or_path"] == "owner/tiny"


def test_one_file_of_several_is_imported_with_the_config_beside_it(base: MakeBase, tmp_path: Path) -> None:
    mlx_lm_s(base(), tmp_path / "theirs")
    (tmp_path / "theirs/adapters.safetensors").rename(tmp_path / "theirs/0000100_adapters.safetensors")
    assert call("adapter", "import", tmp_path / "theirs", tmp_path / "ours").code == 2
    called = call("adapter", "import", tmp_path / "theirs/0000100_adapters.safetensors", tmp_path / "ours")
    assert called.code == 0
    assert "rank 4, scale 3" in called.out and "layers 0 to 1" in called.out


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_there_and_back_the_values_are_the_same(base: MakeBase, tmp_path: Path, kind: dict[str, Any]) -> None:
    source = adapter(base(), tmp_path / "ours", replace(plain.shape_of(), **kind))
    assert call("adapter", "export", source, tmp_path / "theirs").code == 0
    assert call("adapter", "import", tmp_path / "theirs", tmp_path / "again").code == 0
    (before, shape), (after, other) = lora.load(source), lora.load(tmp_path / "again")
    assert before.keys() == after.keys() and all(np.array_equal(before[name], after[name]) for name in before)
    assert other.scale == pytest.approx(shape.scale) and other.layers == shape.layers and other.dora == shape.dora


def test_what_has_no_place_in_peft_s_format_is_refused_with_the_reason(base: MakeBase, tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    mlx_lm_s(base(), theirs)
    config, tensors = json.loads((theirs / "adapter_config.json").read_text()), load_file(theirs / "adapters.safetensors")
    first = next(name for name in tensors if name.endswith("lora_a"))

    def said(config: Any, tensors: dict[str, Any]) -> str:
        (theirs / "adapter_config.json").write_text(json.dumps(config))
        save_file(tensors, theirs / "adapters.safetensors")
        called = call("adapter", "import", theirs, tmp_path / "ours", "--json")
        assert called.code == 2 and called.document["error"]["hint"] and not (tmp_path / "ours").exists()
        return str(called.document["error"]["message"])

    assert "fine_tune_type is 'full'" in said({**config, "fine_tune_type": "full"}, tensors)
    assert "PEFT's format already" in said({**config, "peft_type": "LORA"}, tensors)
    assert "lora_parameters cannot be read" in said({**config, "lora_parameters": {"rank": 4}}, tensors)
    embedding = {"model.embed_tokens.lora_a": tensors[first]}
    assert "model.embed_tokens.lora_a" in said(config, tensors | embedding)
    experts = {"model.layers.0.mlp.switch_mlp.up_proj.lora_a": tensors[first][None]}
    assert "has no place" in said(config, tensors | experts)
    stem = first.rpartition(".")[0]
    uneven = {name: value for name, value in tensors.items() if not name.startswith(f"{stem}.")}
    assert "do not all adapt the same" in said(config, uneven)
    assert "the adapter lacks" in said(config, {name: value for name, value in tensors.items() if name != first})
    assert "r is 8" in said({**config, "lora_parameters": {"rank": 8, "scale": 1.0}}, tensors)


# merge


@pytest.mark.parametrize(("family", "kind"), [*(("qwen2", kind) for kind in KINDS), ("phi3", {"dora": True}), ("gemma2", {})], ids=str)
def test_a_merged_base_answers_as_base_and_adapter_do(
    base: MakeBase, tmp_path: Path, family: str, kind: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(merge, "PIECE_BYTES", 10_000)
    folder = base(family)
    source = adapter(folder, tmp_path / "adapter", replace(plain.shape_of(family), **kind))
    called = call("adapter", "merge", source, tmp_path / "out", "--base", folder, "--json")
    assert called.code == 0, called.err
    assert called.document["written"] and not called.document["packed"] and called.document["loss"]["worst"] < 1e-5
    np.testing.assert_allclose(logits(load_model(tmp_path / "out")[0]), with_adapter(folder, source), atol=1e-4)


def test_a_run_is_merged_into_its_own_base_and_everything_else_of_it_is_kept(finished: Place, tmp_path: Path) -> None:
    called = call("adapter", "merge", finished.run, tmp_path / "out", "--json")
    assert called.code == 0, called.err
    folder, out = Path(called.document["base"]), tmp_path / "out"
    np.testing.assert_allclose(logits(load_model(out)[0]), with_adapter(folder, finished.run / "adapter"), atol=1e-4)
    assert {path.name for path in out.iterdir()} == {path.name for path in folder.iterdir()}
    for name in ("config.json", "tokenizer.json", "model.safetensors.index.json"):
        assert (out / name).read_bytes() == (folder / name).read_bytes()
    before, after = (json.loads((place / "base.json").read_text()) for place in (folder, out))
    assert after["source"] == before["source"] and len(after["merged"]["trained"]) == 64
    assert [name for name in before["files"] if before["files"][name] != after["files"][name]] == ["model.safetensors"]
    untouched = "model.embed_tokens.weight"
    assert np.array_equal(load_file(out / "model.safetensors")[untouched], load_file(folder / "model.safetensors")[untouched])


def test_what_a_merge_into_a_quantized_base_would_lose_is_measured_and_nothing_is_written(base: MakeBase, tmp_path: Path) -> None:
    folder = base(bits=4)
    source = adapter(folder, tmp_path / "adapter", replace(plain.shape_of(), targets=("q_proj", "down_proj")))
    called = call("adapter", "merge", source, tmp_path / "out", "--base", folder, "--json")
    assert called.code == 2 and not (tmp_path / "out").exists()
    assert "--base MODEL" in called.document["error"]["hint"] and "--accept-loss" in called.document["error"]["hint"]
    losses = expected_losses(folder, source)
    told = called.document["loss"]
    assert told["worst"] == pytest.approx(max(losses.values()), rel=1e-3)
    assert told["mean"] == pytest.approx(sum(losses.values()) / len(losses), rel=1e-3)
    assert losses[told["at"].removesuffix(".weight")] == max(losses.values()) > 0.1
    said = call("adapter", "merge", source, tmp_path / "out", "--base", folder)
    assert f"off by {told['mean']:.1%}" in said.err and told["at"] in said.err


def expected_losses(folder: Path, source: Path) -> dict[str, float]:
    """By MLX: how far each layer's weight, packed again, is from what it should be, by what the adapter changes."""
    weights, shape = lora.load(source)
    out = {}
    for path, module in plain.projections(load_model(folder)[0], shape).items():
        old = mx.dequantize(module.weight, module.scales, module.biases, module.group_size, module.bits)
        a, b = (mx.array(weights[name]) for name in lora.names(path))
        new = old + shape.scale * (b @ a)
        packed = mx.dequantize(*mx.quantize(new, module.group_size, module.bits), module.group_size, module.bits)
        out[path] = float(mx.linalg.norm(packed - new).item()) / float(mx.linalg.norm(new - old).item())
    return out


def test_an_accepted_loss_is_written_as_mlx_lm_s_fuse_would(base: MakeBase, tmp_path: Path) -> None:
    folder = base(bits=4)
    source = adapter(folder, tmp_path / "adapter", plain.shape_of())
    called = call("adapter", "merge", source, tmp_path / "out", "--base", folder, "--accept-loss", "--json")
    assert called.code == 0, called.err
    assert called.document["written"] and called.document["packed"] and called.document["loss"]["mean"] > 0
    fused = plain.plain_model(folder, *lora.load(source))
    fused.update_modules(tree_unflatten([(name, part.fuse()) for name, part in fused.named_modules() if hasattr(part, "fuse")]))
    ours = dict(tree_flatten(load_model(tmp_path / "out")[0].parameters()))
    for name, theirs in tree_flatten(fused.parameters()):
        if theirs.dtype == mx.uint32:
            assert np.mean(np.asarray(ours[name]) != np.asarray(theirs)) < 0.01, "rounding aside, the same words"
        else:
            np.testing.assert_allclose(np.asarray(ours[name]), np.asarray(theirs), atol=1e-5)


def test_a_checkpoint_is_converted_unquantized_first_and_16_bits_lose_something_too(base: MakeBase, tmp_path: Path, cache: Path) -> None:
    from tests.checkpoints import make_checkpoint

    checkpoint = make_checkpoint(tmp_path / "checkpoint", dtype="bfloat16", shards=2)
    source = adapter(base(), tmp_path / "adapter", plain.shape_of())
    called = call("adapter", "merge", source, tmp_path / "out", "--base", checkpoint, "--json")
    assert called.code == 0, called.err
    assert Path(called.document["base"]).parent == cache / "bases"
    assert 0 < called.document["loss"]["mean"] < called.document["loss"]["worst"] < 0.1
    assert load_model(tmp_path / "out")[0].model.layers[0].mlp.up_proj.weight.dtype == mx.bfloat16


def test_a_base_of_another_kind_than_the_run_s_is_noted(finished: Place, base: MakeBase, tmp_path: Path) -> None:
    own = call("adapter", "merge", finished.run, tmp_path / "own", "--json").document["base"]
    same = call("adapter", "merge", finished.run, tmp_path / "same", "--base", own)
    assert same.code == 0 and "note:" not in same.err
    other = call("adapter", "merge", finished.run, tmp_path / "other", "--base", base(rope_theta=5e5))
    assert other.code == 0 and "note: the run was trained on" in other.err


def test_what_cannot_be_merged_is_refused_with_a_way_out(finished: Place, base: MakeBase, tmp_path: Path) -> None:
    folder = base()
    source = adapter(folder, tmp_path / "adapter", plain.shape_of())
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken/file").touch()
    call("adapter", "export", source, tmp_path / "theirs")
    for words, said in (
        ([source, tmp_path / "out"], "--base FOLDER"),
        ([tmp_path / "nowhere", tmp_path / "out", "--base", folder], "no such folder"),
        ([tmp_path / "theirs", tmp_path / "out", "--base", folder], "adapter import"),
        ([source, tmp_path / "taken", "--base", folder], "not empty"),
        ([source, tmp_path / "out", "--base", base(hidden_size=32)], "what was trained is for"),
        ([source, tmp_path / "out", "--base", base(num_hidden_layers=1)], "has no model.layers.1"),
        ([source, tmp_path / "out", "--base", tmp_path], "config.json"),
        ([finished.run / "checkpoints", tmp_path / "out", "--base", folder], "no adapter can be read"),
    ):
        called = call("adapter", "merge", *words)
        assert called.code == 2 and said in called.err, (words, called.err)
        assert not (tmp_path / "out").exists()
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_a_run_that_trains_all_weights_is_judged_answers_and_becomes_a_base(fresh: Path, tmp_path: Path) -> None:
    run, out = tmp_path / "run", tmp_path / "out"
    made = call("run", fresh, "--out", run, "--set", "lora=none", "--set", "train.learning_rate=1e-3", "--json")
    assert made.code == 0, made.err
    assert {path.name for path in (run / "adapter").iterdir()} == {"full_config.json", "model.safetensors", "calibration.json"}
    again = call("run", fresh, "--out", run, "--set", "lora=none", "--set", "train.learning_rate=1e-3", "--json")
    assert again.document["metrics"] == made.document["metrics"], "nothing is done twice"
    assert call("evaluate", run, "--json").document["metrics"] == made.document["metrics"]
    assert call("infer", run, fresh.parent / "rows.jsonl", tmp_path / "answers.jsonl", "--json").document["done"] == 40
    merged = call("adapter", "merge", run, out, "--json")
    assert merged.code == 0 and merged.document["loss"]["worst"] == 0.0
    ours, theirs = load_file(out / "model.safetensors"), load_file(run / "adapter" / "model.safetensors")
    assert ours.keys() == theirs.keys() and all(np.array_equal(ours[name], theirs[name]) for name in ours)
    refused = call("adapter", "export", run, tmp_path / "theirs")
    assert refused.code == 2 and "adapter merge" in refused.err
    other = call("train", fresh, "--out", run, "--resume")
    assert other.code == 2 and "lora.rank: none -> 4" in other.err


@pytest.mark.parametrize("verb", ["import", "export", "merge"])
def test_every_verb_has_an_example(verb: str) -> None:
    called = call("adapter", verb, "--help")
    assert called.code == 0
    assert called.out.count(f"mlx-distill adapter {verb} ") >= 2 and "--json" in called.out
