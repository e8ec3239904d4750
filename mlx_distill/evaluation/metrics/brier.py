"""`brier.<field>`: how far a choice's or a flag's probabilities are from what the judge said.

Brier, "Verification of forecasts expressed in terms of probability", 1950, over all values: from 0 to 2. (scikit-learn's
brier_score_loss(scale_by_half=False). The score that counts one value of two, as is usual for flags, is half of it.)
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mlx_distill.evaluation.metrics import LABELS, Floats, Sheet, Tally, mean

BETTER = "lower"
UNIT = "squared probability, 0 to 2"
TITLE = "Brier score"


def brier(reference: Sequence[int], probabilities: Sequence[Sequence[float]]) -> float:
    """Mean over rows of the sum over values of (p − 1 if it is the judge's, else 0)², 0 to 2; lower is better. Values by their place.

    >>> brier([0, 1], [[0.75, 0.25], [0.5, 0.5]])  # (0.0625 + 0.0625 + 0.25 + 0.25) / 2
    0.3125
    """
    given = np.array(probabilities, dtype=float)
    own = scores(np.array(reference, dtype=float), np.arange(given.shape[1], dtype=float), given)
    return mean(own, np.ones(len(own), dtype=bool)).total()


def scores(reference: Floats, values: Floats, probabilities: Floats) -> Floats:
    """Of each row (rows,). A label that is none of the values had probability 0."""
    said = reference[:, None] == values
    apart: Floats = ((probabilities - said) ** 2).sum(axis=1) + ~said.any(axis=1)
    return apart


def tallies(sheet: Sheet) -> dict[str, Tally]:
    return {f"brier.{name}": column.mean_of_spread(scores) for name, column in sheet.of_kind(*LABELS).items()}
