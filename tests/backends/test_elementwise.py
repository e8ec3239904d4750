"""The functions between the matmuls are NumPy's and mlx.nn's, forward and backward, on the way that CPUs take and on that of a GPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from mlx_distill.backends.base import Backend
from mlx_distill.backends.mlx import elementwise
from mlx_distill.backends.mlx.elementwise import GEGLU, HIGHEST, LOWEST, SWIGLU, Gate, exp_below, rms_norm, rms_norm_pull, weighted_gap

GATES = {"swiglu": (SWIGLU, lambda gate, up: nn.silu(gate) * up), "geglu": (GEGLU, lambda gate, up: nn.gelu_approx(gate) * up)}
Plain = Callable[[mx.array, mx.array], mx.array]


@pytest.fixture(params=["as on a CPU", "as on a GPU"], autouse=True)
def way(request: pytest.FixtureRequest, backend: Backend, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(elementwise, "on_cpu", lambda: request.param == "as on a CPU")
    yield


def normal(*shape: int, spread: float = 1.0, seed: int = 0) -> mx.array:
    return mx.array(np.random.default_rng([seed, *shape]).normal(0, spread, shape).astype(np.float32))


def relative(ours: mx.array, theirs: mx.array | np.ndarray) -> float:
    one, other = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    assert one.shape == other.shape
    return float(np.abs(one - other).max() / np.abs(other).max())


def exact() -> float:
    """What MLX's own exp, the GPU's way, reaches on a CPU is less than the polynomial's."""
    return 3e-7 if elementwise.on_cpu() else 5e-6


def test_exp_is_exact_over_its_whole_range() -> None:
    x = np.linspace(LOWEST, 0, 200_001, dtype=np.float32)
    found = np.asarray(exp_below(mx.array(x), mx.zeros(1)), np.float64)
    assert np.abs(found / np.exp(x.astype(np.float64)) - 1).max() <= exact()
    assert found[-1] == 1.0


def test_exp_counts_from_the_top_of_each_row() -> None:
    x, top = normal(3, 5, spread=40), mx.array([[100.0], [150.0], [200.0]])
    wanted = np.exp(np.maximum(np.asarray(x, np.float64) - np.asarray(top), LOWEST))
    np.testing.assert_allclose(np.asarray(exp_below(x, top)), wanted, rtol=exact())


def test_exp_of_what_is_hidden_is_nothing_beside_one_and_of_what_is_above_finite() -> None:
    found = np.asarray(exp_below(mx.array([-np.inf, -1e30, -61.0, 0.5, 1e30, np.inf]), mx.zeros(1)))
    assert (found[:3] <= np.exp(LOWEST) * 1.001).all() and (found[:3] > 0).all()
    assert np.float32(1) + found[0] * 1e9 == 1
    assert np.isfinite(found).all()
    assert np.isnan(np.asarray(exp_below(mx.array([np.nan]), mx.zeros(1)))).all(), "what is broken stays broken"


@pytest.mark.parametrize("name", GATES)
def test_gates_are_those_of_mlx_nn_and_so_are_their_derivatives(name: str) -> None:
    gate: Gate = GATES[name][0]
    plain: Plain = GATES[name][1]
    for spread in (0.1, 1.0, 10.0):
        x, up, cotangent = (normal(7, 33, spread=spread, seed=seed) for seed in range(3))
        assert relative(gate.forward(x, up), plain(x, up)) <= 2e-6
        for ours, theirs in zip(gate.pull(x, up, cotangent), mx.vjp(plain, [x, up], [cotangent])[1], strict=True):
            assert relative(ours, theirs) <= 2e-6


@pytest.mark.parametrize("name", GATES)
def test_gates_far_from_zero_are_nothing_or_the_identity(name: str) -> None:
    gate: Gate = GATES[name][0]
    far = mx.array([-1e4, -2 * HIGHEST, 2 * HIGHEST, 1e4])
    np.testing.assert_allclose(np.asarray(gate.forward(far, mx.ones(4))), [0, 0, 2 * HIGHEST, 1e4], atol=1e-20)
    slopes, _ = gate.pull(far, mx.ones(4), mx.ones(4))
    np.testing.assert_allclose(np.asarray(slopes), [0, 0, 1, 1], atol=1e-12)


@pytest.mark.parametrize("shape", [(5, 16), (3, 4, 8), (1, 64)])
def test_rms_norm_is_mlx_nn_s_and_so_is_its_derivative(shape: tuple[int, ...]) -> None:
    def plain(x: mx.array, weight: mx.array) -> mx.array:
        return x * mx.rsqrt(mx.mean(mx.square(x), axis=-1, keepdims=True) + 1e-6) * weight

    norm = nn.RMSNorm(shape[-1], 1e-6)
    norm.weight = 1 + normal(shape[-1], spread=0.3)
    for spread in (1e-3, 1.0, 100.0):
        x, cotangent = normal(*shape, spread=spread), normal(*shape, seed=1)
        assert relative(rms_norm(x, norm.weight, 1e-6), norm(x)) <= 1e-6
        ours = rms_norm_pull(x, norm.weight, 1e-6, cotangent)
        for one, other in zip(ours, mx.vjp(plain, [x, norm.weight], [cotangent])[1], strict=True):
            assert relative(one, other) <= 3e-6
        assert ours[1].dtype == mx.float32


@pytest.mark.parametrize("kind", [mx.float32, mx.bfloat16, mx.float16])
def test_a_model_computes_in_its_own_type(kind: mx.Dtype) -> None:
    """In 16 bits as in 32: what a gate or a norm gives back is of the type that it was given, and not far off."""
    x, up, weight = (normal(4, 16, seed=seed).astype(kind) for seed in range(3))
    for out, exact in (
        (SWIGLU.forward(x, up), nn.silu(x.astype(mx.float32)) * up),
        (GEGLU.forward(x, up), nn.gelu_approx(x.astype(mx.float32)) * up),
        (rms_norm(x, weight[0], 1e-6), mx.fast.rms_norm(x.astype(mx.float32), weight[0].astype(mx.float32), 1e-6)),
    ):
        assert out.dtype == kind
        assert relative(out.astype(mx.float32), exact) <= {mx.float32: 1e-6, mx.float16: 3e-3, mx.bfloat16: 2e-2}[kind]


def test_the_gap_of_a_softmax_is_weighted() -> None:
    weights, values, mean = normal(2, 3, 4), normal(2, 3, 4, seed=1), normal(2, 3, 1)
    np.testing.assert_allclose(
        np.asarray(weighted_gap(weights, values, mean)), np.asarray(weights) * (np.asarray(values) - np.asarray(mean))
    )


@pytest.mark.skipif(not elementwise.compiles(), reason="MLX compiles nothing here")
def test_kernels_are_traced_no_oftener_whatever_lengths_come() -> None:
    def everything(rows: int, width: int) -> None:
        x, up = normal(rows, width), normal(rows, width, seed=1)
        weight = mx.ones(width)
        for gate in (SWIGLU, GEGLU):
            mx.eval(gate.forward(x, up), gate.pull(x, up, x))
        mx.eval(rms_norm(x, weight, 1e-6), rms_norm_pull(x, weight, 1e-6, up))
        mx.eval(exp_below(x[None], x[None].max(axis=-1, keepdims=True)), weighted_gap(x[None], up[None], x[None, :, :1]))

    everything(2, 3)
    before = elementwise.compilations()
    for i in range(10):
        everything(3 + i, 5 + 7 * i)
    assert elementwise.compilations() == before > 0
