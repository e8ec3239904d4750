"""`valid_json`: how often the answer could be read at all."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mlx_distill.evaluation.metrics import Sheet, Tally, share

BETTER = "higher"
UNIT = "share of rows"
TITLE = "Valid JSON"


def valid_json(answer: Sequence[object]) -> float:
    """Share of rows with an answer that is JSON of the task (None: it is not); higher is better.

    >>> valid_json([{"relevant": True}, None])
    0.5
    """
    return share([student is not None for student in answer], np.ones(len(answer), dtype=bool)).total()


def tallies(sheet: Sheet) -> dict[str, Tally]:
    return {"valid_json": share(sheet.valid, np.ones(len(sheet.valid), dtype=bool))}
