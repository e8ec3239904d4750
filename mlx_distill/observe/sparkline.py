"""Curves in characters: a column for every few values, as high as their mean. It knows figures and characters, no colours, no terminal."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

BLOCKS = " ▁▂▃▄▅▆▇█"
ASCII = " .:-=+*#@"


def condensed(values: Sequence[float], width: int) -> list[float]:
    """The means of `width` runs of like length; fewer values stay as they are.

    >>> condensed([1, 3, 5, 7], 2), condensed([1, 3], 8)
    ([2.0, 6.0], [1.0, 3.0])
    """
    count = min(width, len(values))
    edges = [i * len(values) // count for i in range(count + 1)] if count else [0]
    return [sum(values[start:end]) / (end - start) for start, end in itertools.pairwise(edges)]


def stretched(values: Sequence[float], width: int) -> list[float]:
    """As `condensed`, and fewer values are repeated until they fill `width`.

    >>> stretched([1, 3], 5), stretched([1, 3, 5, 7], 2)
    ([1, 1, 1, 3, 3], [2.0, 6.0])
    """
    if len(values) >= width:
        return condensed(values, width)
    return [values[i * len(values) // width] for i in range(width)] if values else []


def columns(
    values: Sequence[float], height: int, *, low: float | None = None, high: float | None = None, ascii_only: bool = False
) -> list[str]:
    """`height` lines, the highest first, with a column a value. The lowest value still shows; values that are all alike are half as high.

    >>> columns([0, 1, 2, 3, 4, 5, 6, 7], 1)
    ['▁▂▃▄▅▆▇█']
    >>> columns([0, 15], 2)
    [' █', '▁█']
    """
    marks = ASCII if ascii_only else BLOCKS
    full = len(marks) - 1
    low = min(values, default=0.0) if low is None else low
    high = max(values, default=0.0) if high is None else high
    levels = [_level(value, low, high, full * height) for value in values]
    return ["".join(marks[min(full, max(0, level - full * row))] for level in levels) for row in reversed(range(height))]


def _level(value: float, low: float, high: float, most: int) -> int:
    """1 to `most`."""
    share = (min(max(value, low), high) - low) / (high - low) if high > low else 0.5
    return 1 + math.floor(share * (most - 1) + 0.5)


def row_of(value: float, height: int, low: float, high: float) -> int:
    """In which of `height` lines, counted from the highest, the top of a column of that value stands."""
    full = len(BLOCKS) - 1
    return height - 1 - (_level(value, low, high, full * height) - 1) // full
