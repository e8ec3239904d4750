"""What a measured process is asked, and what it answers: records that cross to it and back as JSON."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from bench.shapes import Work, draw, parse

LEARNING_RATE, WEIGHT_DECAY = 2e-4, 0.01


@dataclass(frozen=True, slots=True)
class Job:
    """Paths are text."""

    kind: str
    """A rival's name, `ours`, `judge` or `matmul`."""
    shape: str
    batches: int
    """Effective batches that are measured, after one that is not."""
    vocabulary: int
    multiple: int
    """What mlx-lm pads to: 32, or less by as much as the rows are shorter than those of the shape that was asked for."""
    base: str
    adapter: str
    """The adapter that training starts from."""
    out: str
    """Where the trained adapter and result.json go."""
    adapters: dict[str, str] = field(default_factory=dict)
    """What the judge judges."""
    backend: str = "mlx"
    """`mlx` or `torch`: what ours, the judge and the matmuls compute with; a rival has its own."""

    def work(self) -> Work:
        return draw(parse(self.shape), self.batches, self.vocabulary)


@dataclass(slots=True)
class Timed:
    """What every measured process says of itself."""

    cpu: list[float] = field(default_factory=list)
    """Seconds of each measured piece of work, of all threads."""
    wall: list[float] = field(default_factory=list)
    peak_memory: int = 0
    """Bytes, since the warm-up: as `device.Device.peak` counts them."""
    resident: int = 0
    """Bytes of the whole process at its largest, caches and loading included."""
    blas: str | None = None
    began: tuple[float, float] = (0.0, 0.0)

    def start(self) -> None:
        self.began = time.process_time(), time.perf_counter()

    def stop(self) -> None:
        """Everything must have been computed by now."""
        self.cpu.append(time.process_time() - self.began[0])
        self.wall.append(time.perf_counter() - self.began[1])


@dataclass(slots=True)
class Measured(Timed):
    """Of one training, effective batch by effective batch. Tokens are those of all measured batches together."""

    first_loss: float = float("nan")
    """Nats a learned token over the warm-up's rows, before anything was learned."""
    learned: int = 0
    computed: int = 0
    """Tokens forwarded, padding included."""
    padded: int = 0
