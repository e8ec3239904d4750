"""`tier_adjacent`: how often student and judge are at most one tier apart."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mlx_distill.evaluation.metrics import Sheet, Tally, share

BETTER = "higher"
UNIT = "share of rows"
TITLE = "Same tier, or the next one"
NEEDS = "tiers"


def tier_adjacent(reference: Sequence[int | None], answer: Sequence[int | None]) -> float:
    """Share of rows; higher is better. Tiers by their place. No tier of the judge's does not count; none of the student's is not near.

    >>> tier_adjacent([0, 1, 2, 2, None], [0, 2, 0, None, 1])
    0.5
    """
    judge, student = (np.array([-1 if tier is None else tier for tier in side], dtype=np.int64) for side in (reference, answer))
    return tally(judge, student).total()


def tally(reference: NDArray[np.int64], answer: NDArray[np.int64]) -> Tally:
    """Places (rows,), -1 where there is none."""
    return share((answer >= 0) & (np.abs(answer - reference) <= 1), reference >= 0)


def in_order(sheet: Sheet) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The judge's tiers and the student's, -1 for one whose place among the others is not known."""
    judge, student = (np.where(side < sheet.ordered, side, -1) for side in (sheet.reference_tier, sheet.tier))
    return judge, student


def tallies(sheet: Sheet) -> dict[str, Tally]:
    return {"tier_adjacent": tally(*in_order(sheet))}
