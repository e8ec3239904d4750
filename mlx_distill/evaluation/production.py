"""What it costs and what it lacks to answer in earnest: answers that could be read, refused rows, lengths, tokens.

    production(rows)     one plain dictionary

Seconds and memory are whoever's who ran the student: this sees rows alone.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from mlx_distill.evaluation.sheet import Judged

_json = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), default=str).encode


def production(rows: Sequence[Judged]) -> dict[str, Any]:
    """{valid_json: share with an answer, refused: {n, share, reasons: {reason: rows}}, answer_chars, tokens: {n, mean, median, p95}}.

    `answer_chars` are characters of an answer as compact JSON, `tokens` those that were forwarded to answer a row, the shared prefix not
    counted. What is not known is None.
    """
    reasons = Counter(row.refused for row in rows if row.refused is not None)
    refused, valid = reasons.total(), sum(row.answer is not None for row in rows)
    return {
        "valid_json": valid / len(rows) if rows else None,
        "refused": {"n": refused, "share": refused / len(rows) if rows else None, "reasons": dict(reasons.most_common())},
        "answer_chars": spread([len(_json(row.answer)) for row in rows if row.answer is not None]),
        "tokens": spread([row.tokens for row in rows if row.tokens is not None]),
    }


def spread(numbers: Sequence[float]) -> dict[str, float | int | None]:
    """
    >>> spread([1, 2, 3, 10])["mean"], spread([1, 2, 3, 10])["median"], spread([])
    (4.0, 2.5, {'n': 0, 'mean': None, 'median': None, 'p95': None})
    """
    if not numbers:
        return {"n": 0, "mean": None, "median": None, "p95": None}
    known = np.array(numbers, dtype=float)
    return {"n": len(known), "mean": float(known.mean()), "median": float(np.median(known)), "p95": float(np.quantile(known, 0.95))}
