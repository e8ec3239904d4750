"""Tables that stand beside the figures of one field: confusion, bias, reliability of its confidence. It sees one column at a time."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from mlx_distill.evaluation.metrics import Column, Floats, ratio
from mlx_distill.evaluation.metrics import ece as calibration


def confusion(column: Column) -> dict[str, Any]:
    """`matrix[i][j]`: rows that the judge calls labels[i] and the student labels[j]; `unanswered[i]`: those without a valid answer.

    Precision, recall and F1 are None where nothing is there to divide by.
    """
    size = len(column.labels)
    both = column.labelled & column.answered
    matrix = np.zeros((size, size), dtype=int)
    np.add.at(matrix, (column.reference[both].astype(int), column.answer[both].astype(int)), 1)
    unanswered = np.bincount(column.reference[column.labelled & ~column.answered].astype(int), minlength=size)
    support, predicted, hits = matrix.sum(axis=1) + unanswered, matrix.sum(axis=0), np.diag(matrix)
    return {
        "labels": list(column.labels),
        "matrix": matrix.tolist(),
        "unanswered": unanswered.tolist(),
        "precision": _known(ratio(hits, predicted)),
        "recall": _known(ratio(hits, support)),
        "f1": _known(ratio(2 * hits, support + predicted)),
        "support": support.tolist(),
    }


def bias(column: Column) -> dict[str, Any]:
    """Over the rows with both numbers; bias is student − judge."""
    both = column.labelled & column.answered
    if not both.any():
        return {"n": 0, "reference_mean": None, "student_mean": None, "bias": None}
    judge, student = float(column.reference[both].mean()), float(column.answer[both].mean())
    return {"n": int(both.sum()), "reference_mean": judge, "student_mean": student, "bias": student - judge}


def reliability(column: Column) -> list[dict[str, Any]]:
    """The ten bins of `ece`: how sure the student was on average, and how often right."""
    counted = column.labelled & column.answered & ~np.isnan(column.confidence)
    sure, right = column.confidence[counted], column.right[counted]
    member = calibration.bin_of(sure)
    n, said, was = (np.bincount(member, weights=w, minlength=calibration.BINS) for w in (None, sure, right.astype(float)))
    return [
        {"low": i / calibration.BINS, "high": (i + 1) / calibration.BINS, "n": int(n[i]), "confidence": confidence, "right": share}
        for i, (confidence, share) in enumerate(zip(_known(ratio(said, n)), _known(ratio(was, n)), strict=True))
    ]


def _known(values: Floats) -> list[float | None]:
    return [None if math.isnan(value) else float(value) for value in values]
