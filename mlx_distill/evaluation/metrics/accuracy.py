"""How often the student gives the judge's answer: `accuracy.<field>` for choices and flags, and `accuracy`, one figure for the task."""

from __future__ import annotations

from collections.abc import Sequence

from mlx_distill.evaluation.metrics import LABELS, Sheet, Tally, mean_of_shares, overall_within, share

BETTER = "higher"
UNIT = "share of rows"
TITLE = "Accuracy"

WITHIN = 1.0
"""In a task of scores alone an overall this near to the judge's is right."""


def accuracy(reference: Sequence[object], answer: Sequence[object]) -> float:
    """Share of rows with the judge's answer, 0 to 1; higher is better.

    A row without a label (None) does not count; without an answer it is wrong.

    >>> accuracy(["rain", "fire", "fire", None], ["rain", "rain", None, "fire"]) == 1 / 3
    True
    """
    pairs = list(zip(reference, answer, strict=True))
    return share([judge == student for judge, student in pairs], [judge is not None for judge, _ in pairs]).total()


def tallies(sheet: Sheet) -> dict[str, Tally]:
    fields = {name: share(column.right, column.labelled) for name, column in sheet.of_kind(*LABELS).items()}
    found = {f"accuracy.{name}": tally for name, tally in fields.items()}
    if fields:
        found["accuracy"] = mean_of_shares(list(fields.values()))
    elif sheet.of_kind("score"):
        found["accuracy"] = overall_within.tally(sheet.reference_overall, sheet.overall, WITHIN)
    return found
