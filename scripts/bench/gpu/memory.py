"""Memory in training: 7B, 4-bit, 4 x 4 rows of 2,048 tokens within 12 GiB; and no growth over many steps of ever other lengths.

Whether activations are computed again is decided as `train` decides it (models.estimates), under a limit of 12 GiB that the backend holds.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch

from bench.gpu import card as cards
from bench.gpu.asked import Asked, Row, free, tried
from bench.gpu.bases import PRESETS, TINY, Preset, fill, write_hollow
from bench.job import LEARNING_RATE
from bench.model import LORA, config_of
from bench.ours import group
from bench.shapes import Shape, Work, draw, parse
from mlx_distill.backends.choose import choose
from mlx_distill.memory import resident_bytes
from mlx_distill.models.estimates import Work as Largest
from mlx_distill.models.estimates import training_memory
from mlx_distill.workflows.room import learnable

LIMIT = 12 << 30
LONG, QUICK_LONG = "600/1368/80 4x4", "40/60/8 2x2"
VARIED, QUICK_VARIED = "600/40-150/20-60 4x4", "20/10-30/4-8 2x2"
STEPS, QUICK_STEPS, WARM_UP = 500, 12, 20
MORE = 1.02
"""The last quarter's largest, over the first's: a job that grows."""


def measure(asked: Asked) -> Iterator[Row]:
    large, small = (TINY, TINY) if asked.quick else (PRESETS["7B"], PRESETS["1.5B"])
    yield from tried(asked, f"memory {large.name}, 4-bit, {QUICK_LONG if asked.quick else LONG}", lambda: _fits(asked, large))
    yield from tried(asked, f"growth {small.name}, 4-bit, {QUICK_VARIED if asked.quick else VARIED}", lambda: _grows(asked, small))


def _student(asked: Asked, preset: Preset, shape: Shape, limit: int | None) -> tuple[Any, int, bool]:
    """Opened and prepared; bytes that were foretold; whether activations are computed again."""
    backend, base = choose("torch"), asked.folder / f"{preset.name}-{shape.prefix}"
    write_hollow(base, preset, 4, str(cards.dtype()).removeprefix("torch."))
    machine, config = backend.machine(), config_of(preset.sizes, tied=preset.tied)
    longest = shape.article[1] + shape.answer[1] - 1
    work = Largest(shape.micro, shape.micro * longest, longest, shape.micro * shape.answer[1], shape.prefix)
    weights = backend.weight_bytes(base, memory_limit=limit)
    of = learnable(config, LORA, "adamw")
    memory = partial(training_memory, config, weight_bytes=weights, learnable=of, work=work, device=machine.working)
    ways = [memory(recompute=again) for again in (False, True)]
    again = ways[0].total > (limit or machine.memory)
    student: Any = backend.open(base, memory_limit=limit)
    shutil.rmtree(base)
    fill(student._model.net)
    free()
    student.prepare(LORA, optimizer="adamw", weight_decay=0.0, initial=None, seed=0, recompute=again)
    return student, ways[again].total, again


def _update(student: Any, work: Work, step: int) -> None:
    batch = work.measured[step % len(work.measured)]
    done = student.update([group(work.prefix, batch)], learning_rate=LEARNING_RATE, clip_norm=1.0, step=step)
    assert done.applied, "a step that is not applied is not work"


def _fits(asked: Asked, preset: Preset) -> Row:
    shape = parse(QUICK_LONG if asked.quick else LONG)
    student, foretold, again = _student(asked, preset, shape, LIMIT)
    work = draw(shape, 1, preset.sizes.vocabulary)
    for step in range(2):
        _update(student, work, step)
    peak = student.peak_memory()
    return {"peak_memory": peak, "foretold": foretold, "recompute": again, "limit": LIMIT, "met": peak <= LIMIT}


def _grows(asked: Asked, preset: Preset) -> Row:
    shape = parse(QUICK_VARIED if asked.quick else VARIED)
    student, _, _ = _student(asked, preset, shape, None)
    work = draw(shape, 16, preset.sizes.vocabulary)
    held: list[int] = []
    for step in range(QUICK_STEPS if asked.quick else STEPS):
        _update(student, work, step)
        held.append(_held())
        if asked.late:
            break
    measured = held[min(WARM_UP, len(held) // 4) :]
    quarter = max(1, len(measured) // 4)
    first, last = max(measured[:quarter]), max(measured[-quarter:])
    return {"steps": len(held), "first_quarter": first, "last_quarter": last, "ratio": last / first, "met": last <= MORE * first}


def _held() -> int:
    """Bytes after a step: those that the card's allocator has taken; of a CPU, the process."""
    if torch.cuda.is_available():
        return int(torch.cuda.memory_reserved())
    return resident_bytes() or 0
