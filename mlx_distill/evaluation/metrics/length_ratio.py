"""`length_ratio.<field>`: how long the student's texts are, beside the judge's. A target on it is a limit from above."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mlx_distill.evaluation.metrics import Bools, Floats, Sheet, Tally, ratio
from mlx_distill.evaluation.metrics.length import lengths

BETTER = "limit"
UNIT = "times the judge's"
TITLE = "Length beside the judge's"


def length_ratio(reference: Sequence[str | None], answer: Sequence[str | None]) -> float:
    """Characters of the student's texts over those of the judge's, all rows together. A row that lacks either does not count.

    >>> length_ratio(["four", "eight...", None], ["12", "7 chars", "x"])  # (2 + 7) / (4 + 8)
    0.75
    """
    judge, student = (np.array([len(text or "") for text in side], dtype=float) for side in (reference, answer))
    return tally(judge, student, np.array([None not in pair for pair in zip(reference, answer, strict=True)], dtype=bool)).total()


def tally(reference: Floats, answer: Floats, counted: Bools) -> Tally:
    columns = np.stack([np.where(counted, side, 0.0) for side in (answer, reference)], axis=1)
    return Tally(columns, counted, lambda sums: ratio(sums[..., 0], sums[..., 1]))


def tallies(sheet: Sheet) -> dict[str, Tally]:
    found = {}
    for name, column in sheet.of_kind("text").items():
        (judge, said), (student, answered) = lengths(column, 0), lengths(column, 1)
        found[f"length_ratio.{name}"] = tally(judge, student, said & answered)
    return found
