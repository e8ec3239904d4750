"""`overall_rmse`: how far the weighted, gated overall is from the judge's, large errors counting more."""

from __future__ import annotations

import numpy as np

from mlx_distill.evaluation.metrics import Sheet, Tally
from mlx_distill.evaluation.metrics.rmse import rmse, tally

BETTER = "lower"
UNIT = "points of the overall"
TITLE = "Root mean squared error of the overall"
NEEDS = "overall"

overall_rmse = rmse


def tallies(sheet: Sheet) -> dict[str, Tally]:
    counted = ~np.isnan(sheet.overall - sheet.reference_overall)
    return {"overall_rmse": tally(sheet.reference_overall, sheet.overall, counted)}
