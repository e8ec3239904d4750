"""Reverse-mode differentiation over NumPy, as small as it can be: a value knows what it was computed from, and how a derivative flows back.

Every operation is an array expression and its transpose. Clarity is all: nothing is fused, nothing is freed, everything is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import count
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating[Any]]
Pull = Callable[[Array], Sequence[Array]]
"""From the derivative by a value to the derivatives by its parents."""

_NUMBERS = count()


class Value:
    """An array, and where it came from. `gradient` is there after `backward`."""

    def __init__(self, data: Array, parents: Sequence[Value] = (), pull: Pull | None = None):
        self.data, self._parents, self._pull = data, parents, pull
        self._number = next(_NUMBERS)
        self.gradient: Array | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        return self.data.shape

    def __add__(self, other: Value | float) -> Value:
        other = constant(other, self)
        return Value(self.data + other.data, (self, other), lambda d: (_like(d, self), _like(d, other)))

    def __mul__(self, other: Value | float) -> Value:
        other = constant(other, self)
        return Value(self.data * other.data, (self, other), lambda d: (_like(d * other.data, self), _like(d * self.data, other)))

    def __sub__(self, other: Value | float) -> Value:
        return self + constant(other, self) * -1.0

    def __truediv__(self, other: Value | float) -> Value:
        return self * power(constant(other, self), -1)

    def __matmul__(self, other: Value) -> Value:
        """(..., m, k) by (..., k, n), leading axes alike."""
        a, b = self.data, other.data
        return Value(a @ b, (self, other), lambda d: (d @ b.swapaxes(-1, -2), a.swapaxes(-1, -2) @ d))

    def __getitem__(self, index: Any) -> Value:
        """Anything that NumPy takes; an element that is taken twice gets both derivatives."""

        def pull(d: Array) -> Sequence[Array]:
            out = np.zeros_like(self.data)
            np.add.at(out, index, d)
            return (out,)

        return Value(self.data[index], (self,), pull)

    def reshape(self, *shape: int) -> Value:
        return Value(self.data.reshape(shape), (self,), lambda d: (d.reshape(self.shape),))

    def transpose(self, *axes: int) -> Value:
        return Value(self.data.transpose(axes), (self,), lambda d: (d.transpose(np.argsort(axes)),))

    @property
    def T(self) -> Value:
        return self.transpose(1, 0)

    def sum(self, axis: int | None = None, *, keepdims: bool = False) -> Value:
        def pull(d: Array) -> Sequence[Array]:
            return (np.broadcast_to(d if keepdims or axis is None else np.expand_dims(d, axis), self.shape),)

        return Value(np.asarray(self.data.sum(axis, keepdims=keepdims)), (self,), pull)

    def backward(self) -> None:
        """Of this number by everything that it was computed from."""
        self.gradient = np.ones_like(self.data)
        for value in sorted(self._ancestors(), key=lambda value: value._number, reverse=True):
            if value._pull is None or value.gradient is None:
                continue
            for parent, part in zip(value._parents, value._pull(value.gradient), strict=True):
                parent.gradient = part if parent.gradient is None else parent.gradient + part

    def _ancestors(self) -> Iterable[Value]:
        found: dict[int, Value] = {}
        waiting = [self]
        while waiting:
            value = waiting.pop()
            if value._number not in found:
                found[value._number] = value
                waiting += value._parents
        return found.values()


def constant(x: Value | Array | float, like: Value) -> Value:
    return x if isinstance(x, Value) else Value(np.asarray(x, like.data.dtype))


def detached(x: Value) -> Value:
    """The same numbers, through which nothing flows back."""
    return Value(x.data)


def power(x: Value, exponent: float) -> Value:
    return Value(x.data**exponent, (x,), lambda d: (d * exponent * x.data ** (exponent - 1),))


def exp(x: Value) -> Value:
    out = np.exp(x.data)
    return Value(out, (x,), lambda d: (d * out,))


def log(x: Value) -> Value:
    return Value(np.log(x.data), (x,), lambda d: (d / x.data,))


def tanh(x: Value) -> Value:
    out = np.tanh(x.data)
    return Value(out, (x,), lambda d: (d * (1 - out * out),))


def joined(parts: Sequence[Value], axis: int) -> Value:
    """One after another."""
    cuts = np.cumsum([part.shape[axis] for part in parts])[:-1]
    return Value(np.concatenate([part.data for part in parts], axis), tuple(parts), lambda d: np.split(d, cuts, axis))


def log_sum_exp(x: Value) -> Value:
    """(..., n) to (..., 1); -inf counts nothing. The largest is taken out as a constant, so that nothing overflows."""
    top = x.data.max(-1, keepdims=True)
    return log(exp(x - constant(top, x)).sum(-1, keepdims=True)) + constant(top, x)


def _like(d: Array, x: Value) -> Array:
    """The derivative summed over the axes along which `x` was repeated."""
    d = d.sum(tuple(range(d.ndim - x.data.ndim)))
    return np.asarray(d.sum(tuple(i for i, n in enumerate(x.shape) if n == 1), keepdims=True))
