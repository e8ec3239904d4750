"""`tier_agreement`: how often student and judge put a row into the same tier."""

from __future__ import annotations

from collections.abc import Sequence

from mlx_distill.evaluation.metrics import Sheet, Tally, share
from mlx_distill.evaluation.metrics.accuracy import accuracy

BETTER = "higher"
UNIT = "share of rows"
TITLE = "Same tier"
NEEDS = "tiers"


def tier_agreement(reference: Sequence[str | None], answer: Sequence[str | None]) -> float:
    """Share of rows in the judge's tier; higher is better. A row that the judge has no tier for does not count.

    >>> tier_agreement(["impact", "connection", None], ["impact", "impact", "impact"])
    0.5
    """
    return accuracy(reference, answer)


def tallies(sheet: Sheet) -> dict[str, Tally]:
    return {"tier_agreement": share(sheet.tier == sheet.reference_tier, sheet.reference_tier >= 0)}
