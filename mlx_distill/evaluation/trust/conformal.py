"""Conformal sets of choices and intervals of scores: found on rows that served for nothing, checked on the test rows.

    find(task, coverage, fit, guarantee)      a SetRule for each closed field, and how it was found
    document(task, confidence, rows)          report.json's `conformal`

Split conformal prediction (Papadopoulos et al. 2002; Lei et al., "Distribution-Free Predictive Inference for Regression", 2018): of n rows
like the one to come, its measure is among the k smallest with probability k / (n + 1) at least, so the k-th smallest with
k = ceil((n + 1) coverage) is a quantile that holds for any n. Where k > n nothing short of every value can promise it.
Which measure is used is chosen on the rows that fitted the maps, so that it costs the promise nothing: the one with the smallest sets.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from mlx_distill.evaluation.shares import share
from mlx_distill.evaluation.sheet import Judged
from mlx_distill.evaluation.trust.calibration import counts
from mlx_distill.recipe.schema import FieldSpec, TaskSpec
from mlx_distill.task.confidence import Confidence
from mlx_distill.task.fields import CLOSED, values_of
from mlx_distill.task.sets import OF_NAMES, OF_SCORES, TIE, SetRule, measure

UNCHOSEN = {"score": "cdf", "choice": "aps", "flag": "aps"}
"""Where there are no rows to choose by: what fits itself to each row."""


def find(
    task: TaskSpec, coverage: float, fit: Sequence[Judged], guarantee: Sequence[Judged]
) -> tuple[dict[str, SetRule], dict[str, dict[str, Any]]]:
    """By closed field that any guarantee row counts for. Both sets of rows have calibrated distributions; they share no row."""
    rules, facts = {}, {}
    for name, spec in task.fields.items():
        if spec.kind not in CLOSED:
            continue
        tried = [row for row in guarantee if counts(row, name, spec)]
        method, sizes = _method(name, spec, coverage, [row for row in fit if counts(row, name, spec)], tried)
        known = method == "distance" or all(_whole(row, name, spec) for row in tried)
        rules[name] = SetRule(method=method, quantile=_quantile(method, name, spec, tried, coverage) if known else None)
        facts[name] = {"method": method, "n": len(tried), "needed": needed(coverage), "whole": known, "sizes": sizes}
    return rules, facts


def _whole(row: Judged, name: str, spec: FieldSpec) -> bool:
    return len(row.probabilities.get(name, ())) == len(values_of(spec))


def needed(coverage: float) -> int:
    """Rows from which a quantile can promise it.

    >>> needed(0.9), needed(0.95)
    (9, 19)
    """
    return math.ceil(coverage / (1.0 - coverage) - 1e-9)


def quantile(measures: Sequence[float], coverage: float) -> float | None:
    """The ceil((n + 1) coverage)-th smallest; None where there are too few.

    >>> quantile([3.0, 1.0, 2.0, 4.0], 0.8), quantile([3.0, 1.0, 2.0, 4.0], 0.81)
    (4.0, None)
    """
    rank = math.ceil((len(measures) + 1) * coverage - 1e-9)
    if rank > len(measures):
        return None
    found = sorted(measures)[rank - 1]
    return found if math.isfinite(found) else None


def _quantile(method: str, name: str, spec: FieldSpec, rows: Sequence[Judged], coverage: float) -> float | None:
    return quantile([_measure(method, name, spec, row) for row in rows], coverage)


def _measure(method: str, name: str, spec: FieldSpec, row: Judged) -> float:
    assert row.answer is not None
    return measure(method, spec, values_of(spec), row.probabilities.get(name), row.answer[name], row.reference[name])


def _method(
    name: str, spec: FieldSpec, coverage: float, fit: Sequence[Judged], guarantee: Sequence[Judged]
) -> tuple[str, dict[str, float]]:
    """The measure with the smallest sets on the fit rows, and the mean size of each. Of a score without distributions, distance."""
    if not all(_whole(row, name, spec) for row in (*fit, *guarantee)):
        return "distance" if spec.kind == "score" else UNCHOSEN[spec.kind], {}
    sizes = {}
    for method in OF_SCORES if spec.kind == "score" else OF_NAMES:
        if (most := _quantile(method, name, spec, fit, coverage)) is not None:
            rule = SetRule(method=method, quantile=most)
            sizes[method] = float(np.mean([size(spec, _members(rule, name, spec, row)) for row in fit]))
    return min(sizes, key=lambda method: sizes[method], default=UNCHOSEN[spec.kind]), sizes


def _members(rule: SetRule, name: str, spec: FieldSpec, row: Judged) -> list[Any]:
    assert row.answer is not None
    return rule.members(spec, values_of(spec), row.probabilities.get(name), row.answer[name])


def size(spec: FieldSpec, members: Sequence[Any]) -> float:
    """Of a set its members, of an interval its points."""
    return float(members[1] - members[0]) if spec.kind == "score" else float(len(members))


def holds(spec: FieldSpec, members: Sequence[Any], truth: Any) -> bool:
    return bool(members[0] - TIE <= truth <= members[1] + TIE) if spec.kind == "score" else truth in members


def document(task: TaskSpec, confidence: Confidence, rows: Sequence[Judged]) -> dict[str, Any] | None:
    """{coverage, split, fields: {field: method, quantile, n, coverage, size, sizes, every}}; None where the recipe asks for no coverage.

    `rows` have sets, and served for nothing. `every`: too few rows promise nothing short of every value.
    """
    if confidence.coverage is None:
        return None
    facts = confidence.facts.get("conformal", {})
    fields = {}
    for name, rule in confidence.sets.items():
        spec = task.fields[name]
        known = [row for row in rows if counts(row, name, spec) and name in row.sets]
        if not known:
            continue
        sizes = [size(spec, row.sets[name]) for row in known]
        fields[name] = {
            **facts.get("fields", {}).get(name, {}),
            "kind": spec.kind,
            "method": rule.method,
            "quantile": rule.quantile,
            "every": rule.quantile is None,
            "coverage": share(sum(holds(spec, row.sets[name], row.reference[name]) for row in known), len(known)),
            "size": float(np.mean(sizes)),
            "median": float(np.median(sizes)),
            "counts": [[int(members), n] for members, n in sorted(Counter(sizes).items())] if spec.kind != "score" else None,
        }
    return {"coverage": confidence.coverage, "split": facts.get("split"), "fields": fields} if fields else None
