"""`empty.<field>`: how often the student has nothing to say where a text is wanted."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mlx_distill.evaluation.metrics import Sheet, Tally, share

BETTER = "lower"
UNIT = "share of rows"
TITLE = "Empty texts"


def empty(answer: Sequence[str | None]) -> float:
    """Share of the student's texts that are empty or white space; lower is better. A row without an answer does not count.

    >>> empty(["smoke", " ", "", "fire", None])
    0.5
    """
    return share([text is not None and not text.strip() for text in answer], [text is not None for text in answer]).total()


def tallies(sheet: Sheet) -> dict[str, Tally]:
    found = {}
    for name, column in sheet.of_kind("text").items():
        blank = np.array([isinstance(text, str) and not text.strip() for _, text in column.raw], dtype=bool)
        found[f"empty.{name}"] = share(blank, column.answered)
    return found
