"""Both backends pack weights to the same bytes, those of MLX's quantizer on a CPU; and refuse what is no number."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from numpy.typing import NDArray

from mlx_distill import convert as module
from mlx_distill.backends.choose import PACKAGES, choose, missing
from mlx_distill.backends.mlx.quantize import quantize as by_mlx
from mlx_distill.errors import CheckpointError
from mlx_distill.models.packed import BITS, DTYPES, GROUP_SIZES
from mlx_distill.records import RawTensor
from tests.checkpoints import make_checkpoint, random_weights, write_weights
from tests.students import call

torch = pytest.importorskip("torch")
from mlx_distill.backends.torch.quantize import quantize as by_torch  # noqa: E402

Quantize = Callable[..., dict[str, RawTensor]]
Weights = NDArray[np.float32]
EACH = pytest.mark.parametrize("quantize", [by_mlx, by_torch], ids=["mlx", "torch"])
GROUPS = 40_000
"""Of each kind of packing: 54 of them, over two million groups."""
HUGE = 3.3e38


def groups(generator: np.random.Generator, size: int, largest: float) -> Weights:
    """Groups of all sizes and kinds, (GROUPS, size), none of their numbers above `largest`, nor their span."""
    values = generator.normal(size=(GROUPS, size)).astype(np.float32) * np.exp2(generator.integers(-30, 14, (GROUPS, 1)))
    kind = generator.integers(0, 12, GROUPS)
    pick = {name: kind == number for number, name in enumerate(("zero", "one", "less", "more", "whole", "half", "tiny", "small", "sign"))}
    values[pick["zero"]] = 0
    values[pick["one"]] = values[pick["one"]][:, :1]
    values[pick["less"]] = -np.abs(values[pick["less"]])
    values[pick["more"]] = np.abs(values[pick["more"]])
    values[pick["whole"]] = generator.integers(-15, 16, (int(pick["whole"].sum()), size))  # ties, to even
    values[pick["half"]] = generator.integers(-15, 16, (int(pick["half"].sum()), size)) / 2
    values[pick["tiny"]] *= 1e-38  # subnormal in float32
    values[pick["small"]] *= 1e-7  # around the least scale; subnormal in float16
    values[pick["sign"]] = np.where(generator.random((int(pick["sign"].sum()), size)) < 0.5, -0.0, 0.0)
    values[:50] *= largest / 2 / np.abs(values[:50]).max(axis=1, keepdims=True).clip(1e-30)
    values[50:100] = generator.choice([largest, -largest, largest / 3e4], size=(50, 1))
    return np.asarray(values, np.float32)


def packed(quantize: Quantize, weight: RawTensor, bits: int | None, size: int, dtype: str | None) -> dict[str, RawTensor]:
    return quantize({"a.weight": weight}, bits=bits, group_size=size, dtype=dtype)


def require_same(ours: dict[str, RawTensor], theirs: dict[str, RawTensor], of: Weights) -> None:
    assert list(ours) == list(theirs)
    for name, raw in theirs.items():
        assert (ours[name].dtype, ours[name].data.dtype, ours[name].data.shape) == (raw.dtype, raw.data.dtype, raw.data.shape), name
        same = (ours[name].data.view(np.uint8) == raw.data.view(np.uint8)).all(axis=1)
        assert same.all(), f"{name}: {(~same).sum()} rows differ, the first of them {of[np.flatnonzero(~same)[0]][:8]} ..."


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", GROUP_SIZES)
def test_millions_of_groups_have_the_bytes_of_mlx(size: int, dtype: str) -> None:
    weight = groups(np.random.default_rng(size), size, 6.5e4 if dtype == "float16" else HUGE)
    for bits in BITS:
        ours, theirs = (packed(quantize, RawTensor("F32", weight), bits, size, dtype) for quantize in (by_torch, by_mlx))
        require_same(ours, theirs, weight)


@EACH
def test_the_bytes_are_those_of_mlx_s_own_quantizer_on_a_cpu(quantize: Quantize) -> None:
    weight = groups(np.random.default_rng(1), 64, HUGE).reshape(-1, 256)
    made = packed(quantize, RawTensor("F32", weight), 4, 64, None)
    words, scales, biases = mx.quantize(mx.array(weight), 64, 4, stream=mx.cpu)
    expected = {"a.weight": ("U32", words), "a.scales": ("F32", scales), "a.biases": ("F32", biases)}
    require_same(made, {name: RawTensor(code, np.array(array)) for name, (code, array) in expected.items()}, weight)


@EACH
@pytest.mark.parametrize(("bits", "codes"), [(2, [3, 0, 2, 1]), (8, [255, 0, 170, 85])])
def test_a_group_worked_out_by_hand(quantize: Quantize, bits: int, codes: list[int]) -> None:
    """From -3 to 0 in four steps: -3 lies farthest out, so it is the bias, and 0 is met exactly."""
    weight = np.tile(np.array([0, -3, -1, -2], np.float32), (1, 8))
    made = packed(quantize, RawTensor("F32", weight), bits, 32, None)
    assert made["a.biases"].data.item() == -3 and made["a.scales"].data.item() == pytest.approx(3 / (2**bits - 1))
    first = made["a.weight"].data.view(np.uint8)[0, : bits // 2]
    stream = int.from_bytes(first.tobytes(), "little")
    assert [stream >> (bits * i) & (2**bits - 1) for i in range(4)] == codes


@pytest.mark.parametrize("source", ["F32", "F16", "BF16"])
@pytest.mark.parametrize("dtype", [*DTYPES, None])
def test_casts_round_as_mlx_s_do(source: str, dtype: str | None) -> None:
    """All finite numbers of 16 bits; of float32 a random million, and the halfway points of 16 bits with their neighbours."""
    generator = np.random.default_rng(0)
    if source == "F32":
        bits = generator.integers(0, 1 << 32, 1 << 20, dtype=np.uint32)
        half = (np.arange(1 << 16, dtype=np.uint32) << 16)[:, None] + np.array([0x7FFF, 0x8000, 0x8001, 0x0FFF, 0x1000, 0x1001], np.uint32)
        numbers: NDArray[Any] = np.concatenate([bits, half.ravel()]).view(np.float32)
        limit = 65519 if dtype == "float16" else 3.38e38  # what rounds to a number still
        numbers = numbers[np.abs(numbers) <= limit]
    else:
        every = np.arange(1 << 16, dtype=np.uint32)
        values = (every << 16).view(np.float32) if source == "BF16" else every.astype(np.uint16).view(np.float16).astype(np.float32)
        fits = np.abs(values) <= (65519 if dtype == "float16" else HUGE)
        numbers = every[fits].astype(np.uint16).view(np.uint16 if source == "BF16" else np.float16)
    raw = RawTensor(source, numbers.reshape(1, -1))
    require_same(packed(by_torch, raw, None, 64, dtype), packed(by_mlx, raw, None, 64, dtype), numbers)


@EACH
@pytest.mark.parametrize("bits", [4, None])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("odd", [np.inf, -np.inf, np.nan])
def test_what_is_no_number_is_refused_by_name(quantize: Quantize, bits: int | None, dtype: str, odd: float) -> None:
    weight = np.zeros((3, 64), np.float32)
    weight[2, 63] = odd
    with pytest.raises(CheckpointError, match=rf"a\.weight has infinities or NaN in {dtype}") as caught:
        packed(quantize, RawTensor("F32", weight), bits, 64, dtype)
    assert caught.value.hint


@EACH
def test_what_float16_cannot_hold_is_refused(quantize: Quantize) -> None:
    weight = RawTensor("F32", np.full((1, 64), 7e4, np.float32))
    with pytest.raises(CheckpointError, match=r"a\.weight has infinities or NaN in float16") as caught:
        packed(quantize, weight, None, 64, "float16")
    assert "bfloat16" in str(caught.value.hint)
    assert packed(quantize, weight, None, 64, "bfloat16")


@EACH
def test_a_span_that_float32_cannot_hold_is_refused(quantize: Quantize) -> None:
    weight = np.tile(np.array([HUGE, -HUGE], np.float32), (1, 32))
    with pytest.raises(CheckpointError, match=r"the scale of a\.weight has infinities"):
        packed(quantize, RawTensor("F32", weight), 4, 64, None)


@EACH
def test_arrays_that_are_read_only_or_in_another_order_are_taken(quantize: Quantize) -> None:
    weight = np.random.default_rng(0).normal(size=(64, 64)).astype(np.float32)
    frozen, turned = weight.copy(), np.asfortranarray(weight)
    frozen.flags.writeable = False
    plain = packed(quantize, RawTensor("F32", weight), 4, 64, None)
    for other in (frozen, turned):
        require_same(packed(quantize, RawTensor("F32", other), 4, 64, None), plain, weight)


# a whole checkpoint


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("bits", [3, 4, None])
def test_a_base_has_the_same_bytes_whichever_backend_made_it(tmp_path: Path, bits: int | None, dtype: str) -> None:
    source = make_checkpoint(tmp_path / "source", "phi3", dtype=dtype, shards=2)
    for name in PACKAGES:
        module.convert(source, tmp_path / name, backend=choose(name), bits=bits, group_size=32)
    mlx, torch = ({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in PACKAGES)
    assert mlx == torch


@pytest.mark.parametrize("name", [name for name in PACKAGES if not missing(name)])
def test_a_checkpoint_with_a_number_that_is_none_is_refused_with_its_file(tmp_path: Path, name: str) -> None:
    source = make_checkpoint(tmp_path / "source")
    stored = random_weights(json.loads((source / "config.json").read_text()), 0)
    stored["model.layers.1.mlp.up_proj.weight"][3, 5] = np.inf
    write_weights(source, stored)
    called = call("convert", source, tmp_path / "out", "--backend", name)
    assert called.code == 2 and not (tmp_path / "out").exists()
    assert f"{source / 'model.safetensors'}: model.layers.1.mlp.up_proj.weight has infinities or NaN" in called.err


WITHOUT = """
import sys
from importlib.machinery import PathFinder

class Without(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in {refused!r} else PathFinder.find_spec(name, path, target)

sys.meta_path = [Without if finder is PathFinder else finder for finder in sys.meta_path]
from mlx_distill.cli.main import main
main()
"""
"""The command line where some packages are not installed."""


@pytest.mark.parametrize(
    ("refused", "backend"), [(("mlx", "mlx_lm"), "torch"), (("mlx", "mlx_lm"), "auto"), (("torch", "triton", "peft"), "mlx")]
)
def test_convert_needs_no_more_than_its_backend(tmp_path: Path, backend: str, refused: tuple[str, ...]) -> None:
    source = make_checkpoint(tmp_path / "source")
    call("convert", source, tmp_path / "both", "--backend", "mlx")
    for words in (["convert", source, tmp_path / "one", "--backend", backend], ["--help"]):
        command = [sys.executable, "-c", WITHOUT.format(refused=refused), *map(str, words)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    one, both = ({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("one", "both"))
    assert one == both
