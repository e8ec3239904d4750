"""`list_f1.<field>`: how far the student's list names the judge's items."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mlx_distill.evaluation.metrics import Sheet, Tally, mean

BETTER = "higher"
UNIT = "F1, 0 to 1"
TITLE = "F1 of lists"


def list_f1(reference: Sequence[Sequence[str] | None], answer: Sequence[Sequence[str] | None]) -> float:
    """Mean F1 of the two sets of items, row by row; higher is better. Two empty lists agree; no answer is 0; no label does not count.

    >>> list_f1([["solar", "wind"], [], None], [["wind"], [], ["solar"]]) == (2 / 3 + 1) / 2
    True
    """
    pairs = list(zip(reference, answer, strict=True))
    return mean([overlap(judge, student) for judge, student in pairs], [judge is not None for judge, _ in pairs]).total()


def overlap(reference: object, answer: object) -> float:
    """F1 of two lists as sets; 0 where either is no list."""
    if not isinstance(reference, (list, tuple)) or not isinstance(answer, (list, tuple)):
        return 0.0
    judge, student = set(reference), set(answer)
    return 2 * len(judge & student) / (len(judge) + len(student)) if judge or student else 1.0


def tallies(sheet: Sheet) -> dict[str, Tally]:
    return {
        f"list_f1.{name}": mean(np.array([overlap(*pair) for pair in column.raw], dtype=float), column.labelled)
        for name, column in sheet.of_kind("list").items()
    }
