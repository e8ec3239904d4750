"""Who belongs to which group, and how groups are drawn anew: resampled within themselves, or mixed among each other.

Mixing asks what gaps would be seen of a student whose answers follow from the judge's answer alone, and not from the group ("separation"
in Hardt et al. 2016): rows that the judge answered alike change groups at random, so that each group keeps its size and its mix of
judge's answers. It knows groups and strata as codes; nothing of answers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FEW = 10
"""A rate over fewer rows of a group takes no part in a gap."""
Codes = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Members:
    names: Sequence[str]
    groups: Codes
    """(rows,), places in `names`; -1: in none of them."""


def mixed(groups: Codes, strata: Codes, times: int, random: np.random.Generator) -> Iterator[Codes]:
    """`groups`, mixed within each stratum, so many times."""
    order = np.argsort(strata, kind="stable")
    edges = np.flatnonzero(np.diff(strata[order])) + 1
    drawn = groups[order]
    parts = np.split(drawn, edges)
    for _ in range(times):
        for part in parts:
            random.shuffle(part)  # a view: what is shuffled stands in `drawn`
        again = np.empty_like(groups)
        again[order] = drawn
        yield again


def summary(value: float, chance: NDArray[np.float64]) -> dict[str, float | None]:
    """The gap that is expected by chance, and how often chance alone brings one as large; the observed one is counted in.

    (Phipson and Smyth, "Permutation P-values should never be zero", 2010.)
    """
    known = chance[np.isfinite(chance)]
    if not len(known):
        return {"chance": None, "p": None}
    return {"chance": float(known.mean()), "p": float((1 + (known >= value - 1e-9).sum()) / (1 + len(known)))}
