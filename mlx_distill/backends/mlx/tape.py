"""Reverse-mode differentiation at the grain of a layer's pieces: forward it is plain MLX, and what the backward pass keeps is chosen.

MLX's own transforms trace every operation: compiled kernels are taken apart where a gradient passes through them, whole graphs are kept
until they are evaluated, and a prefix's graph cannot outlive the micro-batches that need its cotangents. A tape notes, piece by piece (a
linear layer, a norm, attention), which numbers went in and how cotangents come back; the pieces' own derivatives are written out
(`elementwise`, `attention`) or MLX's, of that piece alone (`mx.vjp`).

    tape = Tape(variables)
    x = tape.leaf(array)
    y = tape.linear(module, x)                 computed like any array
    cotangents = tape.backward([(y, dy)])      once; of the leaves; those of the variables are added up in `variables`

Where nothing is trained, nothing is noted: the same code measures losses. It knows no model and no rows.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from mlx_distill.backends.mlx import attention, elementwise
from mlx_distill.backends.mlx.attention import Layout
from mlx_distill.backends.mlx.elementwise import Gate

Key = tuple[int, ...]
Assign = Callable[[Sequence[str], Sequence[mx.array]], None]
"""Gives a model the values of variables by their names."""
Pull = Callable[[Sequence[mx.array]], Sequence[mx.array | None]]
"""Cotangents of a piece's results (those that nobody used are 0) to those of what went in."""


Learned = Callable[[Sequence[mx.array]], None]
"""Takes the gradients of a module's variables, in their order."""


class Var:
    """A number of a computation, and its place on the tape; None: no gradient goes there."""

    __slots__ = ("place", "value")

    def __init__(self, value: mx.array, place: int | None):
        self.value, self.place = value, place

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.value.shape)


class Variables:
    """What is trained, by the module that holds it, and the sum of its gradients over all tapes."""

    def __init__(
        self,
        model: nn.Module,
        names: Sequence[str],
        values: Sequence[mx.array],
        assign: Callable[[Sequence[str], Sequence[mx.array]], None],
    ):
        modules = dict(model.named_modules())
        self._assign, self._values = assign, dict(zip(names, values, strict=True))
        self._of: dict[int, list[str]] = {}
        for name in names:
            self._of.setdefault(id(modules[name.rpartition(".")[0]]), []).append(name)
        self.sums: dict[str, mx.array] = {}

    def of(self, module: Any) -> list[str]:
        return self._of.get(id(module), [])

    def within(self, module: nn.Module) -> bool:
        return any(id(part) in self._of for part in module.modules())

    def pull(
        self, names: Sequence[str], compute: Callable[..., mx.array], inputs: Sequence[mx.array], cotangent: mx.array
    ) -> list[mx.array]:
        """Back through `compute(*inputs)`, which reads these variables: the cotangents of the inputs."""
        values = [self._values[name] for name in names]

        def forward(*traced: mx.array) -> mx.array:
            self._assign(names, traced[len(inputs) :])
            return compute(*traced[: len(inputs)])

        cotangents: list[mx.array] = mx.vjp(forward, [*inputs, *values], [cotangent])[1]
        self._assign(names, values)
        self.add(names, cotangents[len(inputs) :])
        return cotangents[: len(inputs)]

    def add(self, names: Sequence[str], gradients: Sequence[mx.array]) -> None:
        for name, gradient in zip(names, gradients, strict=True):
            self.sums[name] = self.sums[name] + gradient if name in self.sums else gradient


@dataclass(frozen=True, slots=True)
class _Note:
    results: Sequence[int]
    inputs: Sequence[int | None]
    pull: Pull
    shapes: Sequence[tuple[tuple[int, ...], mx.Dtype]]


class Tape:
    """`draw` fixes the random numbers by a key, so that a piece that is computed again drops what it dropped."""

    def __init__(
        self, variables: Variables | None = None, *, draw: Callable[[Key], None] | None = None, key: Key = (), recompute: bool = False
    ):
        self._variables, self._draw, self._key, self._recompute = variables, draw, key, recompute
        self._notes: list[_Note | None] = []
        self._places = self._pieces = 0

    def leaf(self, value: mx.array, *, learned: bool = True) -> Var:
        return Var(value, self._place() if learned and self._variables is not None else None)

    # pieces

    def linear(self, module: Any, x: Var) -> Var:
        """Any module of one argument whose result is linear in it (dropout's mask given), with its variables."""
        names, variables = self._names(module), self._variables
        compute = self._drawn(module)
        value = x.value if names else _shadow(x.value)

        def pull(cotangents: Sequence[mx.array]) -> Sequence[mx.array]:
            if names and variables is not None:
                return variables.pull(names, compute, [value], cotangents[0])
            return mx.vjp(compute, [value], [cotangents[0]])[1]

        return self._noted(compute(x.value), [x], pull, names)

    def embedded(self, module: Any, tokens: mx.array) -> Var:
        names, variables = self._names(module), self._variables

        def pull(cotangents: Sequence[mx.array]) -> Sequence[mx.array]:
            assert variables is not None
            return variables.pull(names, lambda: module(tokens), [], cotangents[0])

        return self._noted(module(tokens), [], pull, names)

    def _drawn(self, module: Any) -> Callable[[mx.array], mx.array]:
        """With the same random numbers, however often it is computed."""
        key, draw = (*self._key, self._pieces), self._draw  # not the tape itself: it would hold what it keeps until a collection of cycles
        self._pieces += 1

        def compute(x: mx.array) -> mx.array:
            if draw is not None:
                draw(key)
            out: mx.array = module(x)
            return out

        return compute

    def moved(self, function: Callable[[mx.array], mx.array], x: Var) -> Var:
        """A function without variables that is linear in x: reshaping, turning, picking."""
        shadow = _shadow(x.value)
        return self._noted(function(x.value), [x], lambda cotangents: mx.vjp(function, [shadow], [cotangents[0]])[1])

    def computed(self, module: Any, function: Callable[[mx.array], mx.array], x: Var) -> Var:
        """Any function of x and of one module's variables, derived by MLX."""
        names, variables, value = self._names(module), self._variables, x.value

        def pull(cotangents: Sequence[mx.array]) -> Sequence[mx.array]:
            assert variables is not None
            return variables.pull(names, function, [value], cotangents[0])

        return self._noted(function(value), [x], pull, names)

    def piece(
        self, module: Any, value: mx.array, inputs: Sequence[Var], pull: Callable[[Sequence[mx.array], Learned | None], list[mx.array]]
    ) -> Var:
        """What a caller computed, and derives itself; `pull` is told where the gradients of the module's variables go, if it has some."""
        names, variables = self._names(module), self._variables
        learned = (lambda gradients: variables.add(names, gradients)) if names and variables is not None else None
        return self._noted(value, inputs, lambda cotangents: pull(cotangents, learned), names)

    def norm(self, module: Any, x: Var) -> Var:
        """RMS norm. mlx-lm's Gemma keeps the weight less 1, in a class of its own."""
        value, eps = x.value, module.eps
        weight = module.weight if isinstance(module, nn.RMSNorm) else 1.0 + module.weight

        def pull(cotangents: Sequence[mx.array], learned: Learned | None) -> list[mx.array]:
            dx, dweight = elementwise.rms_norm_pull(value, weight, eps, cotangents[0])
            if learned is not None:
                learned([dweight])
            return [dx]

        return self.piece(module, elementwise.rms_norm(value, weight, eps), [x], pull)

    def gated(self, gate: Gate, x: Var, up: Var) -> Var:
        values = x.value, up.value
        return self._noted(gate.forward(*values), [x, up], lambda cotangents: gate.pull(*values, cotangents[0]))

    def attended(
        self, queries: Var, keys: Var, values: Var, prefix: Sequence[Var], layout: Layout, *, scale: float, cap: float | None
    ) -> Var:
        inputs = [queries, keys, values, *prefix]
        tiles = attention.Tiles(layout, scale, cap, queries.shape[1] // keys.shape[1])
        arrays = [var.value.astype(mx.float32) for var in inputs]
        out, lse = tiles.forward(*arrays)

        def pull(cotangents: Sequence[mx.array]) -> list[mx.array]:
            pulled = tiles.backward(arrays, cotangents[0].astype(mx.float32), out, lse)
            return [gradient.astype(var) for gradient, var in zip(pulled, kinds, strict=True)]

        kinds = [var.value.dtype for var in inputs]
        return self._noted(out.astype(queries.value.dtype), inputs, pull)

    def added(self, x: Var, y: Var) -> Var:
        return self._noted(x.value + y.value, [x, y], lambda cotangents: [cotangents[0], cotangents[0]])

    def joined(self, parts: Sequence[Var]) -> Var:
        """One after another along the first axis."""
        ends = list(itertools.accumulate(var.shape[0] for var in parts))[:-1]
        return self._noted(mx.concatenate([var.value for var in parts]), parts, lambda cotangents: list(mx.split(cotangents[0], ends)))

    def split(self, x: Var, cuts: Sequence[int]) -> list[Var]:
        """Along the last axis."""
        parts = list(mx.split(x.value, list(cuts), axis=-1))
        return self._noted_all(parts, [x], lambda cotangents: [mx.concatenate(list(cotangents), axis=-1)])

    def layer(self, i: int, module: nn.Module, compute: Callable[..., Sequence[Var]], inputs: Sequence[Var]) -> Sequence[Var]:
        """The pieces of layer i, which is `module`: `compute(tape, *inputs)`.

        Kept on this tape; or (recompute) computed without one, and put on another when the backward pass comes by.
        """
        key = (*self._key, i)
        if not self._recompute:
            before, self._key, self._pieces = self._key, key, 0
            out = compute(self, *inputs)
            self._key = before
            self._notes.append(None)  # here the backward pass evaluates
            return out
        values = [(var.value, var.place is not None) for var in inputs]

        def forward(variables: Variables | None) -> tuple[Tape, list[Var], Sequence[Var]]:
            tape = Tape(variables, draw=self._draw, key=key)
            leaves = [tape.leaf(value, learned=learned) for value, learned in values]
            return tape, leaves, compute(tape, *leaves)

        def pull(cotangents: Sequence[mx.array]) -> list[mx.array | None]:
            tape, leaves, results = forward(self._variables)
            found = tape.backward(list(zip(results, cotangents, strict=True)))
            out = [found.get(leaf.place) if leaf.place is not None else None for leaf in leaves]
            mx.eval([array for array in out if array is not None], tape._gradients())
            return out

        results = [var.value for var in forward(None)[2]]
        mx.eval(results)
        return self._noted_all(results, inputs, pull, self._variables is not None and self._variables.within(module))

    # back

    def backward(self, seeds: Sequence[tuple[Var, mx.array]]) -> dict[int, mx.array]:
        """Cotangents by the leaves' places. The tape is used up: what a piece kept is let go as soon as it has been passed."""
        cotangents: dict[int, mx.array] = {}
        for var, cotangent in seeds:
            self._give(cotangents, var.place, cotangent)
        while self._notes:
            note = self._notes.pop()
            if note is None:
                mx.eval(list(cotangents.values()), self._gradients())
                continue
            came = [cotangents.pop(place, None) for place in note.results]
            if any(array is not None for array in came):
                filled = [mx.zeros(*of) if array is None else array for array, of in zip(came, note.shapes, strict=True)]
                for place, given in zip(note.inputs, note.pull(filled), strict=True):
                    self._give(cotangents, place, given)
        return cotangents

    @staticmethod
    def _give(cotangents: dict[int, mx.array], place: int | None, cotangent: mx.array | None) -> None:
        if place is not None and cotangent is not None:
            cotangents[place] = cotangents[place] + cotangent if place in cotangents else cotangent

    def _gradients(self) -> list[mx.array]:
        return list(self._variables.sums.values()) if self._variables is not None else []

    # notes

    def _names(self, module: Any) -> list[str]:
        return self._variables.of(module) if self._variables is not None else []

    def _noted(self, value: mx.array, inputs: Sequence[Var], pull: Pull, names: Sequence[str] = ()) -> Var:
        return self._noted_all([value], inputs, pull, bool(names))[0]

    def _noted_all(self, values: Sequence[mx.array], inputs: Sequence[Var], pull: Pull, learned: bool = False) -> list[Var]:
        if not learned and all(var.place is None for var in inputs):
            return [Var(value, None) for value in values]
        places = [self._place() for _ in values]
        self._notes.append(_Note(places, [var.place for var in inputs], pull, [(tuple(value.shape), value.dtype) for value in values]))
        return [Var(value, place) for value, place in zip(values, places, strict=True)]

    def _place(self) -> int:
        self._places += 1
        return self._places


def _shadow(x: mx.array) -> mx.array:
    """Something of its shape for a function that is linear in it, whose derivative never asks for the values: it is never computed."""
    return mx.zeros(x.shape, x.dtype)
