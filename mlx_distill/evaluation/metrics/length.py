"""`length.<field>`: how long the student's texts are. A target on it is a limit from above."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mlx_distill.evaluation.metrics import Bools, Column, Floats, Sheet, Tally, mean

BETTER = "limit"
UNIT = "characters"
TITLE = "Length"


def length(answer: Sequence[str | None]) -> float:
    """Mean characters of the student's texts. A row without an answer does not count.

    >>> length(["smoke", "", "fire!!!", None])
    4.0
    """
    return mean([len(text or "") for text in answer], [text is not None for text in answer]).total()


def lengths(column: Column, side: int) -> tuple[Floats, Bools]:
    """Characters of each text (rows,), 0 where there is none; and where there is one. `side` 0: the judge's, 1: the student's."""
    texts = [pair[side] for pair in column.raw]
    there = np.array([isinstance(text, str) for text in texts], dtype=bool)
    return np.array([len(text) if isinstance(text, str) else 0 for text in texts], dtype=float), there


def tallies(sheet: Sheet) -> dict[str, Tally]:
    return {f"length.{name}": mean(*lengths(column, 1)) for name, column in sheet.of_kind("text").items()}
