"""`overall_mae`: how far the weighted, gated overall is from the judge's. Targets may call it `score_mae`."""

from __future__ import annotations

import numpy as np

from mlx_distill.evaluation.metrics import Sheet, Tally, mean
from mlx_distill.evaluation.metrics.mae import mae

BETTER = "lower"
UNIT = "points of the overall"
TITLE = "Mean error of the overall"
NEEDS = "overall"
ALIASES = ("score_mae",)

overall_mae = mae


def tallies(sheet: Sheet) -> dict[str, Tally]:
    gap = np.abs(sheet.overall - sheet.reference_overall)
    tally = mean(gap, ~np.isnan(gap))
    return dict.fromkeys(("overall_mae", *ALIASES), tally)
