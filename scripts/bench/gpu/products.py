"""The matmul that dequantizes, against cuBLAS on the weights that it stands for: as a share of the card's bandwidth, and of its FLOP/s.

Layers of the 7B's feed-forward, 4 bits in groups of 64, for 1 to 4,096 rows. So many copies take turns that no cache holds them, within one
CUDA graph, so that starting kernels is not counted; `launched` is the time with it. Bytes are those that must be read and written once:
words, scales and biases, what comes in and what goes out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from typing import Any

import torch

from bench.gpu import card as cards
from bench.gpu.asked import Asked, Row, tried
from bench.gpu.bases import GROUP, PRESETS, TINY
from bench.gpu.card import Card
from mlx_distill.backends.torch.packed import PackedLinear

BATCHES = (1, 2, 4, 8, 16, 64, 512, 4096)
BITS = 4
CACHED = 256 << 20
"""Bytes that copies must exceed: the largest card's cache has 50 MB."""


def measure(asked: Asked) -> Iterator[Row]:
    card = cards.card(quick=asked.quick)
    yield {"what": "card", **asdict(card), "dtype": str(cards.dtype())}
    sizes = TINY.sizes if asked.quick else PRESETS["7B"].sizes
    for name, rows, columns in (("up", sizes.intermediate, sizes.hidden), ("down", sizes.hidden, sizes.intermediate)):
        for batch in BATCHES[:3] if asked.quick else BATCHES:
            measured = _measure(card, rows, columns, batch, 1 << 20 if asked.quick else CACHED)
            yield from tried(asked, f"{name} {rows}x{columns}, {BITS}-bit, batch {batch}", measured)


def _measure(card: Card, rows: int, columns: int, batch: int, exceed: int) -> Callable[[], Row]:
    def measured() -> Row:
        x = torch.randn(batch, columns, device=cards.device(), dtype=cards.dtype())
        packed = _packed(rows, columns, -(-exceed // (rows * columns * BITS // 8)))
        at_least = 0.2 if exceed >= CACHED else 0.01
        ours, launched, graph = _seconds([lambda layer=layer: layer(x) for layer in packed], at_least)
        error = _error(packed[0], x)
        dense = [packed[0].dequantized().clone() for _ in range(-(-exceed // (rows * columns * x.itemsize)))]
        cublas, _, _ = _seconds([lambda weight=weight: x @ weight.T for weight in dense], at_least)
        moved = sum(part.nbytes for part in (packed[0].weight, packed[0].scales, packed[0].biases, x)) + batch * rows * x.itemsize
        flops = 2.0 * batch * rows * columns
        return {
            "batch": batch,
            "rows": rows,
            "columns": columns,
            "ours_seconds": ours,
            "launched_seconds": launched,
            "graph": graph,
            "cublas_seconds": cublas,
            "time_ratio": cublas / ours,
            "share_of_bandwidth": moved / ours / card.peak_bandwidth,
            "share_of_flops": flops / ours / card.peak_flops,
            "share_of_limit": max(moved / card.peak_bandwidth, flops / card.peak_flops) / ours,
            "cublas_share_of_flops": flops / cublas / card.peak_flops,
            "difference": error,
        }

    return measured


@torch.no_grad()  # type: ignore[untyped-decorator]
def _packed(rows: int, columns: int, copies: int) -> list[Any]:
    made = []
    for _ in range(max(2, copies)):
        layer = PackedLinear(columns, rows, False, bits=BITS, group_size=GROUP, dtype=cards.dtype()).to_empty(device=cards.device())
        layer.weight.random_(-(1 << 31), (1 << 31) - 1)
        layer.scales.normal_(0.01, 0.001)
        layer.biases.normal_(-0.08, 0.001)
        made.append(layer)
    return made


@torch.no_grad()  # type: ignore[untyped-decorator]
def _seconds(runs: Sequence[Callable[[], Any]], at_least: float) -> tuple[float, float, bool]:
    """Of one of them, in turns: within one CUDA graph, and started one by one. False where no graph could be made: both are the latter."""

    def every() -> None:
        for run in runs:
            run()

    launched = cards.seconds(every, at_least=at_least) / len(runs)
    try:
        return cards.seconds(cards.graphed(every), at_least=at_least) / len(runs), launched, True
    except RuntimeError:
        return launched, launched, False


@torch.no_grad()  # type: ignore[untyped-decorator]
def _error(layer: Any, x: torch.Tensor) -> float:
    """The largest difference to the dense product, against its largest number."""
    dense = x.float() @ layer.dequantized().float().T
    return float((layer(x).float() - dense).abs().max() / dense.abs().max())
