"""What every backend must agree on about an optimizer: what it keeps of each trained value, and how that lies in a file.

    adamw       m, v           running means of the gradient and of its square (Loshchilov & Hutter, "Decoupled Weight Decay
                               Regularization", 2019), bias-corrected
    adafactor   v_row, v_col   of the square, the means over each row and over each column of a matrix alone; v for a vector (Shazeer &
                               Stern, "Adafactor", 2018), with beta2 = 1 - t^-0.8 and updates clipped at an RMS of 1
    lion        m              the step is the sign of a running mean (Chen et al., "Symbolic Discovery of Optimization Algorithms", 2023)

The learning rate comes from outside, each step: Adafactor neither makes its own nor multiplies it by the size of the weights, as
torch.optim.Adafactor does; it is transformers' with `relative_step=False, scale_parameter=False`. Weight decay is decoupled in all three: a
step takes the share learning rate * weight decay off each weight, and the gradient knows nothing of it.

There is no 8-bit state. What it would save is small beside a base (AdamW's state takes 8 bytes for each trained parameter, of which LoRA
has few); where all weights are trained, adafactor's is smaller still.

A file has `step` and, of each value, its name there and the state's: of `X.lora_A.weight` (rank, in), `X.lora_A.weight.v_row` has rank
numbers, all float32. Whichever backend wrote it, the same state is the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mlx_distill.errors import BackendError, CheckpointError
from mlx_distill.models.tensors import Shape, TensorPlace, read_header, tensor_file
from mlx_distill.records import RawTensor

FILE = "optimizer.safetensors"
KINDS = {"adamw": ("m", "v"), "adafactor": ("v_row", "v_col", "v"), "lion": ("m",)}
"""What files call the states of a value that each optimizer keeps."""
FACTORS = {"v_row": "v_col", "v_col": "v_row"}
"""What a factor of a matrix is to the matrix's transpose."""
STEP = "step"
BETAS = {"adamw": (0.9, 0.999), "lion": (0.9, 0.99)}
EPSILON = {"adamw": 1e-8, "adafactor": 1e-30}
"""Added to the root of v; and to the square of the gradient."""
DECAY = -0.8
"""Adafactor's beta2 after t steps is 1 - t^DECAY."""


def known(name: str) -> str:
    """The name of an optimizer. Raises BackendError for one that there is not."""
    if name not in KINDS:
        raise BackendError(f"no optimizer named {name!r}", hint=f"there is {', '.join(KINDS)}")
    return name


def save(folder: Path, step: int, shapes: Mapping[str, Shape], states: Iterable[tuple[str, NDArray[np.float32]]]) -> None:
    """Exact, atomically; the states one after another, in any order: of a full fine-tuning they are twice the model."""
    places = {name: ("F32", shapes[name]) for name in sorted(shapes)}
    with tensor_file(folder / FILE, {**places, STEP: ("I64", ())}) as writer:
        writer.write(STEP, RawTensor("I64", np.asarray(step, np.int64)))
        for name, state in states:
            writer.write(name, RawTensor("F32", state))


def read(folder: Path, optimizer: str, shapes: Mapping[str, Shape]) -> tuple[int, dict[str, NDArray[np.float32]]]:
    """The step, and the states of these names and shapes, read from the disk when they are looked at.

    Raises CheckpointError where they are damaged, or another optimizer's.
    """
    file = folder / FILE
    try:
        places = read_header(file)
        _require_own(places.keys(), optimizer, file)
        return _step(places), {name: _state(places, name, shape) for name, shape in shapes.items()}
    except (OSError, ValueError) as error:
        raise CheckpointError(f"the optimizer's state cannot be read: {error}", file=file) from None


def _state(places: Mapping[str, TensorPlace], name: str, shape: Shape) -> NDArray[np.float32]:
    if (place := places.get(name)) is None or (place.dtype, place.shape) != ("F32", shape):
        found = "is missing" if place is None else f"is {place.dtype} {place.shape}, and not F32 {shape}"
        raise ValueError(f"{name} {found}")
    return np.memmap(place.file, np.float32, "r", place.start, place.shape)


def _step(places: Mapping[str, TensorPlace]) -> int:
    if (place := places.get(STEP)) is None or (place.dtype, place.shape) != ("I64", ()):
        raise ValueError("it does not say after which step it was saved")
    return int(np.fromfile(place.file, "<i8", 1, offset=place.start)[0])


def _require_own(names: Iterable[str], optimizer: str, file: Path) -> None:
    """An optimizer is known by the states that it keeps."""
    kept = {name.rpartition(".")[2] for name in names if name != STEP}
    other = min((other for other, kinds in KINDS.items() if kept <= {*kinds}), key=lambda name: len(KINDS[name]), default=None)
    if kept and other not in (None, optimizer):
        hint = f"train.optimizer: {other} goes on with it; or begin a new run"
        raise CheckpointError(f"the checkpoint holds the state of {other}, and the optimizer is {optimizer}", hint=hint, file=file)
