"""What each of several processes does that train together; `test_ranks` starts them."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mlx_distill.backends.base import LoraShape
from mlx_distill.backends.torch.gradient import Sums
from mlx_distill.backends.torch.ranks import TorchRanks, join
from mlx_distill.backends.torch.student import TorchStudent
from mlx_distill.errors import BackendError
from mlx_distill.records import Group

SHAPE = LoraShape(4, 8, 0.0, ("q_proj", "v_proj", "down_proj"))


def learned(base: Path, batches: Sequence[Sequence[Group]], ranks: TorchRanks | None, adapter: Path) -> dict[str, Any]:
    """What a student says of each batch, and of the first one's rows in the end; and its adapter."""
    student = TorchStudent(base, {}, device=torch.device("cpu"), dtype=torch.float32, limit=1 << 32)
    student.prepare(SHAPE, optimizer="adamw", weight_decay=0.01, initial=None, seed=0, ranks=ranks)
    steps = [student.update(batch, learning_rate=1e-3 * (1 + step), clip_norm=0.5, step=step) for step, batch in enumerate(batches)]
    losses = student.loss(batches[0])
    student.save_adapter(adapter)
    return {"steps": [asdict(step) for step in steps], "losses": {name: asdict(loss) for name, loss in losses.items()}}


def spoken(ranks: TorchRanks) -> dict[str, Any]:
    """What the ranks say to one another, the least as well as what takes many messages."""
    numbers = np.random.default_rng(ranks.rank)
    sizes = [(3, 5), (7,), ((1 << 24) + 5,), (2, 2)]
    gradients = [torch.from_numpy(numbers.normal(0, 1, size).astype(np.float32)) for size in sizes]
    added = ranks.whole(Sums(gradients, {}, computed=10 + ranks.rank), [])
    told = [ranks.told(message if ranks.rank == 0 else None) for message in (b"\x00\xffgo on", b"", b"x" * 100_000)]
    return {
        "told": [message.decode("latin-1") for message in told],
        "any": [ranks.any(ranks.rank == 1), ranks.any(False), ranks.any(True)],
        "sums": [float(gradient.double().sum()) for gradient in added.gradients],
        "shapes": [list(gradient.shape) for gradient in added.gradients],
        "computed": added.computed,
    }


def work(base: str, batches: str, out: str) -> None:
    ranks = join(os.environ)
    assert ranks is not None
    place = Path(out) / str(ranks.rank)
    place.mkdir()
    said = learned(Path(base), pickle.loads(Path(batches).read_bytes()), ranks, place) | spoken(ranks)
    (place / "said.json").write_text(json.dumps(said))
    if ranks.rank == 1:
        os._exit(0)  # it is gone, and its launcher sees nothing in it
    try:
        ranks.any(True)
    except BackendError as error:
        (place / "gone.txt").write_text(str(error))
