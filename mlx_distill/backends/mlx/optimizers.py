"""What turns gradients into steps, and how its state lies in a file.

    adamw       m, v           running means of the gradient and of its square (Loshchilov & Hutter, "Decoupled Weight Decay
                               Regularization", 2019), bias-corrected
    adafactor   v_row, v_col   of the square, the means over each row and over each column of a matrix alone; v for a vector (Shazeer &
                               Stern, "Adafactor", 2018), with beta2 = 1 - t^-0.8 and updates clipped at an RMS of 1
    lion        m              the step is the sign of a running mean (Chen et al., "Symbolic Discovery of Optimization Algorithms", 2023)

The computing is MLX's own. The learning rate comes from outside, each step: Adafactor neither makes its own nor multiplies it by the size
of the weights, as torch.optim.Adafactor does; it is transformers' with `relative_step=False, scale_parameter=False`. Weight decay is
decoupled in all three: a step takes the share learning rate * weight decay off each weight, and the gradient knows nothing of it.

There is no 8-bit state: no kept library has one for MLX. What it would save is small beside a base (AdamW's state takes 8 bytes for each
trained parameter, of which LoRA has few); where all weights are trained, adafactor's is smaller still.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.optimizers as optim
import numpy as np

from mlx_distill.backends.mlx.trained import Trained
from mlx_distill.errors import BackendError, CheckpointError
from mlx_distill.models.tensors import tensor_file
from mlx_distill.records import RawTensor

FILE = "optimizer.safetensors"
NAMES = {
    "adamw": {"m": "m", "v": "v"},
    "adafactor": {"exp_avg_sq_row": "v_row", "exp_avg_sq_col": "v_col", "exp_avg_sq": "v"},
    "lion": {"m": "m"},
}
"""Of each optimizer: what MLX calls a parameter's states, and what files call them."""
FACTORS = {"v_row": "v_col", "v_col": "v_row"}
STEP = "step"


class Optimizer:
    """Of what is in training. It keeps the state of each value beside it, in float32."""

    def __init__(self, name: str, trained: Trained, *, weight_decay: float):
        self._name, self._trained = name, trained
        self._optimizer = _made(name, weight_decay)
        self._optimizer.init(trained.values())

    def apply(self, gradients: Mapping[str, mx.array], learning_rate: float) -> None:
        """One step, by MLX's paths."""
        self._optimizer.learning_rate = learning_rate
        updated = self._optimizer.apply_gradients(gradients, self._trained.values())
        mx.eval(updated, self._optimizer.state)
        self._trained.set(updated)

    def size(self) -> int:
        """Numbers of the state."""
        return sum(self.state[path][key].size for _, path, key in self._places())

    def save(self, folder: Path) -> None:
        """Exact, under the names and in the orientation of the adapter's own file: of `X.lora_A.weight` (rank, in), `X.lora_A.weight.v_row`
        has rank numbers."""
        to_file = self._trained.to_file
        shapes = {name: to_file(self.state[path][key]).shape for name, path, key in self._places()}
        places = {name: ("F32", shape) for name, shape in shapes.items()}
        with tensor_file(folder / FILE, {**places, STEP: ("I64", ())}) as writer:
            writer.write(STEP, RawTensor("I64", np.asarray(self.state[STEP]).astype(np.int64)))
            for name, path, key in self._places():  # one after another: of a full fine-tuning they are twice the model
                writer.write(name, RawTensor("F32", to_file(self.state[path][key])))

    def read(self, folder: Path) -> dict[str, Any]:
        """The state that `save` wrote, to be adopted. Raises CheckpointError where it is damaged, or another's."""
        from safetensors import SafetensorError, safe_open

        file = folder / FILE
        state: dict[str, Any] = {**self.state, **{path: {} for path in self._trained.values()}}
        try:
            with safe_open(file, "numpy") as saved:
                self._require_own(set(saved.keys()), file)
                for name, path, key in self._places():
                    value = self._trained.from_file(saved.get_tensor(name))
                    if value.shape != self.state[path][key].shape:
                        raise ValueError(f"{name} is {value.shape}")
                    state[path][key] = value
                state[STEP] = mx.array(int(saved.get_tensor(STEP)), self.state[STEP].dtype)
        except (OSError, ValueError, SafetensorError) as error:
            raise CheckpointError(f"the optimizer's state cannot be read: {error}", file=file) from None
        return state

    def adopt(self, state: dict[str, Any]) -> None:
        self._optimizer.state = state
        mx.eval(state)

    @property
    def state(self) -> dict[str, Any]:
        state: dict[str, Any] = self._optimizer.state
        return state

    def _places(self) -> Iterator[tuple[str, str, str]]:
        """(name in the file, parameter, MLX's name of the state). What are rows to MLX are columns to a file that holds the transpose."""
        for path in self._trained.values():
            for key in self.state[path]:
                kind = NAMES[self._name][key]
                kind = FACTORS.get(kind, kind) if self._trained.transposed else kind
                yield f"{self._trained.file_name(path)}.{kind}", path, key

    def _require_own(self, names: set[str], file: Path) -> None:
        """An optimizer is known by the states that it keeps."""
        kept = {name.rpartition(".")[2] for name in names - {STEP}}
        other = min((other for other, kinds in NAMES.items() if kept <= {*kinds.values()}), key=lambda name: len(NAMES[name]), default=None)
        if kept and other not in (None, self._name):
            hint = f"train.optimizer: {other} goes on with it; or begin a new run"
            raise CheckpointError(f"the checkpoint holds the state of {other}, and the optimizer is {self._name}", hint=hint, file=file)


def _made(name: str, weight_decay: float) -> Any:
    """MLX's optimizer. Raises BackendError for an unknown name."""
    if name == "adamw":
        return optim.AdamW(0.0, weight_decay=weight_decay, bias_correction=True)
    if name == "adafactor":
        return optim.Adafactor(0.0, weight_decay=weight_decay, relative_step=False, scale_parameter=False)
    if name == "lion":
        return optim.Lion(0.0, weight_decay=weight_decay)
    raise BackendError(f"no optimizer named {name!r}", hint=f"there is {', '.join(NAMES)}")
