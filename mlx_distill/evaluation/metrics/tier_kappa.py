"""`tier_kappa`: agreement on the tiers beyond what chance would give, a miss weighing its distance in tiers squared: see `kappa`."""

from __future__ import annotations

import numpy as np

from mlx_distill.evaluation.metrics import Sheet, Tally
from mlx_distill.evaluation.metrics.kappa import kappa, tally
from mlx_distill.evaluation.metrics.tier_adjacent import in_order

BETTER = "higher"
UNIT = "κ, −1 to 1"
TITLE = "Quadratic-weighted κ of the tiers"
NEEDS = "tiers"

tier_kappa = kappa


def tallies(sheet: Sheet) -> dict[str, Tally]:
    judge, student = (np.where(side >= 0, side, np.nan) for side in in_order(sheet))
    return {"tier_kappa": tally(judge, student)}
