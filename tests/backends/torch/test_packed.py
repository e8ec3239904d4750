"""Packed layers: what their weights stand for, products and gradients, and who takes them for a Linear."""

from __future__ import annotations

from collections import OrderedDict
from functools import partial
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from mlx_distill.models.unpack import unpack

torch = pytest.importorskip("torch")
peft = pytest.importorskip("peft")

from mlx_distill.backends.torch.kernels import plain  # noqa: E402
from mlx_distill.backends.torch.packed import BITS, GROUP_SIZES, PackedEmbedding, PackedLinear  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")
close = partial(torch.testing.assert_close, rtol=1e-5, atol=1e-4)
shapes = {
    "bits": st.sampled_from(BITS),
    "group_size": st.sampled_from(GROUP_SIZES),
    "groups": st.integers(1, 5),
    "rows": st.integers(1, 40),
}
"""Rows and groups that no block divides."""


def words(seed: int, rows: int, columns: int, bits: int, group_size: int) -> tuple[NDArray[np.uint32], NDArray[Any], NDArray[Any]]:
    """A packed matrix: any bits are legal codes."""
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, 1 << 32, (rows, columns * bits // 32), dtype=np.uint32)
    scales, biases = rng.standard_normal((2, rows, columns // group_size)).astype(np.float32)
    return codes, scales, biases


def linear(rows: int, columns: int, *, bits: int = 4, group_size: int = 64, bias: bool = False, seed: int = 0) -> PackedLinear:
    layer = PackedLinear(columns, rows, bias, bits=bits, group_size=group_size, dtype=torch.float32)
    fill(layer, seed)
    if bias:
        value = np.random.default_rng(seed + 1).standard_normal(rows).astype(np.float32)
        layer.bias = torch.nn.Parameter(torch.from_numpy(value), requires_grad=False)
    return layer


def fill(layer: Any, seed: int) -> None:
    packed = layer.packed
    codes, scales, biases = words(seed, packed.rows, packed.columns, layer.bits, layer.group_size)
    layer.weight, layer.scales, layer.biases = torch.from_numpy(codes.view(np.int32)), torch.from_numpy(scales), torch.from_numpy(biases)


def meant(layer: Any) -> NDArray[np.float32]:
    """What the weights stand for, by the reference in NumPy."""
    packed = layer.packed
    return unpack(layer.weight.numpy().view(np.uint32), layer.scales.numpy(), layer.biases.numpy(), packed.columns)


@settings(max_examples=60, deadline=None)
@given(**shapes)
def test_weights_are_bit_for_bit_what_numpy_and_mlx_unpack(bits: int, group_size: int, groups: int, rows: int) -> None:
    layer = linear(rows, groups * group_size, bits=bits, group_size=group_size, seed=rows)
    parts = (mx.array(layer.weight.numpy().view(np.uint32)), mx.array(layer.scales.numpy()), mx.array(layer.biases.numpy()))
    np.testing.assert_array_equal(layer.dequantized().numpy(), meant(layer))
    np.testing.assert_array_equal(layer.dequantized().numpy(), np.array(mx.dequantize(*parts, group_size=group_size, bits=bits)))


@settings(max_examples=30, deadline=None)
@given(**shapes, many=st.integers(1, 9))
def test_a_product_is_that_of_mlx(bits: int, group_size: int, groups: int, rows: int, many: int) -> None:
    layer = linear(rows, groups * group_size, bits=bits, group_size=group_size, seed=rows)
    x = np.random.default_rng(many).standard_normal((many, groups * group_size)).astype(np.float32)
    parts = (mx.array(layer.weight.numpy().view(np.uint32)), mx.array(layer.scales.numpy()), mx.array(layer.biases.numpy()))
    theirs = np.array(mx.quantized_matmul(mx.array(x), *parts, transpose=True, group_size=group_size, bits=bits))
    np.testing.assert_allclose(layer(torch.from_numpy(x)).numpy(), theirs, rtol=1e-5, atol=1e-5 * float(np.abs(theirs).max()))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_weight_of_16_bits_is_rounded_once(dtype: Any) -> None:
    layer = linear(5, 192, bits=6).to(dtype)
    assert layer.weight.dtype == torch.int32, "codes are no numbers to be cast"
    rounded = layer.dequantized()
    assert torch.equal(rounded, torch.from_numpy(meant(layer.float())).to(dtype))


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("bits", BITS)
def test_a_layer_and_its_gradient_are_those_of_an_unpacked_one(bits: int, bias: bool) -> None:
    layer = linear(37, 160, bits=bits, group_size=32, bias=bias)
    whole = torch.from_numpy(meant(layer))
    x, upstream = torch.randn(2, 3, 160, requires_grad=True), torch.randn(2, 3, 37)
    theirs = torch.nn.functional.linear(x, whole, layer.bias)
    wanted = torch.autograd.grad(theirs, x, upstream)[0]
    close(layer(x), theirs)
    close(torch.autograd.grad(layer(x), x, upstream)[0], wanted)


def test_a_bias_learns_where_it_is_asked_to() -> None:
    layer = linear(5, 64, bias=True)
    layer.bias.requires_grad_(True)
    layer(torch.randn(2, 3, 64)).sum().backward()
    assert layer.bias.grad.tolist() == [6.0] * 5


def test_the_backward_pass_keeps_nothing_dequantized() -> None:
    layer = linear(512, 1024)
    x, kept = torch.randn(3, 1024, requires_grad=True), []

    def keep(tensor: Any) -> Any:
        kept.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        out = layer(x)
        assert kept == []
        torch.nn.functional.linear(x, layer.dequantized())
        assert kept == [512 * 1024], "the hook sees what a plain product keeps"
    held = [getattr(out.grad_fn.packed, name) for name in ("weight", "scales", "biases")]
    assert [tensor.data_ptr() for tensor in held] == [tensor.data_ptr() for tensor in (layer.weight, layer.scales, layer.biases)]


def test_a_product_in_blocks_of_rows_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = linear(70, 128)
    x, weights, whole = torch.randn(4, 128), torch.randn(4, 70), torch.from_numpy(meant(layer))
    seen: list[int] = []

    def noted(packed: plain.Packed) -> Any:
        seen.append(packed.rows)
        return plain.dequantize(packed)

    close(plain.product(x, layer.packed, unpack=noted, limit=16 * 128 * 4), x @ whole.T)
    close(plain.mixed(weights, layer.packed, unpack=noted, limit=16 * 128 * 4), weights @ whole)
    assert seen == [16, 16, 16, 16, 6] * 2
    monkeypatch.setattr(plain, "AT_ONCE", 1)
    assert torch.equal(layer.dequantized(), whole)


@settings(max_examples=20, deadline=None)
@given(bits=st.sampled_from(BITS), seed=st.integers(0, 99))
def test_rows_products_with_rows_and_sums_of_rows_are_those_of_the_whole(bits: int, seed: int) -> None:
    layer = linear(33, 96, bits=bits, group_size=32, bias=True, seed=seed)
    whole = torch.from_numpy(meant(layer))
    ids, x, weights = torch.tensor([7, 0, 32, 7]), torch.randn(2, 96), torch.randn(2, 33)
    assert torch.equal(layer.rows(ids), whole[ids])
    close(layer.product(x, ids), x @ whole[ids].T + layer.bias[ids])
    close(layer.mixed(weights.double()), weights @ whole)


def test_an_embedding_looks_up_rows_and_is_a_head_too() -> None:
    table = PackedEmbedding(40, 128, bits=4, group_size=64, dtype=torch.float32)
    fill(table, 3)
    whole, ids = torch.from_numpy(meant(table)), torch.tensor([[1, 39, 1], [0, 2, 3]])
    assert isinstance(table, torch.nn.Embedding)
    assert torch.equal(table(ids), whole[ids])
    close(table.product(whole[:3]), whole[:3] @ whole.T)


def test_tensors_have_the_names_of_the_files_and_wait_on_meta() -> None:
    layer = PackedLinear(128, 6, True, bits=4, group_size=64, dtype=torch.bfloat16)
    assert {name: (tuple(value.shape), value.dtype) for name, value in layer.state_dict().items()} == {
        "weight": ((6, 16), torch.int32),
        "scales": ((6, 2), torch.bfloat16),
        "biases": ((6, 2), torch.bfloat16),
        "bias": ((6,), torch.bfloat16),
    }
    assert all(value.is_meta for value in layer.state_dict().values())
    assert [name for name, parameter in layer.named_parameters() if parameter.requires_grad] == []


def test_peft_puts_its_adapter_around_a_packed_layer() -> None:
    net = torch.nn.Sequential(OrderedDict(q_proj=linear(48, 128), norm=torch.nn.RMSNorm(48)))
    whole, x = torch.from_numpy(meant(net.q_proj)), torch.randn(3, 128)
    model = peft.get_peft_model(net, peft.LoraConfig(r=2, lora_alpha=4, target_modules=["q_proj"], init_lora_weights=False))
    a, b = (dict(model.named_parameters())[f"base_model.model.q_proj.lora_{part}.default.weight"] for part in "AB")
    out = model(x)
    close(out, net.norm(x @ whole.T + 2.0 * (x @ a.T) @ b.T))
    out.pow(3).sum().backward()
    assert a.grad is not None and b.grad is not None and float(a.grad.abs().sum()) > 0
