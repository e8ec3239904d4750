"""`mae.<field>`: how far a score is from the judge's, on average."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mlx_distill.evaluation.metrics import Column, Sheet, Tally, mean

BETTER = "lower"
UNIT = "points of the score"
TITLE = "Mean absolute error"


def mae(reference: Sequence[float | None], answer: Sequence[float | None]) -> float:
    """Mean absolute error, in points; lower is better. A row that lacks either number does not count (`valid_json` tells of those).

    >>> mae([1, 4, 7, None], [2, 2, None, 3])
    1.5
    """
    judge, student = np.array(reference, dtype=float), np.array(answer, dtype=float)
    gap = np.abs(judge - student)
    return mean(gap, ~np.isnan(gap)).total()


def tally(column: Column) -> Tally:
    return mean(np.abs(column.answer - column.reference), column.both)


def tallies(sheet: Sheet) -> dict[str, Tally]:
    return {f"mae.{name}": tally(column) for name, column in sheet.of_kind("score").items()}
