"""`perplexity` and `perplexity.<field>`: among how many equally likely tokens the student would choose, on the judge's answers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mlx_distill.evaluation.metrics import Sheet, Tally
from mlx_distill.evaluation.metrics import nll as loss

BETTER = "lower"
UNIT = "tokens"
TITLE = "Perplexity"


def perplexity(nats: Sequence[float], tokens: Sequence[float]) -> float:
    """exp of nats a token over all rows together; lower is better, 1 is certainty.

    >>> round(perplexity([2.0, 1.0], [4, 2]), 4)
    1.6487
    """
    return float(np.exp(loss.nll(nats, tokens)))


def tallies(sheet: Sheet) -> dict[str, Tally]:
    return {name.replace("nll", "perplexity", 1): _of(tally) for name, tally in loss.tallies(sheet).items()}


def _of(nats: Tally) -> Tally:
    return Tally(nats.columns, nats.counted, lambda sums: np.exp(nats.value(sums)))
