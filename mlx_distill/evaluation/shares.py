"""Shares of rows with intervals that keep their width where none or all of few rows are counted; the bootstrap's has none there.

    exact(hits, n)     Clopper and Pearson's: holds the true share at least as often as it says. For promises and their checks
    wilson(hits, n)    about as often as it says, and shorter. For everything else

It knows counts alone.
"""

from __future__ import annotations

import math
from statistics import NormalDist

from mlx_distill.evaluation.figure import LEVEL, Figure


def exact(hits: int, n: int, level: float = LEVEL) -> tuple[float, float]:
    """Clopper and Pearson's interval of a share (1934): it holds the true one at least as often as `level` says.

    >>> [round(end, 4) for end in exact(0, 10)], [round(end, 4) for end in exact(8, 10)]
    ([0.0, 0.3085], [0.4439, 0.9748])
    """
    from scipy.stats import beta

    tail = (1.0 - level) / 2
    low = 0.0 if hits == 0 else float(beta.ppf(tail, hits, n - hits + 1))
    return low, 1.0 if hits == n else float(beta.ppf(1.0 - tail, hits + 1, n - hits))


def wilson(hits: int, n: int, level: float = LEVEL) -> tuple[float, float]:
    """Wilson, "Probable inference, the law of succession, and statistical inference", 1927.

    >>> [round(end, 4) for end in wilson(8, 10)], [round(end, 4) for end in wilson(0, 10)]
    ([0.4902, 0.9433], [0.0, 0.2775])
    """
    z, value = NormalDist().inv_cdf((1 + level) / 2), hits / n
    centre = (value + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(value * (1 - value) / n + z * z / (4 * n * n))
    # of none and of all an end is exactly 0 or 1, but for rounding
    return 0.0 if not hits else centre - half, 1.0 if hits == n else centre + half


def share(hits: int, n: int) -> Figure:
    """A share of rows as a figure, with its exact interval."""
    low, high = exact(hits, n) if n else (None, None)
    return Figure(value=hits / n if n else None, low=low, high=high, n=n)
