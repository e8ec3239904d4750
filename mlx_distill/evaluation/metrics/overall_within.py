"""`overall_within_0.5` and `overall_within_1.0`: how often the overall is within half a point, or a point, of the judge's."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mlx_distill.evaluation.metrics import Floats, Sheet, Tally, share

BETTER = "higher"
UNIT = "share of rows"
TITLE = "Overall within {} points"
NEEDS = "overall"
NAMES = ("overall_within_0.5", "overall_within_1.0")

ROUNDING = 1e-9
"""2.2 − 1.2 is a little more than 1 to a computer."""


def overall_within(reference: Sequence[float | None], answer: Sequence[float | None], points: float) -> float:
    """Share of rows; higher is better. A row that the judge has no overall for does not count; one without an answer is not near.

    >>> overall_within([6.4, 6.4, 6.4, None], [5.4, 7.0, None, 1.0], 1.0) == 2 / 3
    True
    """
    return tally(np.array(reference, dtype=float), np.array(answer, dtype=float), points).total()


def tally(reference: Floats, answer: Floats, points: float) -> Tally:
    return share(np.abs(answer - reference) <= points + ROUNDING, ~np.isnan(reference))


def tallies(sheet: Sheet) -> dict[str, Tally]:
    return {name: tally(sheet.reference_overall, sheet.overall, float(name.rpartition("_")[2])) for name in NAMES}
