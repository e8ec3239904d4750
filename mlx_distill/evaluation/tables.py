"""Tables that stand beside the figures: of a field its confusion, bias and the reliability of its confidence; of all rows their tiers."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from mlx_distill.evaluation.metrics import Column, Floats, Sheet, ratio
from mlx_distill.evaluation.metrics import ece as calibration


def confusion(column: Column) -> dict[str, Any]:
    """`matrix[i][j]`: rows that the judge calls labels[i] and the student labels[j]; `unanswered[i]`: those without a valid answer.

    Precision, recall and F1 are None where nothing is there to divide by.
    """
    size = len(column.labels)
    both = column.both
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
    both = column.both
    if not both.any():
        return {"n": 0, "reference_mean": None, "student_mean": None, "bias": None}
    judge, student = float(column.reference[both].mean()), float(column.answer[both].mean())
    return {"n": int(both.sum()), "reference_mean": judge, "student_mean": student, "bias": student - judge}


def reliability(column: Column) -> list[dict[str, Any]]:
    """The ten bins of `ece`: how sure the student was on average, and how often right."""
    counted = column.both & ~np.isnan(column.confidence)
    sure, right = column.confidence[counted], column.right[counted]
    member = calibration.bin_of(sure)
    n, said, was = (np.bincount(member, weights=w, minlength=calibration.BINS) for w in (None, sure, right.astype(float)))
    return [
        {"low": i / calibration.BINS, "high": (i + 1) / calibration.BINS, "n": int(n[i]), "confidence": confidence, "right": share}
        for i, (confidence, share) in enumerate(zip(_known(ratio(said, n)), _known(ratio(was, n)), strict=True))
    ]


def tiers(sheet: Sheet) -> dict[str, Any] | None:
    """How many rows each side puts where; None where there are no tiers.

    `names` from the lowest to the highest (`ordered`: as far as that is known of all). `matrix[i][j]`: rows that the judge puts into tier
    i and the student into tier j; behind the last tier stand the rows that have none on that side. `reference` and `student`: the shares
    of all `n` rows, likewise.
    """
    names, n = list(sheet.tiers), len(sheet.valid)
    if not names:
        return None
    size = len(names) + 1
    judge, student = (np.where(side < 0, len(names), side) for side in (sheet.reference_tier, sheet.tier))
    matrix = np.bincount(judge * size + student, minlength=size * size).reshape(size, size)
    return {
        "names": names,
        "ordered": sheet.ordered == len(names),
        "n": n,
        "matrix": matrix.tolist(),
        "reference": _known(ratio(matrix.sum(axis=1), n)),
        "student": _known(ratio(matrix.sum(axis=0), n)),
    }


def _known(values: Floats) -> list[float | None]:
    return [None if math.isnan(value) else float(value) for value in values]
