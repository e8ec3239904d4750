"""Shares of rows for which something holds, with Wilson's interval."""

from __future__ import annotations

from collections.abc import Iterable

from mlx_distill.evaluation.bootstrap import Figure
from mlx_distill.evaluation.shares import wilson


def share(flags: Iterable[object], counted: Iterable[object] | None = None) -> Figure:
    """How many of the rows that count hold true.

    >>> share([1, 1, 0, 1], [1, 0, 1, 1])["value"], share([])["value"]
    (0.6666666666666666, None)
    """
    kept = [bool(flag) for flag in flags] if counted is None else [bool(f) for f, c in zip(flags, counted, strict=True) if c]
    hits, n = sum(kept), len(kept)
    low, high = wilson(hits, n) if n else (None, None)
    return Figure(value=hits / n if n else None, low=low, high=high, n=n)
