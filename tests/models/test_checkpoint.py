"""A checkpoint is complete, unquantized, of a known family, and in safetensors; or the error says what is wrong and the way out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mlx.utils import tree_flatten
from mlx_lm.utils import load_model

from mlx_distill.errors import CheckpointError
from mlx_distill.models.checkpoint import open_checkpoint
from mlx_distill.models.families import complete, family_of, parameters
from tests.checkpoints import FAMILIES, make_checkpoint, random_weights, write_weights


def refused(folder: Path, match: str) -> CheckpointError:
    with pytest.raises(CheckpointError, match=match) as caught:
        open_checkpoint(folder)
    assert caught.value.file, "the place is named"
    return caught.value


def edit_config(folder: Path, **changes: Any) -> Path:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return folder


def edit_index(folder: Path, edit: Any) -> Path:
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    edit(index)
    path.write_text(json.dumps(index))
    return folder


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_familys_shapes_are_those_of_its_model_in_mlx_lm(tmp_path: Path, family: str, tied: bool) -> None:
    if family == "gemma2" and not tied:
        pytest.skip("gemma2 is always tied")
    source = make_checkpoint(tmp_path / "source", family, tied=tied, tokenizer=False)
    model, config = load_model(source)
    expected = {name: tuple(array.shape) for name, array in tree_flatten(model.parameters())}
    known = family_of(config)
    assert known.shapes(complete(config, known)) == expected
    assert parameters(config) == sum(int(np.prod(shape)) for shape in expected.values())


def test_a_sharded_checkpoint_is_read_to_the_last_byte(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "source", shards=3, dtype="float16")
    checkpoint = open_checkpoint(folder)
    weights = random_weights(json.loads((folder / "config.json").read_text()), 0)
    assert len(checkpoint.shards) == 3 and checkpoint.family_name == "qwen2"
    for name, place in checkpoint.tensors.items():
        raw = place.rows(0, place.shape[0])
        assert raw.dtype == "F16"
        np.testing.assert_array_equal(raw.data, weights[name].astype(np.float16))
        np.testing.assert_array_equal(place.rows(1, 3).data, raw.data[1:3])
    assert [path.name for path in checkpoint.tokenizer] == ["tokenizer.json", "tokenizer_config.json"]


def test_shards_without_an_index_are_read_too(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "source", shards=3)
    (folder / "model.safetensors.index.json").unlink()
    assert len(open_checkpoint(folder).shards) == 3
    (folder / "model-00003-of-00003.safetensors").unlink()
    refused(folder, "model-00003-of-00003.safetensors cannot be found")


@pytest.mark.parametrize("shard", ["model-00001-of-00003.safetensors", "model-00003-of-00003.safetensors"])
def test_a_missing_shard_is_named(tmp_path: Path, shard: str) -> None:
    folder = make_checkpoint(tmp_path / "source", shards=3)
    (folder / shard).unlink()
    assert "fetch" in str(refused(folder, f"of 3 weight files, {shard} cannot be found").hint)


@pytest.mark.parametrize("keep", [-1, 4, 0, 200, 20_000])
def test_a_truncated_shard_is_named(tmp_path: Path, keep: int) -> None:
    folder = make_checkpoint(tmp_path / "source", shards=3)
    shard = folder / "model-00002-of-00003.safetensors"
    shard.write_bytes(shard.read_bytes()[:keep])
    assert refused(folder, "header").file == str(shard)


def test_bytes_beyond_the_last_tensor_are_refused(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "source")
    shard = folder / "model.safetensors"
    shard.write_bytes(shard.read_bytes() + b"\0")
    refused(folder, "the file has .* bytes, its header names")


@pytest.mark.parametrize(
    "entry",
    [
        {"dtype": "F32", "shape": [384, 64], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [384, 64], "data_offsets": [-4, 98300]},
        {"dtype": "F32", "shape": [-384, -64], "data_offsets": [0, 98304]},
        {"dtype": "F32", "shape": "many", "data_offsets": [0, 4]},
        {"dtype": "F32"},
        [],
        {"dtype": "F4", "shape": [384, 64], "data_offsets": [0, 98304]},
    ],
)
def test_a_header_that_contradicts_itself_is_refused(tmp_path: Path, entry: Any) -> None:
    folder = make_checkpoint(tmp_path / "source")
    header = json.dumps({"model.embed_tokens.weight": entry}).encode()
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(98304))
    refused(folder, "model.embed_tokens.weight")


def test_the_index_is_held_against_the_shards(tmp_path: Path) -> None:
    name, first, second = "model.norm.weight", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
    folder = make_checkpoint(tmp_path / "source", shards=2)
    original = (folder / "model.safetensors.index.json").read_text()
    weight_map = json.loads(original)["weight_map"]
    edit_index(folder, lambda index: index["weight_map"].update({name: first if weight_map[name] == second else second}))
    refused(folder, f"the index says that {name} is in")
    (folder / "model.safetensors.index.json").write_text(original)
    edit_index(folder, lambda index: index["weight_map"].update({"model.surprise": first}))
    refused(folder, "model.surprise")
    (folder / "model.safetensors.index.json").write_text(original)
    edit_index(folder, lambda index: index["metadata"].update(total_size=12))
    assert "remove model.safetensors.index.json" in str(refused(folder, "the index counts 12 bytes").hint)
    edit_index(folder, lambda index: index.update(metadata={}))
    open_checkpoint(folder)


@pytest.mark.parametrize(
    "text", ["{", "[]", "{}", '{"weight_map": {}}', '{"weight_map": {"a": "../b.safetensors"}}', '{"weight_map": {"a": 1}}']
)
def test_an_index_that_is_none_is_refused(tmp_path: Path, text: str) -> None:
    folder = make_checkpoint(tmp_path / "source", shards=2)
    (folder / "model.safetensors.index.json").write_text(text)
    refused(folder, "the index of the weights cannot be read")


def test_a_place_that_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    refused(tmp_path / "nowhere", "does not exist")
    (tmp_path / "file").write_text("")
    refused(tmp_path / "file", "is a file")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "no config.json")


def test_the_likely_mistake_behind_a_wrong_folder_is_named(tmp_path: Path) -> None:
    make_checkpoint(tmp_path / "models" / "mine")
    assert refused(tmp_path / "models", "no config.json").hint == "did you mean its folder mine?"
    (tmp_path / "models" / "adapter_config.json").write_text("{}")
    assert "adapter" in str(refused(tmp_path / "models", "no config.json").hint)


def test_pickles_are_refused(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "source")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    assert "save_pretrained" in str(refused(folder, "the weights are in pytorch_model.bin, and only safetensors is read").hint)
    (folder / "pytorch_model.bin").unlink()
    refused(folder, "a config.json and no weights")


def test_an_unknown_architecture_is_refused_with_the_nearest_name(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "source")
    assert refused(edit_config(folder, model_type="qwen22"), "'qwen22' are not supported").hint == "did you mean qwen2?"
    assert "gemma2, llama, mistral, phi3, qwen2, qwen3" in str(refused(edit_config(folder, model_type="whisper"), "'whisper'").hint)
    refused(edit_config(folder, model_type=None), "names no model_type")
    edit_config(folder, model_type="qwen2", architectures=["Qwen2ForSequenceClassification"])
    assert "Qwen2ForCausalLM" in str(refused(folder, "Qwen2ForSequenceClassification is no causal language model").hint)


def test_a_quantized_checkpoint_is_refused(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "source")
    refused(edit_config(folder, quantization_config={"quant_method": "gptq", "bits": 4}), r"quantized already \(method gptq\)")
    refused(edit_config(folder, quantization={"bits": 4, "group_size": 64}), "a quantized MLX model")


def test_a_config_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "source")
    (folder / "config.json").write_text('{"model_type": "qwen2",\n  oops}')
    assert refused(folder, "no JSON").line == 2
    (folder / "config.json").write_bytes(b"\xff\xfe{}")
    refused(folder, "not UTF-8")
    (folder / "config.json").write_text("[]")
    refused(folder, "no mapping")


@pytest.mark.parametrize("value", [None, "64", 0, -1, True, 1.5])
def test_a_size_that_is_none_is_named(tmp_path: Path, value: Any) -> None:
    refused(edit_config(make_checkpoint(tmp_path / "source"), num_hidden_layers=value), "config.json .* num_hidden_layers")


def test_weights_that_do_not_fit_the_config_are_refused(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "source")
    refused(edit_config(folder, intermediate_size=192), r"mlp.gate_proj.weight has the shape \[128, 64\]; config.json makes it \[192, 64\]")
    edit_config(folder, intermediate_size=128, tie_word_embeddings=False)
    refused(folder, "the weights lack lm_head.weight")
    weights = random_weights(json.loads((folder / "config.json").read_text()), 0)
    write_weights(folder, weights | {"model.layers.0.self_attn.o_proj.bias": np.zeros(64, np.float32)})
    refused(folder, "the weights have model.layers.0.self_attn.o_proj.bias, which config.json does not provide for")


def test_weights_of_a_type_that_is_no_float_are_refused(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "source")
    shard = folder / "model.safetensors"
    shard.write_bytes(shard.read_bytes().replace(b'"F32"', b'"I32"'))
    refused(folder, "has the type I32; weights are F32, F16, BF16")


@pytest.mark.parametrize(
    ("family", "changes", "named"),
    [
        ("gemma2", {"rope_scaling": {"type": "linear", "factor": 2.0}}, "'linear'"),
        ("llama", {"rope_parameters": {"rope_type": "ntk", "rope_theta": 1e4}, "rope_theta": None}, "'ntk'"),
        ("qwen3", {"attention_bias": True}, "attention_bias"),
        ("qwen2", {"head_dim": 32}, "head_dim 32"),
        ("qwen2", {"hidden_act": "relu"}, "hidden_act 'relu'"),
        ("gemma2", {"final_logit_softcapping": None}, "final_logit_softcapping"),
        ("gemma2", {"tie_word_embeddings": False}, "tie_word_embeddings"),
    ],
)
def test_what_readers_of_a_base_would_silently_compute_otherwise_is_refused(
    tmp_path: Path, family: str, changes: dict[str, Any], named: str
) -> None:
    refused(edit_config(make_checkpoint(tmp_path / "source", family, tokenizer=False), **changes), named)
