"""`bias.<field>`: whether a score is too high or too low on average. A target on it is the most that it may be off, either way."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mlx_distill.evaluation.metrics import Sheet, Tally, mean

BETTER = "zero"
UNIT = "points of the score"
TITLE = "Bias"


def bias(reference: Sequence[float | None], answer: Sequence[float | None]) -> float:
    """Mean of student − judge, in points; best at 0. A row that lacks either number does not count.

    >>> bias([1, 4, 7, None], [2, 1, None, 3])
    -1.0
    """
    gap = np.array(answer, dtype=float) - np.array(reference, dtype=float)
    return mean(gap, ~np.isnan(gap), centred=True).total()


def tallies(sheet: Sheet) -> dict[str, Tally]:
    scores = sheet.of_kind("score")
    return {f"bias.{name}": mean(column.answer - column.reference, column.both, centred=True) for name, column in scores.items()}
