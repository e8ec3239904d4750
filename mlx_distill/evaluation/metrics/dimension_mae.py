"""`dimension_mae`: the mean of the scores' own mean absolute errors."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mlx_distill.evaluation.metrics import Sheet, Tally, known_mean, mean_of_means
from mlx_distill.evaluation.metrics.mae import mae, tally

BETTER = "lower"
UNIT = "points of a score"
TITLE = "Mean error over the scores"


def dimension_mae(reference: Sequence[Sequence[float | None]], answer: Sequence[Sequence[float | None]]) -> float:
    """Mean over fields of each field's MAE over the rows that have it, in points; lower is better.

    >>> dimension_mae([[1, 4], [5, None]], [[2, 4], [8, 1]])  # MAEs 0.5 and 3
    1.75
    """
    return float(known_mean(np.array([mae(judge, student) for judge, student in zip(reference, answer, strict=True)])))


def tallies(sheet: Sheet) -> dict[str, Tally]:
    scores = sheet.of_kind("score")
    return {"dimension_mae": mean_of_means([tally(column) for column in scores.values()])} if scores else {}
