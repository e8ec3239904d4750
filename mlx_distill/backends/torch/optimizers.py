"""What turns gradients into steps, the same as MLX's. What they are, and how their state lies in a file: `backends.states`.

AdamW is PyTorch's own, in one pass over each tensor (fused). PyTorch has no Lion, and its Adafactor is another: those are written out here,
tensor by tensor, so that nothing as large as all values is ever held beside them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import increment_version
from torch.optim.adamw import adamw

from mlx_distill.backends import states
from mlx_distill.backends.torch.trained import Trained, from_file, to_file
from mlx_distill.models.tensors import Shape

State = dict[str, Tensor]
"""Of one value, by the kinds of `states.KINDS`."""


class Optimizer:
    """Of what is in training. It keeps the state of each value beside it, in float32."""

    def __init__(self, name: str, trained: Trained, *, weight_decay: float):
        self._name, self._trained, self._decay = states.known(name), trained, weight_decay
        self._step = 0
        self._states: dict[str, State] = {path: _begun(name, value) for path, value in trained.values().items()}

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def apply(self, gradients: Mapping[str, Tensor], learning_rate: float) -> None:
        """One step, of those values that have a gradient, in place."""
        values = self._trained.values()
        if self._name == "adamw":
            self._adamw([(values[path], gradient, self._states[path]) for path, gradient in gradients.items()], learning_rate)
        self._step += 1
        if self._name != "adamw":
            apply = self._lion if self._name == "lion" else self._adafactor
            for path, gradient in gradients.items():
                apply(values[path], gradient, self._states[path], learning_rate)

    def save(self, folder: Path) -> None:
        """Exact, under the names and in the orientation of the adapter's own file."""
        states.save(folder, self._step, self._shapes(), ((name, to_file(state)) for name, state in self._places()))

    def read(self, folder: Path) -> dict[str, Any]:
        """The state that `save` wrote, to be adopted. Raises CheckpointError where it is damaged, or another's."""
        step, saved = states.read(folder, self._name, self._shapes())
        return {**saved, states.STEP: step}

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def adopt(self, state: Mapping[str, Any]) -> None:
        self._step = state[states.STEP]
        for name, own in self._places():
            own.copy_(from_file(state[name]))

    def _places(self) -> Iterator[tuple[str, Tensor]]:
        """(name in the file, state)"""
        for path, state in self._states.items():
            for kind, tensor in state.items():
                yield f"{self._trained.file_name(path)}.{kind}", tensor

    def _shapes(self) -> dict[str, Shape]:
        return {name: tuple(state.shape) for name, state in self._places()}

    def _adamw(self, each: list[tuple[Tensor, Tensor, State]], learning_rate: float) -> None:
        values, gradients, kept = ([*column] for column in zip(*each, strict=True))
        beta1, beta2 = states.BETAS["adamw"]
        # It counts the steps of each value by itself, in place.
        steps = torch.full((len(each),), float(self._step), device=values[0].device).unbind()
        adamw(
            values, gradients, [state["m"] for state in kept], [state["v"] for state in kept], [], [*steps], fused=True, amsgrad=False,
            beta1=beta1, beta2=beta2, lr=learning_rate, weight_decay=self._decay, eps=states.EPSILON["adamw"], maximize=False,
        )  # fmt: skip
        increment_version(values)  # the fused kernel tells nobody

    def _lion(self, value: Tensor, gradient: Tensor, state: State, learning_rate: float) -> None:
        beta1, beta2 = states.BETAS["lion"]
        toward = (state["m"] * beta1).add_(gradient * (1 - beta1)).sign_()
        state["m"].mul_(beta2).add_(gradient * (1 - beta2))
        value.mul_(1 - learning_rate * self._decay).sub_(toward, alpha=learning_rate)

    def _adafactor(self, value: Tensor, gradient: Tensor, state: State, learning_rate: float) -> None:
        beta = 1 - self._step**states.DECAY
        square = gradient.square().add_(states.EPSILON["adafactor"])
        if "v" in state:
            update = state["v"].mul_(beta).add_(square, alpha=1 - beta).rsqrt()
        else:
            row = state["v_row"].mul_(beta).add_(square.mean(-1), alpha=1 - beta)
            column = state["v_col"].mul_(beta).add_(square.mean(-2), alpha=1 - beta)
            update = torch.outer((row / row.mean()).rsqrt(), column.rsqrt())
        update.mul_(gradient)
        update.div_(update.square().mean().sqrt().clamp_min_(1.0))  # whose RMS would be more than 1 is made 1
        value.mul_(1 - learning_rate * self._decay).sub_(update, alpha=learning_rate)


def _begun(name: str, value: Tensor) -> State:
    """Nothing yet: a state of zeros."""
    if name != "adafactor":
        return {kind: torch.zeros_like(value, requires_grad=False) for kind in states.KINDS[name]}
    if value.ndim < 2:
        return {"v": torch.zeros_like(value, requires_grad=False)}
    rows, columns = value.shape
    return {"v_row": value.new_zeros(rows), "v_col": value.new_zeros(columns)}
