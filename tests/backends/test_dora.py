"""DoRA computes the formula of the paper, as mlx-lm's layers do, on weights as they are and packed; and so with rsLoRA and a few layers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from mlx_distill.backends.base import Backend, LoraShape
from mlx_distill.backends.lora import magnitude_name, names
from mlx_distill.backends.mlx import lora
from mlx_distill.errors import BackendError
from tests.backends import plain
from tests.backends.test_mlx_update import adapter_of, prepared, same, two_groups
from tests.checkpoints import VOCABULARY
from tests.conftest import MakeBase

SHAPE = LoraShape(4, 8, 0.0, ("v_proj", "q_proj", "down_proj"), dora=True)
EVERYTHING = np.arange(VOCABULARY, dtype=np.int32)


def linear(bits: int | None, bias: bool) -> nn.Module:
    layer = nn.Linear(64, 48, bias=bias)
    layer.weight = mx.array(np.random.default_rng(0).normal(0, 0.3, (48, 64)).astype(np.float32))
    if bias:
        layer.bias = mx.array(np.random.default_rng(1).normal(0, 1, 48).astype(np.float32))
    return layer if bits is None else nn.QuantizedLinear.from_linear(layer, 32, bits)


def filled(base: nn.Module, shape: LoraShape = SHAPE) -> lora.DoraLinear:
    layer = lora.DoraLinear(base, shape)
    generator = np.random.default_rng(2)
    for name in layer.VALUES:
        layer[name] = mx.array(generator.uniform(0.2, 1.0, layer[name].shape).astype(np.float32))
    layer.eval()
    return layer


def unpacked(base: nn.Module) -> np.ndarray[Any, Any]:
    whole = base.weight if "scales" not in base else mx.dequantize(base.weight, base.scales, base.biases, base.group_size, base.bits)
    return np.asarray(whole, np.float64)


@pytest.mark.parametrize("bits", [None, 3, 4, 8])
@pytest.mark.parametrize("bias", [False, True])
def test_a_layer_computes_the_formula_of_the_paper(bits: int | None, bias: bool) -> None:
    base = linear(bits, bias)
    layer = filled(base)
    a, b, m = (np.asarray(layer[name], np.float64) for name in layer.VALUES)
    changed = unpacked(base) + SHAPE.scale * (a @ b).T
    weight = m[:, None] * changed / np.linalg.norm(changed, axis=1, keepdims=True)
    x = np.random.default_rng(3).normal(0, 1, (5, 64)).astype(np.float32)
    expected = x @ weight.T + (np.asarray(base.bias) if bias else 0)
    np.testing.assert_allclose(np.asarray(layer(mx.array(x))), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("bits", [None, 4])
def test_row_norms_do_not_depend_on_how_many_rows_are_unpacked_at_a_time(bits: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    base = linear(bits, bias=False)
    monkeypatch.setattr(lora, "NORM_BYTES", 7 * 4 * 64)
    np.testing.assert_allclose(np.asarray(lora.squared_norms(base)), np.square(unpacked(base)).sum(1), rtol=1e-5)


def test_what_was_settled_holds_for_these_very_values_alone() -> None:
    base = linear(None, bias=True)
    layer, x = filled(base), mx.ones((1, 64))
    before = layer(x)
    layer.settle()
    assert np.array_equal(np.asarray(layer(x)), np.asarray(before))
    for name in layer.VALUES:
        layer[name] = layer[name] * 1.5
        fresh = lora.DoraLinear(base, SHAPE)
        fresh.update({key: layer[key] for key in layer.VALUES})
        fresh.eval()
        assert np.array_equal(np.asarray(layer(x)), np.asarray(fresh(x))), name
        layer.settle()


@plain.FORMS
def test_an_untrained_adapter_answers_as_the_base_and_its_magnitudes_are_row_norms(base: MakeBase, bits: int | None, unpack: bool) -> None:
    folder = base(bits=bits)
    student, group = prepared(folder, SHAPE, unpack=unpack), two_groups()
    expected = plain.row_nats(plain.plain_model(folder), group)
    assert {name: loss.nats for name, loss in student.loss(group).items()} == pytest.approx(expected, rel=1e-5)
    values = adapter_of(student)
    for path, module in plain.projections(plain.plain_model(folder), SHAPE).items():
        np.testing.assert_allclose(values[magnitude_name(path)], np.linalg.norm(unpacked(module), axis=1), rtol=1e-5)


@plain.FORMS
@pytest.mark.parametrize("family", ["qwen2", "phi3"])
def test_losses_and_gradient_are_those_of_mlx_lm_s_dora(base: MakeBase, family: str, bits: int | None, unpack: bool) -> None:
    folder, shape, groups = base(family, bits=bits), replace(plain.shape_of(family), dora=True), two_groups()
    weights = plain.random_adapter(folder, shape)
    student, model = prepared(folder, shape, weights=weights, unpack=unpack), plain.plain_model(folder, weights, shape)
    ours = plain.our_gradient(student, groups)
    theirs = {
        path.removesuffix(".m") + (".magnitude" if path.endswith(".m") else ""): g for path, g in plain.gradient(model, groups).items()
    }
    assert plain.distance(ours, theirs) <= 1e-5
    expected = plain.row_nats(model, groups)
    assert {name: loss.nats for name, loss in student.loss(groups).items()} == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("kind", [{"rslora": True}, {"layers": 1}], ids=str)
def test_rslora_and_the_last_layers_learn_what_mlx_lm_s_layers_would(base: MakeBase, kind: dict[str, Any]) -> None:
    folder, groups = base(num_hidden_layers=3), two_groups()
    shape = replace(plain.shape_of(), **kind)
    weights = plain.random_adapter(folder, shape)
    assert {name.split(".")[4] for name in weights} == ({"2"} if shape.layers else {"0", "1", "2"})
    student, model = prepared(folder, shape, weights=weights), plain.plain_model(folder, weights, shape)
    assert plain.distance(plain.our_gradient(student, groups), plain.gradient(model, groups)) <= 1e-5


def test_a_step_changes_what_is_answered_and_what_is_saved_answers_the_same(backend: Backend, base: MakeBase, tmp_path: Path) -> None:
    folder = base()
    student, ids = prepared(folder, SHAPE), plain.random_ids(np.random.default_rng(0), 12)

    def answer(student: Any, adapter: str | None) -> Any:
        session = student.session(ids[:4], adapter=adapter)
        (handle,) = session.admit([ids[4:]])
        return session.read({handle: [-1]}, {handle: [EVERYTHING]})[handle][0]

    before = answer(student, None)
    student.update(two_groups(), learning_rate=1e-2, clip_norm=None, step=0)
    after = answer(student, None)
    assert np.abs(after - before).max() > 1e-3
    student.save_adapter(tmp_path)
    np.testing.assert_array_equal(answer(backend.open(folder, adapters={"kept": tmp_path}), "kept"), after)


def test_a_resume_is_exact(base: MakeBase, tmp_path: Path) -> None:
    folder, shape = base(num_hidden_layers=2, bits=4), replace(SHAPE, dropout=0.1, layers=1, rslora=True)
    whole, first, second = (prepared(folder, shape, seed=3) for _ in range(3))
    for step in range(4):
        whole.update(two_groups(step), learning_rate=1e-2, clip_norm=0.5, step=step)
    for step in range(2):
        first.update(two_groups(step), learning_rate=1e-2, clip_norm=0.5, step=step)
    first.save_state(tmp_path)
    second.load_state(tmp_path)
    for step in (2, 3):
        second.update(two_groups(step), learning_rate=1e-2, clip_norm=0.5, step=step)
    assert same(adapter_of(second), adapter_of(whole))


def test_an_adapter_of_another_base_is_refused(base: MakeBase) -> None:
    folder = base(num_hidden_layers=1)
    weights = plain.random_adapter(folder, SHAPE)
    module = next(iter(plain.projections(plain.plain_model(folder), SHAPE)))
    short = weights | {magnitude_name(module): weights[magnitude_name(module)][1:]}
    for broken, message in (
        (short, "lora_magnitude_vector is"),
        ({k: v for k, v in weights.items() if k != names(module)[0]}, "not of this"),
    ):
        with pytest.raises(BackendError, match=message) as caught:
            prepared(folder, SHAPE, weights=broken)
        assert caught.value.hint
