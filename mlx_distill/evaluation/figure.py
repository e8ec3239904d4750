"""A figure: what a reader is told of one number. Every interval of the house holds the true one as often as `LEVEL` says."""

from __future__ import annotations

from typing import TypedDict

LEVEL = 0.95


class Figure(TypedDict):
    """A figure with its 95 % interval and the rows behind it; None where it is not known."""

    value: float | None
    low: float | None
    high: float | None
    n: int
