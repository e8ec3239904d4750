"""A Base has the weights of `mlx_lm.convert`, bit for bit; it is there whole or not at all; bad input is refused with a way out."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tracemalloc
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx_lm
import numpy as np
import pytest
from mlx_lm.utils import load_config, load_model

from mlx_distill import convert as module
from mlx_distill.backends.base import Backend
from mlx_distill.backends.choose import choose
from mlx_distill.convert import Converted, cached_base
from mlx_distill.errors import BackendError, CheckpointError, DoesNotFit, OutputError
from mlx_distill.files import atomic_folder
from mlx_distill.models import packed
from mlx_distill.models.families import family_of, parameters
from mlx_distill.models.tensors import TensorWriter
from tests.checkpoints import FAMILIES, make_checkpoint

IDS = mx.array([[5, 17, 300, 4, 99, 250, 7, 61]])


@pytest.fixture(scope="module")
def backend() -> Backend:
    return choose("mlx")


def convert(source: Path, out: Path, *, bits: int | None = 4, group_size: int = 64, **options: Any) -> Converted:
    return module.convert(source, out, bits=bits, group_size=group_size, **options)


def reference(source: Path, out: Path, bits: int | None, group_size: int = 64, dtype: str | None = None) -> Path:
    options: dict[str, Any] = {} if bits is None else {"quantize": True, "q_bits": bits, "q_group_size": group_size}
    mlx_lm.convert(str(source), str(out), dtype=dtype, **options)
    return out


def weights(folder: Path) -> dict[str, mx.array]:
    return {name: array for path in sorted(folder.glob("model*.safetensors")) for name, array in mx.load(str(path)).items()}


def assert_same_weights(ours: Path, theirs: Path) -> None:
    a, b = weights(ours), weights(theirs)
    assert a.keys() == b.keys()
    for name in a:
        assert a[name].dtype == b[name].dtype and a[name].shape == b[name].shape, name
        assert mx.array_equal(a[name], b[name]).item(), name


def logits(folder: Path) -> np.ndarray:
    model, _ = load_model(folder)
    return np.array(model(IDS).astype(mx.float32))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("bits", [4, None])
@pytest.mark.parametrize("family", FAMILIES)
def test_weights_and_logits_are_those_of_mlx_lm(tmp_path: Path, backend: Backend, family: str, bits: int | None, dtype: str) -> None:
    source = make_checkpoint(tmp_path / "source", family, dtype=dtype, tied=family in ("qwen2", "gemma2"))
    done = convert(source, tmp_path / "ours", backend=backend, bits=bits)
    theirs = reference(source, tmp_path / "theirs", bits)
    assert_same_weights(done.out, theirs)
    np.testing.assert_array_equal(logits(done.out), logits(theirs))
    assert done.family == ("llama" if family == "mistral" else family)


@pytest.mark.parametrize("group_size", [32, 64])
@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 8])
def test_every_number_of_bits_packs_as_mlx_lm_does(tmp_path: Path, backend: Backend, bits: int, group_size: int) -> None:
    source = make_checkpoint(tmp_path / "source", tokenizer=True, shards=3)
    done = convert(source, tmp_path / "ours", backend=backend, bits=bits, group_size=group_size)
    theirs = reference(source, tmp_path / "theirs", bits, group_size)
    assert_same_weights(done.out, theirs)
    index, expected = (json.loads((folder / "model.safetensors.index.json").read_text()) for folder in (done.out, theirs))
    assert index == expected


@pytest.mark.parametrize("bits", [4, None])
def test_a_type_that_is_asked_for_is_cast_to_before_packing(tmp_path: Path, backend: Backend, bits: int | None) -> None:
    source = make_checkpoint(tmp_path / "source", dtype="float32")
    done = convert(source, tmp_path / "ours", backend=backend, bits=bits, dtype="bfloat16")
    assert_same_weights(done.out, reference(source, tmp_path / "theirs", bits, dtype="bfloat16"))
    assert load_config(done.out)["torch_dtype"] == "bfloat16"


def test_rows_that_are_no_whole_groups_stay_unpacked(tmp_path: Path, backend: Backend) -> None:
    source = make_checkpoint(tmp_path / "source", hidden_size=96, num_attention_heads=3, num_key_value_heads=1)
    done = convert(source, tmp_path / "ours", backend=backend)
    assert_same_weights(done.out, reference(source, tmp_path / "theirs", 4))
    assert "model.layers.0.mlp.down_proj.scales" in weights(done.out)
    assert "model.layers.0.self_attn.q_proj.scales" not in weights(done.out)


def test_biases_are_kept_and_what_nobody_reads_is_dropped(tmp_path: Path, backend: Backend) -> None:
    from tests.checkpoints import random_weights, write_weights

    source = make_checkpoint(tmp_path / "source", "llama", attention_bias=True, mlp_bias=True)
    stored = random_weights(json.loads((source / "config.json").read_text()), 0)
    stored["model.layers.0.self_attn.rotary_emb.inv_freq"] = np.ones(8, np.float32)
    stored["lm_head.weight"] = np.ones((384, 64), np.float32)  # the config says tied
    write_weights(source, stored)
    done = convert(source, tmp_path / "ours", backend=backend)
    assert_same_weights(done.out, reference(source, tmp_path / "theirs", 4))


def test_the_size_of_pieces_and_files_changes_no_weight(tmp_path: Path, backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    source = make_checkpoint(tmp_path / "source", "phi3", shards=3, dtype="bfloat16")
    whole = convert(source, tmp_path / "whole", backend=backend)
    monkeypatch.setattr(module, "PIECE_BYTES", 1000)
    monkeypatch.setattr(packed, "SHARD_BYTES", 30_000)
    cut = convert(source, tmp_path / "cut", backend=backend)
    assert len(list(cut.out.glob("model-*-of-*.safetensors"))) > 1 and not (cut.out / "model.safetensors").exists()
    assert all(path.stat().st_size < 32_000 for path in cut.out.glob("model*.safetensors"))
    assert_same_weights(cut.out, whole.out)
    np.testing.assert_array_equal(logits(cut.out), logits(whole.out))
    assert (cut.parameters, cut.bits_per_weight) == (whole.parameters, whole.bits_per_weight)


def test_memory_does_not_grow_with_the_checkpoint(tmp_path: Path, backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PIECE_BYTES", 64 << 10)
    source = make_checkpoint(tmp_path / "source", vocab=40_000, shards=2)  # 10 MB, all but 400 kB of it in one tensor
    convert(source, tmp_path / "warm", backend=backend)
    tracemalloc.start()
    convert(source, tmp_path / "out", backend=backend)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20


def test_old_readers_find_the_rope_that_transformers_5_writes(tmp_path: Path, backend: Backend) -> None:
    from mlx_lm.models.llama import ModelArgs

    rope = {
        "rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    }  # fmt: skip
    flat = {"rope_theta": 500000.0, "rope_scaling": {key: value for key, value in rope.items() if key != "rope_theta"}}
    new = make_checkpoint(tmp_path / "new", "llama", rope_theta=None, rope_parameters=rope, torch_dtype=None, dtype="float32")
    old = make_checkpoint(tmp_path / "old", "llama", **flat)
    done = convert(new, tmp_path / "ours", backend=backend, bits=None)
    args = ModelArgs.from_dict(load_config(done.out))
    assert args.rope_theta == 500000.0
    assert args.rope_scaling is not None and args.rope_scaling["factor"] == 8.0
    np.testing.assert_array_equal(logits(done.out), logits(old))
    plain = make_checkpoint(tmp_path / "plain", "llama")
    assert np.abs(logits(done.out) - logits(plain)).max() > 1e-3


@pytest.mark.parametrize("family", FAMILIES)
def test_theta_alone_reaches_old_readers(tmp_path: Path, backend: Backend, family: str) -> None:
    new = make_checkpoint(tmp_path / "new", family, rope_theta=None, rope_parameters={"rope_type": "default", "rope_theta": 123456.0})
    done = convert(new, tmp_path / "ours", backend=backend)
    model, config = load_model(done.out)
    assert config["rope_theta"] == model.args.rope_theta == 123456.0
    assert not config.get("rope_scaling")


def test_what_config_json_leaves_out_is_what_transformers_assumes(tmp_path: Path, backend: Backend) -> None:
    """mlx-lm assumes theta 1,000,000 and tied embeddings for a silent qwen2; transformers 10,000 and a head of its own."""
    silent = make_checkpoint(tmp_path / "silent", "qwen2", tied=False, rope_theta=None)
    config = json.loads((silent / "config.json").read_text())
    del config["tie_word_embeddings"]
    (silent / "config.json").write_text(json.dumps(config))
    done = convert(silent, tmp_path / "ours", backend=backend)
    assert "lm_head.weight" in weights(done.out)
    assert load_config(done.out)["rope_theta"] == 10000.0


def test_the_types_of_transformers_5_are_read_and_written_for_old_readers(tmp_path: Path, backend: Backend) -> None:
    source = make_checkpoint(tmp_path / "source", "qwen3", dtype="bfloat16", torch_dtype=None)
    config = json.loads((source / "config.json").read_text()) | {"dtype": "bfloat16"}
    (source / "config.json").write_text(json.dumps(config))
    done = convert(source, tmp_path / "ours", backend=backend)
    written = json.loads((done.out / "config.json").read_text())
    assert written["torch_dtype"] == written["dtype"] == "bfloat16"


def test_mlx_lm_loads_the_base_with_its_tokenizer(tmp_path: Path, backend: Backend) -> None:
    source = make_checkpoint(tmp_path / "source")
    done = convert(source, tmp_path / "ours", backend=backend)
    model, tokenizer = mlx_lm.load(str(done.out))
    prompt = tokenizer.apply_chat_template([{"role": "user", "content": "The river rose."}], add_generation_prompt=True, tokenize=False)
    assert prompt == "<|im_start|>user\nThe river rose.<|im_end|>\n<|im_start|>assistant\n"
    assert tokenizer.decode(tokenizer.encode("O rio subiu 🌊")) == "O rio subiu 🌊"
    assert model(mx.array([tokenizer.encode("water")])).shape[-1] == 384


def test_the_config_is_sorted_and_says_how_it_is_packed(tmp_path: Path, backend: Backend) -> None:
    source = make_checkpoint(tmp_path / "source", auto_map={"AutoModel": "code.Model"}, eos_token_id=0)
    (source / "generation_config.json").write_text('{"eos_token_id": [2, 0]}')
    config = json.loads((convert(source, tmp_path / "ours", backend=backend, bits=8).out / "config.json").read_text())
    assert list(config) == sorted(config)
    assert config["quantization"] == config["quantization_config"] == {"group_size": 64, "bits": 8, "mode": "affine"}
    assert config["eos_token_id"] == [2, 0]
    assert "auto_map" not in config
    plain = json.loads((convert(source, tmp_path / "plain", backend=backend, bits=None).out / "config.json").read_text())
    assert "quantization" not in plain and "quantization_config" not in plain


def test_tokenizer_and_licence_are_copied_byte_for_byte_and_all_files_are_hashed(tmp_path: Path, backend: Backend) -> None:
    source = make_checkpoint(tmp_path / "source")
    (source / "LICENSE").write_bytes(b"Do as you like.\r\n")
    (source / "chat_template.jinja").write_bytes(b"{{ messages }}")
    (source / "README.md").write_text("not ours to copy")
    (source / "modeling.py").write_text("raise SystemExit")
    done = convert(source, tmp_path / "ours", backend=backend, origin="someone/model", revision="main")
    for name in ("LICENSE", "chat_template.jinja", "tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        assert (done.out / name).read_bytes() == (source / name).read_bytes()
    card = json.loads((done.out / "base.json").read_text())
    names = {path.name for path in done.out.iterdir()}
    assert names == {*card["files"], "base.json"} and not names & {"README.md", "modeling.py"}
    for name, digest in card["files"].items():
        assert hashlib.sha256((done.out / name).read_bytes()).hexdigest() == digest
    assert (card["source"], card["revision"], card["family"], card["bits"], card["group_size"]) == ("someone/model", "main", "qwen2", 4, 64)
    assert str(tmp_path) not in (done.out / "base.json").read_text()


@pytest.mark.parametrize(
    ("model", "name"),
    [("someone/model", "someone/model"), ("/models/of/mine/tiny", "tiny"), ("../models/tiny", "tiny"), ("~/tiny/", "tiny")],
)
def test_the_card_holds_no_path_of_the_machine_that_converted(tmp_path: Path, backend: Backend, model: str, name: str) -> None:
    source = make_checkpoint(tmp_path / "source", num_hidden_layers=1, tokenizer=False)
    done = convert(source, tmp_path / "ours", backend=backend, origin=model)
    assert json.loads((done.out / "base.json").read_text())["source"] == name


def test_the_figures_are_those_of_the_files(tmp_path: Path, backend: Backend) -> None:
    source = make_checkpoint(tmp_path / "source")
    done = convert(source, tmp_path / "ours", backend=backend, bits=8)
    # embedding 384 x 64; a layer: q 64x64+64, k and v 32x64+32 each, o 64x64, feed-forward 3 x 64x128, norms 2 x 64; last norm 64
    layer = 64 * 64 + 64 + 2 * (32 * 64 + 32) + 64 * 64 + 3 * 64 * 128 + 2 * 64
    assert done.parameters == 384 * 64 + 2 * layer + 64 == parameters(json.loads((source / "config.json").read_text()))
    packed_numbers = 384 * 64 + 2 * (64 * 64 + 2 * 32 * 64 + 64 * 64 + 3 * 64 * 128)
    bits = packed_numbers * (8 + 2 * 32 / 64) + (done.parameters - packed_numbers) * 32
    assert done.bits_per_weight == pytest.approx(bits / done.parameters)
    assert done.bytes == sum(path.stat().st_size for path in done.out.iterdir())
    assert done.peak_memory_bytes > 1 << 20


def test_the_same_checkpoint_gives_the_same_bytes(tmp_path: Path, backend: Backend) -> None:
    source = make_checkpoint(tmp_path / "source", shards=2)
    one, two = (convert(source, tmp_path / name, backend=backend, origin="x") for name in ("one", "two"))
    assert contents(one.out) == contents(two.out)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


class Killed(BaseException):
    pass


class Mortal:
    """Patches the calls that change the disk; from the `at`-th on, every one of them raises: the process is as good as dead."""

    CALLS = ("open", "fsync", "replace", "rename", "mkdir", "unlink", "rmdir")

    def __init__(self, patch: pytest.MonkeyPatch, at: int):
        self.at, self.count = at, 0
        patch.setattr(TensorWriter, "_put", self._mortal(TensorWriter._put))
        for name in self.CALLS:
            patch.setattr(os, name, self._mortal(getattr(os, name)))

    def _mortal(self, call: Any) -> Any:
        def wrapped(*args: Any, **options: Any) -> Any:
            self.count += 1
            if self.count >= self.at:
                raise Killed
            return call(*args, **options)

        return wrapped


def test_a_kill_at_any_moment_leaves_nothing_or_all(tmp_path: Path, backend: Backend) -> None:
    source = make_checkpoint(tmp_path / "source", num_hidden_layers=1, tokenizer=False)
    expected = contents(convert(source, tmp_path / "whole", backend=backend).out)
    survived = []
    for at in range(1, 500):
        out = tmp_path / str(at) / "out"
        with pytest.MonkeyPatch.context() as patch:
            mortal = Mortal(patch, at)
            with suppress(Killed):
                convert(source, out, backend=backend)
        if out.exists():
            assert contents(out) == expected
            survived.append(at)
        if mortal.count < at:
            break
        with atomic_folder(out.parent / "next"):
            assert len(list(out.parent.iterdir())) == 1 + out.exists(), "what the killed one left was swept away"
    assert at > 40 and survived == [at - 2, at - 1, at], "after the rename only the last two calls can be cut off"


def test_everything_is_on_the_disk_before_it_has_its_name(tmp_path: Path, backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    """A power cut keeps what was synced: every file and its folder before the rename, the parent after it."""
    source = make_checkpoint(tmp_path / "source")
    fsync, rename, synced, missing = os.fsync, os.rename, set(), []

    def watched_fsync(file: int) -> None:
        synced.add(os.fstat(file).st_ino)
        fsync(file)

    def watched_rename(old: Any, new: Any) -> None:
        missing.extend(path.name for path in [Path(old), *Path(old).iterdir()] if path.stat().st_ino not in synced)
        synced.clear()
        rename(old, new)

    monkeypatch.setattr(os, "fsync", watched_fsync)
    monkeypatch.setattr(os, "rename", watched_rename)
    convert(source, tmp_path / "place" / "out", backend=backend)
    assert missing == [] and synced == {(tmp_path / "place").stat().st_ino}


def test_ctrl_c_leaves_nothing(tmp_path: Path, backend: Backend) -> None:
    class Impatient:
        def quantize(self, *args: Any, **options: Any) -> Any:
            raise KeyboardInterrupt

    source = make_checkpoint(tmp_path / "source")
    with pytest.raises(KeyboardInterrupt):
        convert(source, tmp_path / "place" / "out", backend=Impatient())  # type: ignore[arg-type]
    assert list((tmp_path / "place").iterdir()) == []


def test_an_output_that_is_taken_is_refused_before_anything_is_read(tmp_path: Path, backend: Backend) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "file").write_text("mine")
    for name, reason in (("file", "a file stands there already"), ("folder", "not empty")):
        with pytest.raises(OutputError, match=reason) as caught:
            convert(tmp_path / "no such source", tmp_path / name, backend=backend)
        assert caught.value.hint and caught.value.file == str(tmp_path / name)
    assert (tmp_path / "file").read_text() == (tmp_path / "folder" / "file").read_text() == "mine"


def test_an_output_below_a_file_is_refused(tmp_path: Path, backend: Backend) -> None:
    source = make_checkpoint(tmp_path / "source")
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OutputError):
        convert(source, tmp_path / "file" / "out", backend=backend)


def test_a_read_only_parent_is_refused(tmp_path: Path, backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    source = make_checkpoint(tmp_path / "source")
    (tmp_path / "place").mkdir()

    def mkdir(path: Any, *args: Any) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "mkdir", mkdir)  # chmod would not stop root
    with pytest.raises(OutputError, match="no permission") as caught:
        convert(source, tmp_path / "place" / "out", backend=backend)
    assert caught.value.hint and list((tmp_path / "place").iterdir()) == []


def test_too_little_disk_is_refused_beforehand(tmp_path: Path, backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    source = make_checkpoint(tmp_path / "source")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1 << 40, 1 << 40, 5_000_000))  # type: ignore[attr-defined]
    with pytest.raises(DoesNotFit, match=r"0\.01 GB are free") as caught:
        convert(source, tmp_path / "place" / "out", backend=backend)
    assert caught.value.hint and not (tmp_path / "place").exists()


def test_a_disk_that_fills_up_meanwhile_leaves_nothing(tmp_path: Path, backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    source = make_checkpoint(tmp_path / "source")
    real, calls = TensorWriter._put, iter(range(100))

    def put(self: TensorWriter, data: Any, offset: int) -> None:
        if next(calls) == 5:
            raise OSError(28, "No space left on device")
        real(self, data, offset)

    monkeypatch.setattr(TensorWriter, "_put", put)
    with pytest.raises(DoesNotFit, match="the disk is full") as caught:
        convert(source, tmp_path / "place" / "out", backend=backend)
    assert caught.value.hint is not None and "free some space" in caught.value.hint
    assert list((tmp_path / "place").iterdir()) == []


@pytest.mark.parametrize(("settings", "named"), [({"bits": 7}, "7 bits"), ({"group_size": 48}, "48"), ({"dtype": "int8"}, "'int8'")])
def test_settings_that_no_reader_knows_are_refused(tmp_path: Path, backend: Backend, settings: dict[str, Any], named: str) -> None:
    with pytest.raises(BackendError, match=named) as caught:
        convert(tmp_path / "source", tmp_path / "out", backend=backend, **settings)
    assert caught.value.hint


def test_a_source_that_ends_too_early_while_it_is_read_is_named(tmp_path: Path, backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    source = make_checkpoint(tmp_path / "source")
    checkpoint = module.open_checkpoint(source)
    monkeypatch.setattr(module, "open_checkpoint", lambda _: checkpoint)
    os.truncate(source / "model.safetensors", 100_000)
    with pytest.raises(CheckpointError, match="ends too early") as caught:
        convert(source, tmp_path / "place" / "out", backend=backend)
    assert caught.value.file == str(source / "model.safetensors")
    assert list((tmp_path / "place").iterdir()) == []


@pytest.fixture
def cache(tmp_path: Path, backend: Backend) -> Iterator[Any]:
    def base(source: Path, **options: Any) -> tuple[Path, Converted | None]:
        settings = {"bits": 4, "group_size": 64, "dtype": None, "origin": None, "revision": None, **options}
        return cached_base(source, backend=backend, cache=tmp_path / "cache", **settings)

    yield base


def test_the_cache_converts_once_per_content_and_settings(tmp_path: Path, cache: Any) -> None:
    source = make_checkpoint(tmp_path / "source")
    first, done = cache(source)
    assert done is not None and done.out == first
    moved = Path(shutil.copytree(source, tmp_path / "elsewhere" / "moved"))
    assert cache(moved, origin="other/name") == (first, None)
    assert cache(source, bits=None, group_size=64)[0] == cache(source, bits=None, group_size=32)[0], "no groups where nothing is packed"
    others = {cache(source, **options)[0] for options in ({"bits": 8}, {"group_size": 32}, {"dtype": "float16"}, {"bits": None})}
    assert len({first, *others}) == 5
    changed = make_checkpoint(tmp_path / "changed", seed=1)
    assert cache(changed)[0] != first
    (source / "tokenizer_config.json").write_text("{}")
    assert cache(source)[0] != first, "the tokenizer is part of the content"


def test_the_hash_of_the_source_is_recorded(tmp_path: Path, cache: Any, backend: Backend) -> None:
    source = make_checkpoint(tmp_path / "source")
    cards = [json.loads((folder / "base.json").read_text()) for folder in (cache(source)[0], cache(source, bits=8)[0])]
    assert cards[0]["source_hash"] == cards[1]["source_hash"]
    assert len(cards[0]["source_hash"]) == 64


def test_the_slower_of_two_processes_takes_the_base_of_the_faster(tmp_path: Path, cache: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    source = make_checkpoint(tmp_path / "source")
    write = module._write

    def overtaken(*args: Any) -> Converted:
        monkeypatch.setattr(module, "_write", write)
        faster, done = cache(source)
        assert done is not None and faster.is_dir()
        return write(*args)

    monkeypatch.setattr(module, "_write", overtaken)
    folder, done = cache(source)
    assert done is None and (folder / "base.json").is_file()
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_the_slower_one_loses_at_the_rename_too(tmp_path: Path, cache: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    source = make_checkpoint(tmp_path / "source")
    rename, reached = os.rename, []

    def late(old: Any, new: Any) -> None:
        if not reached:
            reached.append(new)
            assert cache(source)[1] is not None
        rename(old, new)

    monkeypatch.setattr(os, "rename", late)
    folder, done = cache(source)
    assert done is None and Path(reached[0]) == folder
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [folder.name]


def test_files_of_the_hubs_cache_are_known_by_their_names(tmp_path: Path, cache: Any) -> None:
    """A blob of the hub's cache is named by its SHA-256, so a copy with real files has the same content and the same Base."""
    plain = make_checkpoint(tmp_path / "plain")
    snapshot, blobs = tmp_path / "snapshots" / "abc", tmp_path / "blobs"
    shutil.copytree(plain, snapshot)
    blobs.mkdir()
    weights_file = snapshot / "model.safetensors"
    blob = blobs / hashlib.sha256(weights_file.read_bytes()).hexdigest()
    weights_file.rename(blob)
    weights_file.symlink_to(blob)
    assert cache(snapshot)[0] == cache(plain)[0]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_familys_projections_are_linear_layers_of_its_model(tmp_path: Path, family: str) -> None:
    source = make_checkpoint(tmp_path / "source", family, tokenizer=False)
    model, config = load_model(source)
    known = family_of(config)
    names = {name for name, _ in model.named_modules()}
    for projection in known.PROJECTIONS:
        assert any(name.endswith(f".{projection}") for name in names), projection
