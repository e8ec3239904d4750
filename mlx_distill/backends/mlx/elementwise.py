"""The functions between the matmuls, each in as few passes over memory as it needs, with their derivatives written out.

MLX computes exp one number at a time on CPUs (12 ns each on the machine of docs/benchmarks.md, where a product takes 0.3), so that softmax
and SiLU cost as much as a matmul. Here exp is a polynomial in array arithmetic (Cephes' expf, relative error below 3e-7): 3 ns. On a GPU
MLX's own functions are taken. What is kept for the backward pass is the input alone. It knows nothing of models.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, wraps
from typing import Any, TypeVar, cast

import mlx.core as mx

Kernel = TypeVar("Kernel", bound=Callable[..., Any])

LOWEST = -60.0
"""exp(x) is exp(-60) = 9e-27 below this: nothing beside 1 in float32, and far from the subnormal numbers that make CPUs crawl."""
HIGHEST = 60.0
_LOG2E, _LN2_HIGH, _LN2_LOW = 1.4426950408889634, 0.693359375, -2.12194440e-4
_COEFFICIENTS = (1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1)

_traced: list[str] = []
"""A kernel's name for each time that MLX traced it."""


def _compiled(function: Kernel) -> Kernel:
    """Traced and compiled once for each kind of arguments (types, numbers of dimensions), whatever their lengths."""

    @wraps(function)
    def traced(*arrays: mx.array) -> Any:
        _traced.append(function.__name__)  # MLX runs this when it traces, and its own code afterwards
        return function(*arrays)

    return cast(Kernel, mx.compile(traced, shapeless=True))


@cache
def compiles() -> bool:
    """Whether MLX compiles here: on CPUs it needs g++."""
    runs = []

    def probe(x: mx.array) -> mx.array:
        runs.append(x.size)
        return x + 1

    compiled = mx.compile(probe)
    compiled(mx.zeros(1))
    compiled(mx.zeros(1))
    return len(runs) == 1


def compilations() -> int:
    """How often a kernel was traced and compiled in this process; 0 where MLX does not compile, and runs the Python each time."""
    return len(_traced) if compiles() else 0


@cache
def on_cpu() -> bool:
    return bool(mx.default_device() == mx.cpu)


def _in_parts(x: mx.array) -> bool:
    """Whether it is computed by the kernels written here, which know float32 alone."""
    return on_cpu() and x.dtype == mx.float32


def exp_below(x: mx.array, top: mx.array) -> mx.array:
    """exp(x - top) for x <= top (which may broadcast), float32; at least exp(-60), and never infinite where x is above after all."""
    if not on_cpu():
        return _exp_below(x, top)
    mantissa, exponent = _split_below(x, top)
    return _times(mantissa, mx.view(exponent, mx.float32))


def total_of(arrays: Sequence[mx.array]) -> mx.array:
    """Their sum, at least one."""
    total = arrays[0]
    for array in arrays[1:]:
        total = total + array
    return total


def largest(arrays: Sequence[mx.array]) -> mx.array:
    """Of at least one, number by number."""
    top = arrays[0]
    for array in arrays[1:]:
        top = mx.maximum(top, array)
    return top


@dataclass(frozen=True, slots=True)
class Gate:
    """activation(gate) * up, and back: (gate, up, cotangent) to the cotangents of both."""

    forward: Callable[[mx.array, mx.array], mx.array]
    pull: Callable[[mx.array, mx.array, mx.array], tuple[mx.array, mx.array]]


def rms_norm(x: mx.array, weight: mx.array, eps: float) -> mx.array:
    """x / rms(x) * weight over the last axis (Zhang and Sennrich, 2019)."""
    if not _in_parts(x):
        return mx.fast.rms_norm(x, weight, eps)
    return _scaled(x, _inverse_rms(x, eps), weight)


def rms_norm_pull(x: mx.array, weight: mx.array, eps: float, cotangent: mx.array) -> tuple[mx.array, mx.array]:
    """The cotangents of x and, float32, of the weight."""
    if not _in_parts(x):
        dx, dweight = mx.vjp(lambda x, weight: mx.fast.rms_norm(x, weight, eps), [x, weight], [cotangent])[1]
        return dx, dweight.astype(mx.float32)
    inverse = _inverse_rms(x, eps)
    along = mx.sum(_product(x, cotangent, weight), axis=-1, keepdims=True)
    dx = _norm_pulled(x, cotangent, weight, inverse, along * mx.square(inverse) / x.shape[-1])
    dweight = mx.sum((x * inverse * cotangent).reshape(-1, x.shape[-1]), axis=0)
    return dx, dweight.astype(mx.float32)


def _inverse_rms(x: mx.array, eps: float) -> mx.array:
    return mx.rsqrt(mx.sum(mx.square(x), axis=-1, keepdims=True) / x.shape[-1] + eps)


def _swiglu(gate: mx.array, up: mx.array) -> mx.array:
    return _gated(*_negative_exp(gate), gate, up)


def _swiglu_pull(gate: mx.array, up: mx.array, cotangent: mx.array) -> tuple[mx.array, mx.array]:
    return _swiglu_pulled(*_negative_exp(gate), gate, up, cotangent)


def _geglu(gate: mx.array, up: mx.array) -> mx.array:
    return _gated(*_negative_exp(_inside(gate)), gate, up)


def _geglu_pull(gate: mx.array, up: mx.array, cotangent: mx.array) -> tuple[mx.array, mx.array]:
    return _geglu_pulled(*_negative_exp(_inside(gate)), gate, up, cotangent)


SWIGLU = Gate(_swiglu, _swiglu_pull)
"""silu(gate) * up"""
GEGLU = Gate(_geglu, _geglu_pull)
"""gelu_approx(gate) * up, the tanh form"""


def _negative_exp(x: mx.array) -> tuple[mx.array, mx.array]:
    """exp(-x) as a product of two, which the next kernel multiplies out."""
    if not _in_parts(x):
        return _exp_negative(x), mx.ones((), x.dtype)
    mantissa, exponent = _split_negative(x)
    return mantissa, mx.view(exponent, mx.float32)


# The kernels. Each is traced once, whatever the shapes.


def _split(x: mx.array) -> tuple[mx.array, mx.array]:
    """exp(x) as (polynomial, bits of the power of two)."""
    n = mx.round(x * _LOG2E)
    r = (x - n * _LN2_HIGH) - n * _LN2_LOW
    p = mx.full((), 1.9875691500e-4, mx.float32)
    for coefficient in _COEFFICIENTS:
        p = p * r + coefficient
    return p * (r * r) + r + 1.0, (n.astype(mx.int32) + 127) << 23


@_compiled
def _split_below(x: mx.array, top: mx.array) -> tuple[mx.array, mx.array]:
    return _split(mx.minimum(mx.maximum(x - top, LOWEST), 1.0))


@_compiled
def _split_negative(x: mx.array) -> tuple[mx.array, mx.array]:
    return _split(mx.minimum(mx.maximum(-x, LOWEST), HIGHEST))


@_compiled
def _times(a: mx.array, b: mx.array) -> mx.array:
    return a * b


@_compiled
def weighted_gap(weights: mx.array, values: mx.array, mean: mx.array) -> mx.array:
    """weights * (values - mean): softmax, backward."""
    return weights * (values - mean)


@_compiled
def _exp_below(x: mx.array, top: mx.array) -> mx.array:
    return mx.exp(mx.minimum(mx.maximum(x - top, LOWEST), 1.0))


@_compiled
def _exp_negative(x: mx.array) -> mx.array:
    return mx.exp(mx.minimum(mx.maximum(-x, LOWEST), HIGHEST))


@_compiled
def _gated(a: mx.array, b: mx.array, gate: mx.array, up: mx.array) -> mx.array:
    """gate * sigmoid * up, where sigmoid is 1 / (1 + a b)."""
    return gate * up / (1.0 + a * b)


@_compiled
def _swiglu_pulled(a: mx.array, b: mx.array, gate: mx.array, up: mx.array, cotangent: mx.array) -> tuple[mx.array, mx.array]:
    sigmoid = 1.0 / (1.0 + a * b)
    return cotangent * up * sigmoid * (1.0 + gate * (1.0 - sigmoid)), cotangent * gate * sigmoid


@_compiled
def _inside(x: mx.array) -> mx.array:
    """gelu_approx(x) = x * sigmoid(of this): 0.5 (1 + tanh u) is sigmoid(2 u)."""
    return 1.5957691216057308 * x * (1.0 + 0.044715 * x * x)


@_compiled
def _geglu_pulled(a: mx.array, b: mx.array, gate: mx.array, up: mx.array, cotangent: mx.array) -> tuple[mx.array, mx.array]:
    sigmoid = 1.0 / (1.0 + a * b)
    slope = 1.5957691216057308 * (1.0 + 0.134145 * gate * gate)
    return cotangent * up * sigmoid * (1.0 + gate * (1.0 - sigmoid) * slope), cotangent * gate * sigmoid


@_compiled
def _scaled(x: mx.array, inverse: mx.array, weight: mx.array) -> mx.array:
    return x * inverse * weight


@_compiled
def _product(x: mx.array, y: mx.array, weight: mx.array) -> mx.array:
    return x * y * weight


@_compiled
def _norm_pulled(x: mx.array, cotangent: mx.array, weight: mx.array, inverse: mx.array, along: mx.array) -> mx.array:
    return inverse * (cotangent * weight - x * along)
