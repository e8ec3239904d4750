"""`overall_bias`: whether the overall is too high or too low on average. A target on it is the most that it may be off, either way."""

from __future__ import annotations

import numpy as np

from mlx_distill.evaluation.metrics import Sheet, Tally, mean
from mlx_distill.evaluation.metrics.bias import bias

BETTER = "zero"
UNIT = "points of the overall"
TITLE = "Bias of the overall"
NEEDS = "overall"

overall_bias = bias


def tallies(sheet: Sheet) -> dict[str, Tally]:
    gap = sheet.overall - sheet.reference_overall
    return {"overall_bias": mean(gap, ~np.isnan(gap), centred=True)}
