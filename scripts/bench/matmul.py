"""What the machine multiplies in a second, in the precision and sizes of a layer: the measure for seconds at the limit."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlx_distill.backends.choose import choose

SECONDS = 1.0
"""Of multiplying, at least."""


@dataclass(frozen=True, slots=True)
class Rate:
    """FLOPs in a second of CPU (all threads) and of wall."""

    cpu: float
    wall: float
    machine: str
    blas: str | None


def rate(backend: str, base: Path, tokens: int) -> Rate:
    """In the type that the backend computes in, so many tokens through a feed-forward's two shapes, as often as fills the time."""
    machine = choose(backend).machine()  # before MLX is imported, since it brings the BLAS
    config = json.loads((base / "config.json").read_text(encoding="utf-8"))
    hidden, wide = config["hidden_size"], config["intermediate_size"]
    shapes = (tokens, hidden), (wide, hidden), (hidden, wide)
    once = _by_mlx(*shapes) if backend == "mlx" else _by_torch(machine.compute_dtype, *shapes)
    once()
    cpu, wall, rounds = time.process_time(), time.perf_counter(), 0
    while time.perf_counter() - wall < SECONDS:
        once()
        rounds += 1
    done = 4.0 * rounds * tokens * hidden * wide
    return Rate(done / (time.process_time() - cpu), done / (time.perf_counter() - wall), machine.device, machine.blas)


def _by_mlx(*shapes: tuple[int, int]) -> Callable[[], Any]:
    import mlx.core as mx

    x, up, down = map(mx.random.normal, shapes)
    mx.eval(x, up, down)
    return lambda: mx.eval((x @ up.T) @ down.T)


def _by_torch(dtype: str, *shapes: tuple[int, int]) -> Callable[[], Any]:
    import torch

    from bench.device import device_of

    device = device_of("torch")
    where = "cuda" if torch.cuda.is_available() else "cpu"
    x, up, down = (torch.randn(shape, device=where, dtype=getattr(torch, dtype)) for shape in shapes)

    def once() -> None:
        _ = (x @ up.T) @ down.T
        device.synchronize()

    return once
