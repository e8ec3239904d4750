"""Who is compared: every backend that is installed, and the reference. Opened by name, asked through the protocol alone, measured alike.

A gradient is read where every backend must show it: after one step of AdamW its first mean is a tenth of the gradient, in the file of the
optimizer's state.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file

from mlx_distill.backends import held
from mlx_distill.backends.base import Backend, LoraShape
from mlx_distill.backends.choose import PACKAGES, choose, missing
from mlx_distill.backends.lora import chosen, magnitude_name, names
from mlx_distill.records import Group, Ids
from tests.checkpoints import VOCABULARY
from tests.conformance.reference import read_weights
from tests.conformance.reference_student import ReferenceStudent
from tests.rows import random_group

Weights = Mapping[str, NDArray[Any]]
BACKENDS = tuple(name for name in PACKAGES if not missing(name))
EVERYONE = (*BACKENDS, "reference")
PAIRS = tuple(permutations(EVERYONE, 2))
EVERYTHING = np.arange(VOCABULARY, dtype=np.int32)
CLOSE = 1e-5
"""Of logits, losses and gradients in float32: the largest difference by the largest magnitude, in each tensor by itself."""
AFTER_TRAINING = 1e-4
"""The same for weights after 20 steps."""


@cache
def backend_of(name: str) -> Backend:
    return choose(name)


def open_student(name: str, base: Path, *, adapter: Path | None = None, packed: bool = False) -> Any:
    """`packed`: hold packed weights as they are, which a CPU does only where the memory is short."""
    if name == "reference":
        return ReferenceStudent(base, adapter)
    backend = backend_of(name)
    if (dtype := backend.machine().compute_dtype) != "float32":
        pytest.skip(f"{name} computes in {dtype} on this device; the suite compares float32 (hide the device from it to run on the CPU)")
    limit = int(1.5 * held.dense_bytes(base)) if packed else None
    return backend.open(base, adapters={} if adapter is None else {"own": adapter}, memory_limit=limit)


def prepared(
    name: str,
    base: Path,
    shape: LoraShape | None,
    *,
    weights: Weights | None = None,
    optimizer: str = "adamw",
    decay: float = 0.0,
    recompute: bool = False,
    packed: bool = False,
    seed: int = 3,
) -> Any:
    student = open_student(name, base, packed=packed)
    student.prepare(shape, optimizer=optimizer, weight_decay=decay, initial=weights, seed=seed, recompute=recompute)
    return student


def gradient_of(student: Any, groups: Sequence[Group], folder: Path) -> Weights:
    """Of a student that was just prepared with AdamW; its weights stay as they are."""
    assert student.update(groups, learning_rate=0.0, clip_norm=None, step=0).applied
    student.save_state(folder)
    return {name.removesuffix(".m"): 10 * value for name, value in load_file(folder / "optimizer.safetensors").items() if name[-2:] == ".m"}


def trained_by(student: Any, folder: Path) -> Weights:
    """What was learned, under its names in files."""
    student.save_adapter(folder)
    return load_file(next(file for file in (folder / "adapter_model.safetensors", folder / "model.safetensors") if file.is_file()))


def random_adapter(base: Path, shape: LoraShape) -> dict[str, NDArray[np.float32]]:
    """Neither A nor B is 0, so that every gradient is something. Under PEFT's names."""
    generator = np.random.default_rng(7)
    weights: dict[str, NDArray[np.float32]] = {}
    sizes = {name.removesuffix(".weight"): weight.shape for name, weight in read_weights(base).items() if name.endswith("_proj.weight")}
    for module in chosen(sizes, shape):
        (rows, columns), (a, b) = sizes[module], names(module)
        weights[a] = generator.normal(0, 0.3 / columns**0.5, (shape.rank, columns)).astype(np.float32)
        weights[b] = generator.normal(0, 0.3 / shape.rank**0.5, (rows, shape.rank)).astype(np.float32)
        if shape.dora:
            weights[magnitude_name(module)] = generator.uniform(0.5, 1.5, (rows,)).astype(np.float32)
    return weights


def some_groups(seed: int = 0) -> list[Group]:
    """Uneven rows, some of them learned among few ids: micro-batches behind a prefix, and without one."""
    generator = np.random.default_rng(seed)
    return [random_group(generator, 9, [[4, 11, 2], [7]], closed=seed % 2 == 1), random_group(generator, 0, [[12, 6], [8]], closed=True)]


def log_probabilities(student: Any, prefix: Ids, row: Ids) -> NDArray[np.floating[Any]]:
    """(n, V) after every token of a row."""
    session = student.session(prefix)
    (handle,) = session.admit([row], read_at=[range(len(row))])
    return np.stack(session.read({handle: range(len(row))}, {handle: [EVERYTHING] * len(row)})[handle])


def gap(ours: NDArray[Any], theirs: NDArray[Any]) -> float:
    """The largest difference, by the largest magnitude."""
    assert ours.shape == theirs.shape and np.isfinite(ours).all()
    largest = np.abs(theirs).max()
    assert largest > 0, "nothing to compare"
    return float(np.abs(ours.astype(np.float64) - theirs).max() / largest)


def gaps(ours: Weights, theirs: Weights) -> dict[str, float]:
    """Of each tensor."""
    assert ours.keys() == theirs.keys() and ours
    return {name: gap(ours[name], theirs[name]) for name in ours}


def require_alike(ours: Weights, theirs: Weights, tolerance: float) -> None:
    worst = max(gaps(ours, theirs).items(), key=lambda found: found[1])
    assert worst[1] <= tolerance, worst
