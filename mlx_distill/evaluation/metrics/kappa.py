"""`kappa.<field>`: agreement on a score's steps beyond what chance would give, a miss weighing its distance squared.

Cohen, "Weighted kappa", 1968, with quadratic weights: scikit-learn's cohen_kappa_score(weights="quadratic") with `labels` all steps of the
score. (Without `labels` scikit-learn counts only the steps that occur, so that 0 and 10 may be neighbours.)
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mlx_distill.evaluation.metrics import Floats, Sheet, Tally, nearest_step, ratio

BETTER = "higher"
UNIT = "κ, −1 to 1"
TITLE = "Quadratic-weighted κ"


def kappa(reference: Sequence[float | None], answer: Sequence[float | None]) -> float:
    """1 − observed / expected mean squared distance, in steps; higher is better, 1 is agreement, 0 is chance. NaN where both are constant.

    Whole numbers of steps. A row that lacks either does not count.

    >>> kappa([0, 1, 2, 2, None], [0, 2, 2, 1, 0])  # observed (1 + 1) / 4; expected 2 * variance 11 / 16, the means being equal
    0.6363636363636364
    """
    return tally(np.array(reference, dtype=float), np.array(answer, dtype=float)).total()


def tally(reference: Floats, answer: Floats) -> Tally:
    """Steps (rows,), NaN where there is none.

    By moments: over all pairs of a judge's and a student's answer the mean of (x − y)² is E x² + E y² − 2 E x E y. Only distances count, so
    steps are taken from the middle one: small whole numbers, whose sums are exact.
    """
    counted = ~np.isnan(reference) & ~np.isnan(answer)
    middle = np.rint(reference[counted].mean()) if counted.any() else 0.0
    x, y = (np.where(counted, side - middle, 0.0) for side in (reference, answer))
    return Tally(np.stack([counted.astype(float), x, y, x * x + y * y, (x - y) ** 2], axis=1), counted, _value)


def tallies(sheet: Sheet) -> dict[str, Tally]:
    return {
        f"kappa.{name}": tally(nearest_step(column.reference, column.values), nearest_step(column.answer, column.values))
        for name, column in sheet.of_kind("score").items()
    }


def _value(sums: Floats) -> Floats:
    n, x, y, squares, apart = np.moveaxis(sums, -1, 0)
    return 1.0 - ratio(n * apart, n * squares - 2 * x * y)
