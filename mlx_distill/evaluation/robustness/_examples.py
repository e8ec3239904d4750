"""A few rows to look at: text and answer before and after, those that flipped first. Long texts are cut around the first change."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mlx_distill.evaluation.judge import Fields
from mlx_distill.evaluation.robustness._figures import flipped
from mlx_distill.evaluation.robustness._generated import Pair

SHOWN = 3
CHARS = 360
"""Of each text."""
BEFORE = 60
"""Of them before the first change."""
GAP = "…"


def of_pairs(pairs: Sequence[Pair], fields: Fields) -> list[dict[str, Any]]:
    """Flips that nobody would see come first, then other flips, then the rest; `pairs` in the order of the draw."""
    marked = [(flipped(pair, fields), pair) for pair in pairs]
    marked.sort(key=lambda one: (not one[0] or one[1].after.defer or one[1].after.answer is None, not one[0]))
    return [_pair(pair, names) for names, pair in marked[:SHOWN]]


def _pair(pair: Pair, names: list[str]) -> dict[str, Any]:
    text, changed = excerpts(pair.before.text, pair.after.text)
    return {
        "id": pair.before.id,
        "text": text,
        "changed": changed,
        "answer": dict(pair.before.answer or {}),
        "changed_answer": None if pair.after.answer is None else dict(pair.after.answer),
        "confidence": dict(pair.after.confidence),
        "flipped": names,
        "deferred": pair.after.defer,
        "refused": pair.after.refused,
        "demanded": None if pair.aim is None else dict([pair.aim]),
    }


def excerpts(one: str, other: str) -> tuple[str, str]:
    """As much of each as is shown, from a little before the place where they part.

    >>> excerpts("a" * 70 + "b" + "c" * 500, "a" * 70 + "d")[1] == "…" + "a" * 60 + "d"
    True
    """
    length = min(len(one), len(other))
    parted = next((i for i in range(length) if one[i] != other[i]), length)
    start = max(0, parted - BEFORE)
    return _from(one, start), _from(other, start)


def _from(text: str, start: int) -> str:
    return (GAP if start else "") + text[start : start + CHARS] + (GAP if len(text) > start + CHARS else "")


def beginning(text: str) -> str:
    return _from(text, 0)
