"""How far the student's confidence can be believed: maps that set it right, and what they change on rows that served for neither.

    learned(task, rows, "auto")                  FieldMaps by field, fitted on rows that were not learned, and how each was found
    document(task, confidence, before, after)    report.json's `calibration`

It knows rows and fields; nothing of files or students.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mlx_distill.evaluation import bootstrap as boot
from mlx_distill.evaluation.metrics import Column, brier, crps, ece, ece_mass, nearest_step
from mlx_distill.evaluation.shares import exact, share
from mlx_distill.evaluation.sheet import Judged, lay_out
from mlx_distill.evaluation.tally import Bools, Floats, Rows
from mlx_distill.evaluation.trust import fitting
from mlx_distill.recipe.schema import FieldSpec, TaskSpec
from mlx_distill.task.calibrated import FieldMap
from mlx_distill.task.confidence import Confidence
from mlx_distill.task.decision import place
from mlx_distill.task.fields import ABSENT, CLOSED, closed_values, follow

WARN = 0.10
"""A calibration error above this is worth a warning."""
METRICS = (ece, ece_mass, brier, crps)
LEVELS = (0.5, 0.8, 0.9)
"""Of the central intervals that a score's distribution predicts."""


def learned(task: TaskSpec, rows: Sequence[Judged], wanted: str, group_by: str | None = None) -> tuple[dict[str, FieldMap], dict[str, Any]]:
    """Maps by closed field, where there is anything to set right, and `fitting.choose`'s facts. `rows` are as the student said them.

    `group_by`: the column whose values rows come together by.
    """
    maps, facts = {}, {}
    for name, spec in task.fields.items():
        if spec.kind in CLOSED:
            own, facts[name] = fitting.choose(sample(rows, name, spec, group_by), wanted)
            if facts[name]["method"] != "none":
                maps[name] = own
    return maps, facts


def counts(row: Judged, name: str, spec: FieldSpec) -> bool:
    """Whether a row can tell how far the confidence in a field is right."""
    return (
        row.answer is not None
        and name in row.answer
        and name in row.reference
        and name in row.confidence
        and (spec.kind != "choice" or (row.reference[name] in (spec.choices or ()) and row.answer[name] in (spec.choices or ())))
    )


def sample(rows: Sequence[Judged], name: str, spec: FieldSpec, group_by: str | None = None) -> fitting.Sample:
    """One field of the rows that count for it. Whole distributions where every one of them has one."""
    values = closed_values(spec) or []
    kept = [row for row in rows if counts(row, name, spec)]
    shares = [row.probabilities.get(name, ()) for row in kept]
    answer = np.array([place(spec, values, (row.answer or {})[name]) for row in kept], dtype=np.intp)
    truth = np.array([place(spec, values, row.reference[name]) for row in kept], dtype=np.intp)
    whole = bool(kept) and all(len(one) == len(values) for one in shares)
    groups = None if group_by is None else [follow(row.record, group_by) for row in kept]
    return fitting.Sample(
        ids=[row.id for row in kept],
        confidence=np.array([row.confidence[name] for row in kept], dtype=float),
        right=answer == truth,
        place=answer,
        truth=truth,
        logs=fitting.logs_of(shares) if whole else None,
        groups=None if groups is None or ABSENT in groups else list(map(str, groups)),
    )


def document(
    task: TaskSpec,
    confidence: Confidence,
    before: Sequence[Judged],
    after: Sequence[Judged],
    *,
    bootstrap: int,
    seed: int,
    most: Mapping[str, float] | None = None,
) -> dict[str, Any] | None:
    """{split: which it was fitted on, fields: {field: method, parameters, before, after, verdict}}; None without a closed field to judge.

    `before` and `after` are the same rows, as the student said them and as `confidence` set them right; they served for nothing so far.
    `most`: the calibration error that the recipe's targets allow, by field.
    """
    assert [row.id for row in before] == [row.id for row in after]
    facts = confidence.facts.get("calibration", {})
    sides = {side: _side(task, rows, bootstrap, seed) for side, rows in (("before", before), ("after", after))}
    fields = {}
    for name in sides["before"]:
        own, limit = confidence.fields.get(name), (most or {}).get(name)
        fields[name] = {
            **facts.get("fields", {}).get(name, {"method": "none", "why": "nothing was fitted"}),
            "parameters": None if own is None else own.parameters(),
            **{side: found[name] for side, found in sides.items()},
            "limit": limit,
            "verdict": verdict(sides["after"][name]["ece"]["value"], limit),
        }
    failed = any(entry["verdict"] == "fail" for entry in fields.values())
    return {"split": facts.get("split"), "warn": WARN, "verdict": "missed" if failed else None, "fields": fields} if fields else None


def verdict(error: float | None, most: float | None) -> str | None:
    """ok, warn (above WARN), or fail (above what the recipe allows).

    >>> [verdict(*case) for case in ((0.05, None), (0.12, None), (0.2, 0.15), (0.12, 0.15), (0.08, 0.05))]
    ['ok', 'warn', 'fail', 'warn', 'fail']
    """
    if error is None:
        return None
    if most is not None and error > most + 1e-12:
        return "fail"
    return "warn" if error > WARN else "ok"


def _side(task: TaskSpec, rows: Sequence[Judged], bootstrap: int, seed: int) -> dict[str, dict[str, Any]]:
    """By closed field that any row counts for: its figures, those of the report's metrics, the bins, and a score's central intervals."""
    sheet = lay_out(rows, task.fields)
    tallies = {name: tally for metric in METRICS for name, tally in metric.tallies(sheet).items() if tally.n}
    figures = boot.figures(tallies, bootstrap=bootstrap, seed=seed)
    found = {}
    for name, column in sheet.of_kind(*CLOSED).items():
        if f"ece.{name}" in figures:
            known = column.both & ~np.isnan(column.confidence)
            own = {key: figures.get(f"{key}.{name}") for key in ("ece", "ece_mass", "brier", "crps")}
            found[name] = {**own, "bins": bins(column.confidence[known], column.right[known]), "coverage": _coverage(column)}
    return found


def _coverage(column: Column) -> list[dict[str, Any]] | None:
    """Of a score with distributions: how often central intervals hold the judge's value."""
    if column.kind != "score" or not column.spread.any():
        return None
    truth = nearest_step(column.reference[column.spread], column.values).astype(np.intp)
    return [central(column.probabilities[column.spread], truth, level) for level in LEVELS]


def bins(confidence: Floats, right: Bools) -> list[dict[str, Any]]:
    """Ten bins of equal width, those with rows: {low, high, n, confidence, accuracy, interval} (Clopper and Pearson's, 95 %)."""
    own, found = ece.bin_of(confidence), []
    for i in range(ece.BINS):
        if n := int((own == i).sum()):
            hits = int(right[own == i].sum())
            low, high = exact(hits, n)
            said = float(confidence[own == i].mean())
            found.append(
                {"low": i / ece.BINS, "high": (i + 1) / ece.BINS, "n": n, "confidence": said, "accuracy": hits / n, "interval": [low, high]}
            )
    return found


def central(shares: Floats, truth: Rows, level: float) -> dict[str, Any]:
    """The central interval of at least `level`, both ends included, of each row's distribution.

    A score has few values, so it holds more than `level`: `says` is the mean probability inside, `held` the share of judges' values.
    """
    reached = np.cumsum(shares, axis=1)
    tail = (1.0 - level) / 2
    low = (reached < tail - 1e-9).sum(axis=1)
    high = np.minimum((reached < 1.0 - tail - 1e-9).sum(axis=1), shares.shape[1] - 1)
    rows = np.arange(len(shares))
    says = reached[rows, high] - np.where(low > 0, reached[rows, np.maximum(low - 1, 0)], 0.0)
    return {"level": level, "says": float(says.mean()), "held": share(int(((low <= truth) & (truth <= high)).sum()), len(truth))}
