"""`nll` and `nll.<field>`: how surprised the student is by the judge's answers, and by its value of one field."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mlx_distill.evaluation.metrics import Floats, Sheet, Tally, ratio

BETTER = "lower"
UNIT = "nats a token"
TITLE = "Loss on the judge's answers"


def nll(nats: Sequence[float], tokens: Sequence[float]) -> float:
    """Negative log likelihood of the judge's answers, in nats a token over all rows together; lower is better.

    >>> nll([2.0, 1.0], [4, 2])
    0.5
    """
    return tally(np.array(nats, dtype=float), np.array(tokens, dtype=float)).total()


def tally(nats: Floats, tokens: Floats) -> Tally:
    counted = ~np.isnan(nats) & (tokens > 0)
    columns = np.stack([np.where(counted, nats, 0.0), np.where(counted, tokens, 0.0)], axis=1)
    return Tally(columns, counted, lambda sums: ratio(sums[..., 0], sums[..., 1]))


def tallies(sheet: Sheet) -> dict[str, Tally]:
    fields = {f"nll.{name}": tally(column.nll, column.nll_tokens) for name, column in sheet.fields.items()}
    return {"nll": tally(sheet.nll, sheet.nll_tokens), **fields}
