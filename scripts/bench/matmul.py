"""What the machine multiplies in a second, in the precision and sizes of a layer: the measure for seconds at the limit."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path

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


def rate(base: Path, tokens: int) -> Rate:
    """Float32, so many tokens through a feed-forward's two shapes, as often as fills the time."""
    machine = choose("mlx").machine()  # before MLX is imported, since it brings the BLAS
    import mlx.core as mx

    config = json.loads((base / "config.json").read_text(encoding="utf-8"))
    hidden, wide = config["hidden_size"], config["intermediate_size"]
    x, up, down = mx.random.normal((tokens, hidden)), mx.random.normal((wide, hidden)), mx.random.normal((hidden, wide))
    mx.eval((x @ up.T) @ down.T, x, up, down)
    cpu, wall, rounds = time.process_time(), time.perf_counter(), 0
    while time.perf_counter() - wall < SECONDS:
        mx.eval((x @ up.T) @ down.T)
        rounds += 1
    done = 4.0 * rounds * tokens * hidden * wide
    return Rate(done / (time.process_time() - cpu), done / (time.perf_counter() - wall), machine.device, machine.blas)
