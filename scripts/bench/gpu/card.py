"""What the card can do: bandwidth and FLOP/s, measured, and by its maker's sheet where the card is known; and how long work takes."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

SHEETS = {
    "H200": (4.8e12, 989e12),
    "H100": (3.35e12, 989e12),
    "A100": (2.04e12, 312e12),
    "RTX 4090": (1.008e12, 165e12),
    "RTX 3090": (0.936e12, 71e12),
    "L4": (0.3e12, 121e12),
}
"""Bytes a second of memory, bfloat16 FLOP/s, dense with float32 sums."""
RTX_4090 = SHEETS["RTX 4090"]


@dataclass(frozen=True, slots=True)
class Card:
    name: str
    memory: int
    bandwidth: float
    """Bytes a second, read and written, of a large copy."""
    flops: float
    """A second, of a large matmul in the type that is computed in."""
    sheet: tuple[float, float] | None

    @property
    def peak_bandwidth(self) -> float:
        """The sheet's, where there is one: shares are of this."""
        return self.sheet[0] if self.sheet else self.bandwidth

    @property
    def peak_flops(self) -> float:
        return self.sheet[1] if self.sheet else self.flops


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def dtype() -> torch.dtype:
    """As the backend chooses: the tensor cores' type, float32 on CPUs."""
    if not torch.cuda.is_available():
        return torch.float32
    return torch.bfloat16 if torch.cuda.get_device_capability() >= (8, 0) else torch.float16


def card(*, quick: bool) -> Card:
    where, many, side = device(), 1 << (22 if quick else 30), 256 if quick else 8192
    a = torch.empty(many, dtype=torch.int8, device=where)
    b = torch.empty_like(a)
    x = torch.randn(side, side, device=where, dtype=dtype())
    copied, multiplied = (seconds(run, at_least=0.02 if quick else 0.5) for run in (lambda: b.copy_(a), lambda: x @ x))
    name = torch.cuda.get_device_name() if where.type == "cuda" else "CPU"
    memory = torch.cuda.get_device_properties(where).total_memory if where.type == "cuda" else 0
    sheet = next((figures for known, figures in SHEETS.items() if known in name), None)
    return Card(name, memory, 2 * many / copied, 2 * side**3 / multiplied, sheet)


def synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def seconds(run: Callable[[], Any], *, at_least: float) -> float:
    """Of one run, called as often as fills the time, without waiting in between."""
    run()
    synchronize()
    rounds, took = 1, 0.0
    while True:
        began = time.perf_counter()
        for _ in range(rounds):
            run()
        synchronize()
        took = time.perf_counter() - began
        if took >= at_least / 2:
            return took / rounds
        rounds = max(2 * rounds, int(rounds * at_least / max(took, 1e-6)))


def graphed(run: Callable[[], Any]) -> Callable[[], Any]:
    """The same work as one launch (a CUDA graph), so that small kernels are timed and not the starting of them.

    Raises RuntimeError where it cannot be one: it waits for the card in between, or there is none.
    """
    if not torch.cuda.is_available():
        raise RuntimeError("no CUDA device")
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        run()
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    replay: Callable[[], Any] = graph.replay
    return replay
