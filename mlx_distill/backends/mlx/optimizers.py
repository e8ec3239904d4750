"""What turns gradients into steps, by MLX's own optimizers. What they are, and how their state lies in a file: `backends.states`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.optimizers as optim

from mlx_distill.backends import states
from mlx_distill.backends.mlx.trained import Trained
from mlx_distill.models.tensors import Shape

KINDS = {"exp_avg_sq_row": "v_row", "exp_avg_sq_col": "v_col", "exp_avg_sq": "v"}
"""What files call the states that MLX calls otherwise."""


class Optimizer:
    """Of what is in training. It keeps the state of each value beside it, in float32."""

    def __init__(self, name: str, trained: Trained, *, weight_decay: float):
        self._name, self._trained = states.known(name), trained
        self._optimizer = _made(name, weight_decay)
        self._optimizer.init(trained.values())

    def apply(self, gradients: Mapping[str, mx.array], learning_rate: float) -> None:
        """One step, by MLX's paths."""
        self._optimizer.learning_rate = learning_rate
        updated = self._optimizer.apply_gradients(gradients, self._trained.values())
        mx.eval(updated, self._optimizer.state)
        self._trained.set(updated)

    def save(self, folder: Path) -> None:
        """Exact, under the names and in the orientation of the adapter's own file."""
        to_file = self._trained.to_file
        values = ((name, to_file(self.state[path][key])) for name, path, key in self._places())
        states.save(folder, self.state["step"].item(), self._shapes(), values)

    def read(self, folder: Path) -> dict[str, Any]:
        """The state that `save` wrote, to be adopted. Raises CheckpointError where it is damaged, or another's."""
        step, saved = states.read(folder, self._name, self._shapes())
        state: dict[str, Any] = {**self.state, **{path: {} for path in self._trained.values()}}
        for name, path, key in self._places():
            state[path][key] = self._trained.from_file(saved[name])
        return {**state, "step": mx.array(step, self.state["step"].dtype)}

    def adopt(self, state: dict[str, Any]) -> None:
        self._optimizer.state = state
        mx.eval(state)

    @property
    def state(self) -> dict[str, Any]:
        state: dict[str, Any] = self._optimizer.state
        return state

    def _shapes(self) -> dict[str, Shape]:
        """Of each state, by its name in the file, in the file's orientation."""
        turn = -1 if self._trained.transposed else 1
        return {name: tuple(self.state[path][key].shape[::turn]) for name, path, key in self._places()}

    def _places(self) -> Iterator[tuple[str, str, str]]:
        """(name in the file, parameter, MLX's name of the state). What are rows to MLX are columns to a file that holds the transpose."""
        for path in self._trained.values():
            for key in self.state[path]:
                kind = KINDS.get(key, key)
                kind = states.FACTORS.get(kind, kind) if self._trained.transposed else kind
                yield f"{self._trained.file_name(path)}.{kind}", path, key


def _made(name: str, weight_decay: float) -> Any:
    """MLX's optimizer of that name."""
    if name == "adamw":
        return optim.AdamW(0.0, [*states.BETAS[name]], states.EPSILON[name], weight_decay, bias_correction=True)
    if name == "lion":
        return optim.Lion(0.0, [*states.BETAS[name]], weight_decay)
    epsilon = (states.EPSILON[name], 0.0)  # the second is for parameters that scale their step
    return optim.Adafactor(0.0, epsilon, decay_rate=states.DECAY, weight_decay=weight_decay, relative_step=False, scale_parameter=False)
