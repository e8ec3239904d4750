"""How much is answered at once: what the memory has room for, and no more than makes it faster."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

from mlx_distill.backends.base import Student
from mlx_distill.models.estimates import FORWARD, HELD, LEAST, Device, answering_capacity
from tests.backends import plain
from tests.backends.peaks import COUNTS
from tests.backends.sides import Side, each_side
from tests.backends.twin import NOTHING
from tests.checkpoints import SIZES, VOCABULARY
from tests.conftest import MakeBase


def capacity(free: int) -> tuple[int, int]:
    config = {**SIZES, "vocab_size": VOCABULARY, "tie_word_embeddings": True}
    return answering_capacity(config, free=free, device=Device(4, 1 << 10, 1 << 10))


def test_more_memory_holds_more_rows_and_little_of_it_still_answers() -> None:
    found = [capacity(free) for free in (0, 1 << 20, 1 << 24, 1 << 28, 1 << 33)]
    assert found[0] == (LEAST, LEAST) and found[-1] == (FORWARD, HELD)
    assert all(a <= b for few, many in itertools.pairwise(found) for a, b in zip(few, many, strict=True))


def of_little_memory(side: Side, folder: Path, limit: int, patch: pytest.MonkeyPatch) -> Student:
    """In which tiles and logits, as large as they are, would be most of it."""
    if side.name == "mlx":
        import mlx.core as mx

        from mlx_distill.backends.mlx import attention, loss, mixed
        from mlx_distill.backends.mlx.student import MlxStudent

        for place, name in ((attention, "TILE_CPU"), (mixed, "TILE_CPU"), (loss, "LOGITS_CPU")):
            patch.setattr(place, name, 1 << 14)
        return MlxStudent(folder, {}, cast="float32", limit=limit + mx.get_active_memory())
    import torch

    from mlx_distill.backends.torch import loss as losses
    from mlx_distill.backends.torch.student import TorchStudent

    side.cut(patch, 1 << 14)
    patch.setitem(losses.LOGITS, "cpu", 1 << 14)
    return TorchStudent(folder, {}, device=torch.device("cpu"), dtype=torch.float32, limit=limit)


@each_side
@pytest.mark.parametrize("bits", [None, 4], ids=["whole", "packed"])
def test_what_is_held_and_forwarded_stays_within_what_is_free(
    base: MakeBase, side: Side, bits: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Measured: as many rows as the capacity says, forwarded as it says, while some leave and others come; of little memory."""
    folder, limit, count = base(bits=bits, num_hidden_layers=4), 24 << 20, COUNTS[side.name]()
    with count.begun():
        student = of_little_memory(side, folder, limit, monkeypatch)
        forward, held = student.capacity().forward, student.capacity().held
        assert LEAST < forward < FORWARD and forward < held < HELD, "it is the memory that bounds both"
        with count.measured():
            fill(student, forward, held)
    assert 0.3 * limit <= count.peak <= limit


def fill(student: Student, forward: int, held: int) -> None:
    session, generator = student.session(NOTHING), np.random.default_rng(9)
    size = forward // 8
    live: list[int] = []
    for leave in ((), (0, 1, 2), (3, 4, 5, 6), (0, 1, 2), (3, 4, 5, 6)):
        gone = [handle for i, handle in enumerate(live) if i % 8 in leave]
        session.drop(gone)
        live = [handle for handle in live if handle not in gone]
        while (len(live) + 8) * size <= held:
            live += session.admit([plain.random_ids(generator, size) for _ in range(8)])
        session.extend({handle: [5] for handle in live})
