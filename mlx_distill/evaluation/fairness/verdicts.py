"""Met, missed or not certain: an interval held against the largest gap that passes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

Verdict = Literal["met", "missed", "not certain", "none"]
ORDER: tuple[Verdict, ...] = ("missed", "not certain", "met", "none")


def of_sample(low: float | None, high: float | None, most: float) -> Verdict:
    """Of rows that stand for others like them: certain only where the whole interval lies on one side.

    >>> of_sample(0.02, 0.09, 0.1), of_sample(0.12, 0.3, 0.1), of_sample(0.05, 0.3, 0.1), of_sample(None, None, 0.1)
    ('met', 'missed', 'not certain', 'none')
    """
    if low is None or high is None:
        return "none"
    if high <= most:
        return "met"
    return "missed" if low > most else "not certain"


def of_texts(value: float, most: float) -> Verdict:
    """Of texts that somebody chose: for these the difference is exact."""
    return "met" if value <= most + 1e-9 else "missed"


def worst(verdicts: Iterable[Verdict]) -> Verdict:
    """One that was missed decides, then one that is not certain; "none" where nothing was measured.

    >>> worst(["met", "none", "not certain"]), worst([])
    ('not certain', 'none')
    """
    return min([*verdicts, "none"], key=ORDER.index)
