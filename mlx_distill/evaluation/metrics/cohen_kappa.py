"""`cohen_kappa.<field>`: how often a choice or a flag is the judge's, beyond what chance would give.

Cohen, "A coefficient of agreement for nominal scales", 1960.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mlx_distill.evaluation.metrics import LABELS, Floats, Sheet, Tally, codes, ratio

BETTER = "higher"
UNIT = "κ, −1 to 1"
TITLE = "Cohen's κ"


def cohen_kappa(reference: Sequence[object], answer: Sequence[object]) -> float:
    """(observed − expected) / (1 − expected) agreement; higher is better, 1 is agreement, 0 is chance. NaN where both are constant.

    A row without a label (None) does not count; one without an answer is wrong, as if the student had a label of its own for it.

    >>> cohen_kappa(["a", "a", "b", "b"], ["a", "a", "b", "a"])  # observed 3/4, expected 1/2 * 3/4 + 1/2 * 1/4
    0.5
    """
    names = list(dict.fromkeys(value for value in [*reference, *answer] if value is not None))
    judge, student = (np.array([names.index(v) if v is not None else -1 for v in side], dtype=np.int64) for side in (reference, answer))
    return tally(judge, student, len(names)).total()


def tally(reference: NDArray[np.int64], answer: NDArray[np.int64], labels: int) -> Tally:
    """Codes (rows,), -1 where there is none. Sums: rows, hits, then by label the judge's, then the student's."""
    labelled = reference >= 0
    sides = [(labelled[:, None] & (side[:, None] == np.arange(labels))).astype(float) for side in (reference, answer)]
    heads = np.stack([labelled, labelled & (reference == answer)], axis=1).astype(float)
    return Tally(np.concatenate([heads, *sides], axis=1), labelled, _value)


def tallies(sheet: Sheet) -> dict[str, Tally]:
    return {
        f"cohen_kappa.{name}": tally(codes(column.reference), codes(column.answer), len(column.labels))
        for name, column in sheet.of_kind(*LABELS).items()
    }


def _value(sums: Floats) -> Floats:
    n, hits, labels = sums[..., 0], sums[..., 1], (sums.shape[-1] - 2) // 2
    by_chance = (sums[..., 2 : 2 + labels] * sums[..., 2 + labels :]).sum(axis=-1)
    return ratio(n * hits - by_chance, n * n - by_chance)
