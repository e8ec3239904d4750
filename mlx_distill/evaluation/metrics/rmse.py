"""`rmse.<field>`: how far a score is from the judge's, large errors counting more."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mlx_distill.evaluation.metrics import Bools, Floats, Sheet, Tally, mean

BETTER = "lower"
UNIT = "points of the score"
TITLE = "Root mean squared error"


def rmse(reference: Sequence[float | None], answer: Sequence[float | None]) -> float:
    """Root of the mean squared error, in points; lower is better. A row that lacks either number does not count.

    >>> rmse([1, 4, 7, None], [4, 8, None, 3]) == (25 / 2) ** 0.5  # errors 3 and 4
    True
    """
    judge, student = np.array(reference, dtype=float), np.array(answer, dtype=float)
    return tally(judge, student, ~np.isnan(judge - student)).total()


def tally(reference: Floats, answer: Floats, counted: Bools) -> Tally:
    squares = mean((answer - reference) ** 2, counted)
    return Tally(squares.columns, counted, lambda sums: np.sqrt(np.maximum(squares.value(sums), 0.0)))


def tallies(sheet: Sheet) -> dict[str, Tally]:
    return {f"rmse.{name}": tally(column.reference, column.answer, column.both) for name, column in sheet.of_kind("score").items()}
