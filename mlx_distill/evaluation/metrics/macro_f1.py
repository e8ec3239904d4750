"""`macro_f1.<field>`: F1 of each label, averaged without regard to how common the label is."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mlx_distill.evaluation.metrics import LABELS, Floats, Sheet, Tally, codes, known_mean, ratio

BETTER = "higher"
UNIT = "F1, 0 to 1"
TITLE = "Macro-F1"


def macro_f1(reference: Sequence[object], answer: Sequence[object]) -> float:
    """Mean F1 over the labels in the reference or the answers, as scikit-learn counts them; higher is better.

    A row without a label (None) does not count; one without an answer is a miss of its label and no label of its own.

    >>> macro_f1(["a", "a", "b", "b"], ["a", "b", "b", "b"]) == (2 / 3 + 4 / 5) / 2
    True
    """
    names = list(dict.fromkeys(value for value in [*reference, *answer] if value is not None))
    judge, student = (np.array([names.index(v) if v is not None else -1 for v in side], dtype=np.int64) for side in (reference, answer))
    return tally(judge, student, len(names)).total()


def tally(reference: NDArray[np.int64], answer: NDArray[np.int64], labels: int) -> Tally:
    """Codes (rows,), -1 where there is none. Sums: hits, then 2 · hits + false alarms + misses, by label."""
    labelled = reference >= 0
    is_reference = labelled[:, None] & (reference[:, None] == np.arange(labels))
    is_answer = labelled[:, None] & (answer[:, None] == np.arange(labels))
    hits = (is_reference & is_answer).astype(float)
    return Tally(np.concatenate([hits, is_reference.astype(float) + is_answer], axis=1), labelled, _value)


def tallies(sheet: Sheet) -> dict[str, Tally]:
    return {
        f"macro_f1.{name}": tally(codes(column.reference), codes(column.answer), len(column.labels))
        for name, column in sheet.of_kind(*LABELS).items()
    }


def _value(sums: Floats) -> Floats:
    labels = sums.shape[-1] // 2
    return known_mean(ratio(2 * sums[..., :labels], sums[..., labels:]))
