"""`exact.<field>`: how often a score is the judge's, to the step."""

from __future__ import annotations

from collections.abc import Sequence

from mlx_distill.evaluation.metrics import Sheet, Tally, share
from mlx_distill.evaluation.metrics.accuracy import accuracy

BETTER = "higher"
UNIT = "share of rows"
TITLE = "Same step"


def exact(reference: Sequence[int | None], answer: Sequence[int | None]) -> float:
    """Share of rows on the judge's step; higher is better. A row without a label (None) does not count; without an answer it is wrong.

    >>> exact([3, 4, 5, None], [3, 5, None, 5]) == 1 / 3
    True
    """
    return accuracy(reference, answer)


def tallies(sheet: Sheet) -> dict[str, Tally]:
    return {f"exact.{name}": share(column.right, column.labelled) for name, column in sheet.of_kind("score").items()}
