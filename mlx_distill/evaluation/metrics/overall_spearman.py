"""`overall_spearman`: whether the overall puts the rows in the judge's order."""

from __future__ import annotations

from mlx_distill.evaluation.metrics import AnyTally, Sheet
from mlx_distill.evaluation.metrics.spearman import spearman, tally

BETTER = "higher"
UNIT = "rank correlation, −1 to 1"
TITLE = "Spearman's ρ of the overall"
NEEDS = "overall"

overall_spearman = spearman


def tallies(sheet: Sheet) -> dict[str, AnyTally]:
    return {"overall_spearman": tally(sheet.reference_overall, sheet.overall)}
