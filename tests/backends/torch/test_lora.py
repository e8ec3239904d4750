"""Low-rank layers say what PEFT's say and have PEFT's gradients, over packed weights too; dropout follows from a key; little is kept."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mlx_distill.backends.base import LoraShape
from mlx_distill.backends.lora import names
from mlx_distill.backends.torch import lora
from mlx_distill.backends.torch.lora import DoraLinear, Draw, LoraLinear
from mlx_distill.backends.torch.model import Model, open_model
from mlx_distill.backends.torch.trained import Adapter
from mlx_distill.errors import BackendError
from tests.backends import plain
from tests.conftest import MakeBase

peft = pytest.importorskip("peft")
transformers = pytest.importorskip("transformers")

LORA = LoraShape(4, 8, 0.0, ("q_proj", "v_proj", "o_proj", "up_proj"))
DORA = LoraShape(4, 8, 0.0, ("q_proj", "v_proj", "o_proj", "up_proj"), dora=True)
RANK_STABLE = LoraShape(4, 8, 0.0, ("k_proj", "down_proj"), layers=1, rslora=True)
KINDS = pytest.mark.parametrize("shape", [LORA, RANK_STABLE, DORA], ids=["lora", "rslora", "dora"])
IDS = torch.from_numpy(plain.random_ids(np.random.default_rng(0), 24).astype(np.int64))[None]


def opened(base: Path, *, unpack: bool = False, dtype: torch.dtype = torch.float32) -> Model:
    return open_model(base, device=torch.device("cpu"), dtype=dtype, unpack=unpack)


def worn(model: Model, shape: LoraShape, weights: dict[str, NDArray[np.float32]]) -> Adapter:
    adapter = Adapter(model, lora.linears(model.net), shape, weights)
    adapter.put_on()
    adapter.learn(True)
    return adapter


def said(model: Model) -> Tensor:
    """Logits of a text, by transformers' own forward; a packed head that is the embedding is none of its own."""
    return model.head.logits(model.net.model(input_ids=IDS).last_hidden_state[0])


def gradients(logits: Tensor, values: dict[str, Tensor]) -> tuple[NDArray[np.float32], dict[str, NDArray[np.float32]]]:
    """The logits, and the gradient of the mean of their squares."""
    logits.square().mean().backward()
    return logits.detach().numpy(), {name: value.grad.float().numpy() for name, value in values.items() if value.grad is not None}


def ours(model: Model, adapter: Adapter) -> tuple[NDArray[np.float32], dict[str, NDArray[np.float32]]]:
    return gradients(said(model), {adapter.file_name(path): value for path, value in adapter.values().items()})


def layer(shape: LoraShape, *, draw: Draw | None = None, dtype: torch.dtype = torch.float32) -> LoraLinear:
    """Over random weights, with random values that are to be learned."""
    generator = torch.Generator().manual_seed(1)
    linear = nn.Linear(24, 16, dtype=dtype).requires_grad_(False)
    filled(linear.weight, linear.bias, generator=generator)
    made = (DoraLinear if shape.dora else LoraLinear)(linear, shape, "model.layers.0.q_proj", draw or Draw())
    filled(made.lora_a, made.lora_b, generator=generator)
    for name in made.VALUES:
        getattr(made, name).requires_grad_(True)
    return made


def filled(*tensors: Tensor, generator: torch.Generator) -> None:
    """With numbers that bfloat16 holds as they are."""
    with torch.no_grad():
        for tensor in tensors:
            tensor.copy_((torch.randn(tensor.shape, generator=generator) * 0.3).bfloat16())


# The same as PEFT's


@KINDS
def test_logits_and_gradients_are_peft_s(base: MakeBase, tmp_path: Path, shape: LoraShape) -> None:
    folder = base()
    adapter = worn(model := opened(folder), shape, plain.random_adapter(folder, shape))
    adapter.save(tmp_path, base="tiny")
    source = transformers.AutoModelForCausalLM.from_pretrained(folder.parent / "checkpoint", dtype=torch.float32)
    theirs = peft.PeftModel.from_pretrained(source, tmp_path, is_trainable=True).eval()
    logits, wanted = gradients(
        theirs(input_ids=IDS).logits[0], {name.replace(".default", ""): value for name, value in theirs.named_parameters()}
    )
    found, gradient = ours(model, adapter)
    np.testing.assert_allclose(found, logits, atol=1e-5)
    assert (
        plain.distance(gradient, {name.replace("magnitude_vector.weight", "magnitude_vector"): each for name, each in wanted.items()})
        <= 1e-5
    )


@KINDS
def test_over_packed_weights_they_are_those_over_what_is_packed(base: MakeBase, shape: LoraShape) -> None:
    folder = base(bits=4)
    weights = plain.random_adapter(folder, shape)
    (logits, gradient), (wanted, theirs) = (
        ours(model, worn(model, shape, weights)) for model in (opened(folder, unpack=unpack) for unpack in (False, True))
    )
    np.testing.assert_allclose(logits, wanted, atol=1e-5)
    assert plain.distance(gradient, theirs) <= 1e-5


@pytest.mark.parametrize("bits", [None, 4])
def test_first_values_leave_the_base_as_it_answers(base: MakeBase, bits: int | None) -> None:
    model = opened(base(bits=bits))
    before = said(model)
    for shape in (LORA, DORA):
        adapter = Adapter(model, lora.linears(model.net), shape)
        adapter.start(seed=0)
        adapter.put_on()
        torch.testing.assert_close(said(model), before, atol=1e-5, rtol=1e-5)
        adapter.take_off()
    assert torch.equal(said(model), before)


# Dropout


def dropping(key: int | None, path: str = "model.layers.0.q_proj") -> Tensor:
    """What of 4,000 ones gets to the adapter: with a base of zeros and factors that are the identity, y is what dropout left of x."""
    made = LoraLinear(nn.Linear(8, 8, bias=False), LoraShape(8, 8, 0.25, ("q_proj",)), path, Draw(key))
    with torch.no_grad():
        made.linear.weight.zero_()
        made.lora_a.copy_(torch.eye(8))
        made.lora_b.copy_(torch.eye(8))
        return made(torch.ones(500, 8))


def test_what_is_dropped_follows_from_key_and_place_and_the_rest_makes_up_for_it() -> None:
    left = dropping(7)
    assert left.unique().tolist() == pytest.approx([0, 4 / 3])
    assert float((left == 0).float().mean()) == pytest.approx(0.25, abs=0.03)
    assert torch.equal(left, dropping(7))
    assert not torch.equal(left, dropping(8))
    assert not torch.equal(left, dropping(7 + 2**40)), "PyTorch's CPU generator alone would not see it"
    assert not torch.equal(left, dropping(7, "model.layers.1.q_proj"))
    assert torch.equal(dropping(None), torch.ones(500, 8))


@pytest.mark.parametrize("dora", [False, True], ids=["lora", "dora"])
def test_the_gradient_is_that_of_the_mask_that_was_drawn(dora: bool) -> None:
    shape = LoraShape(4, 8, 0.25, ("q_proj",), dora=dora)
    draw = Draw(7)
    made = layer(shape, draw=draw)
    x = torch.randn(500, 24, generator=torch.Generator().manual_seed(0), requires_grad=True)
    mask = masked(made, draw)
    cotangent = torch.randn(500, 16, generator=torch.Generator().manual_seed(2))
    values = [x, *(getattr(made, name) for name in made.VALUES)]
    found = torch.autograd.grad(made(x), values, cotangent)
    wanted = torch.autograd.grad(written_out(made, x, x * mask), values, cotangent)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5 * float(other.abs().max()))


def masked(made: LoraLinear, draw: Draw) -> Tensor:
    """The mask of a layer for (500, 24), read off what it answers to ones."""
    probe = LoraLinear(nn.Linear(24, 24, bias=False), LoraShape(24, 24, 0.25, ("q_proj",)), "model.layers.0.q_proj", draw)
    with torch.no_grad():
        probe.linear.weight.zero_()
        probe.lora_a.copy_(torch.eye(24))
        probe.lora_b.copy_(torch.eye(24))
        out: Tensor = probe(torch.ones(500, 24))
    return out


def written_out(made: LoraLinear, x: Tensor, dropped: Tensor) -> Tensor:
    """The formulas of the papers, left to autograd."""
    delta = made.lora_b @ made.lora_a * made.scale
    if not isinstance(made, DoraLinear):
        return made.linear(x) + dropped @ delta.T
    gain = made.magnitude / (made.linear.weight + delta).norm(dim=1).detach()
    return gain * (x @ made.linear.weight.T + dropped @ delta.T) + made.linear.bias


# What is kept, and in what type


def test_beside_the_base_s_own_a_layer_keeps_x_and_ax_alone() -> None:
    made, x = layer(LoraShape(4, 8, 0.25, ("q_proj",)), draw=Draw(7)), torch.randn(1000, 24, requires_grad=True)
    kept: dict[int, int] = {}

    def seen(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(seen, lambda tensor: tensor):
        (made(x) + made(x)).sum()
    values = {each.untyped_storage().data_ptr() for each in (made.linear.weight, made.lora_a, made.lora_b)}
    assert sum(size for place, size in kept.items() if place not in values) == 4 * 1000 * (24 + 2 * 4)


@pytest.mark.parametrize("bits", [None, 4])
def test_the_sum_is_made_where_the_base_s_answer_lies(base: MakeBase, bits: int | None) -> None:
    folder, path = base(bits=bits), "model.layers.0.self_attn.q_proj"
    model = opened(folder)
    worn(model, LORA, plain.random_adapter(folder, LORA))
    made = model.net.get_submodule(path)
    places: list[int] = []
    made.linear.register_forward_hook(lambda module, given, out: places.append(out.data_ptr()))
    assert made(torch.randn(5, 64, requires_grad=True)).data_ptr() == places[0]


def test_an_input_that_learns_nothing_gets_no_gradient_and_the_values_get_theirs() -> None:
    made, x = layer(LORA), torch.randn(50, 24)
    made(x).sum().backward()
    assert x.grad is None
    other = layer(LORA)
    other(x.requires_grad_()).sum().backward()
    assert torch.equal(made.lora_a.grad, other.lora_a.grad) and torch.equal(made.lora_b.grad, other.lora_b.grad)


@pytest.mark.parametrize("shape", [LORA, DORA], ids=["lora", "dora"])
def test_in_half_precision_gradients_are_float32_to_the_end(shape: LoraShape) -> None:
    x = torch.randn(4000, 24, generator=torch.Generator().manual_seed(0)).bfloat16()
    half, whole = layer(shape, dtype=torch.bfloat16), layer(shape)
    for made, given in ((half, x), (whole, x.float())):
        made(given).float().square().mean().backward()
    for name in half.VALUES:
        found, wanted = getattr(half, name).grad, getattr(whole, name).grad
        assert found.dtype == torch.float32
        assert not torch.equal(found, found.bfloat16().float())
        assert float((found - wanted).norm() / wanted.norm()) <= 1e-2


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_change_in_place_is_seen_after_a_session_and_training_goes_on(dtype: torch.dtype) -> None:
    """What is computed of the values once, in inference, must be a constant that a backward pass may keep, and not the old one."""
    made, x = layer(DORA, dtype=dtype), torch.randn(5, 24, dtype=dtype)
    with torch.inference_mode():
        made.settle()
        before = made(x)
    torch.testing.assert_close(made(x), before)
    made(x).sum().backward()
    with torch.no_grad():
        made.lora_a.mul_(2)
        made.lora_b.mul_(-1)
    fresh = layer(DORA, dtype=dtype)
    fresh.load_state_dict(made.state_dict())
    made.settle()
    torch.testing.assert_close(made(x), fresh(x))
    assert not torch.allclose(made(x), before)


# What does not fit


def test_an_adapter_of_another_base_is_refused_and_nothing_is_set(base: MakeBase) -> None:
    folder = base(num_hidden_layers=1)
    weights, model = plain.random_adapter(folder, LORA), opened(folder)
    module = "model.layers.0.self_attn.q_proj"
    (a, b), far = names(module), names("model.layers.9.self_attn.q_proj")
    for broken, message in (
        ({**weights, far[0]: weights[a], far[1]: weights[b]}, "the adapter is not of this base: model.layers.9"),
        ({name: value for name, value in weights.items() if name != b}, f"the adapter is not of this base: {b} differs"),
        ({**weights, a: weights[a][:, 1:]}, f"{a} is .4, 63.; this base needs .4, 64."),
    ):
        with pytest.raises(BackendError, match=message) as caught:
            Adapter(model, lora.linears(model.net), LORA, broken)
        assert caught.value.hint
    adapter = Adapter(model, lora.linears(model.net), LORA)
    with pytest.raises(BackendError):
        adapter.fill({**weights, a: weights[a][:, 1:]})
    assert not any(value.any() for value in adapter.values().values())
