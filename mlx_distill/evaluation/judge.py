"""Judge the judged: rows with both answers in, every figure with its interval and its rows out, as plain dictionaries.

    judge(rows, fields)            metrics, slices, tiers, confusion, scores, reliability, production
    against(rows, others, fields)  another student's (or a baseline's) metrics on the same rows, and the difference to it
    verdict(metrics, targets)      met, missed, or none

A row without a field's label does not count for that field. A row without a valid answer is wrong wherever right and wrong exist, and
absent from mean errors, which have no number for it: `n` tells, and `valid_json` too. The order of the rows does not matter.
It knows nothing of models, files or reports.
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from mlx_distill.evaluation import bootstrap as boot
from mlx_distill.evaluation import tables
from mlx_distill.evaluation.metrics import CLOSED, LABELS, AnyTally, Rows
from mlx_distill.evaluation.naming import KIND as KIND
from mlx_distill.evaluation.naming import best_at_zero as best_at_zero
from mlx_distill.evaluation.naming import is_alias as is_alias
from mlx_distill.evaluation.naming import lower_is_better as lower_is_better
from mlx_distill.evaluation.naming import main_metric as main_metric
from mlx_distill.evaluation.naming import measure as measure
from mlx_distill.evaluation.naming import metric as metric
from mlx_distill.evaluation.naming import metric_names as metric_names
from mlx_distill.evaluation.naming import parts as parts
from mlx_distill.evaluation.naming import ranks as ranks
from mlx_distill.evaluation.production import production
from mlx_distill.evaluation.sheet import Answer as Answer
from mlx_distill.evaluation.sheet import Fields as Fields
from mlx_distill.evaluation.sheet import Judged as Judged
from mlx_distill.evaluation.sheet import label as label
from mlx_distill.evaluation.sheet import lay_out as lay_out
from mlx_distill.evaluation.verdict import check_targets as check_targets
from mlx_distill.evaluation.verdict import verdict as verdict

SMALL = 30
"""A slice of fewer rows is marked: its figures say little."""
SLICES_AT_MOST = 100
"""Values of one slice's name that get a row of their own, the most frequent; the others are pooled."""

Rubric = Callable[[str, Answer], tuple[float | None, str | None]]
"""(row id, answer) -> overall and tier."""
Slices = Sequence[str] | Mapping[str, Sequence[str]]
"""Names of `Judged.slices`; or the name of each with every row's value, in the order of the rows."""


def judge(
    rows: Sequence[Judged],
    fields: Fields,
    *,
    bootstrap: int = boot.RESAMPLES,
    seed: int = 0,
    slices: Slices = (),
    tiers: Sequence[str] = (),
) -> dict[str, Any]:
    """All that can be said of `rows`. Figures are {value, low, high, n}; `main` names the metric that slices are ordered by.

    `tiers` from the lowest to the highest: without them no figure that asks for their order.
    """
    values = slices if isinstance(slices, Mapping) else {name: [row.slices.get(name, "") for row in rows] for name in slices}
    order = sorted(range(len(rows)), key=lambda i: rows[i].id)  # rows are drawn by place: the same rows give the same intervals
    rows = [rows[i] for i in order]
    sheet = lay_out(rows, fields, tiers)
    tallies = measure(sheet)
    main = main_metric(fields, tallies)
    return {
        "main": main,
        "metrics": boot.figures(tallies, bootstrap=bootstrap, seed=seed),
        "slices": {name: _slices([own[i] for i in order], tallies, main, bootstrap, seed) for name, own in values.items()},
        "tiers": tables.tiers(sheet),
        "confusion": {name: tables.confusion(column) for name, column in sheet.of_kind(*LABELS).items()},
        "scores": {name: tables.bias(column) for name, column in sheet.of_kind("score").items()},
        "reliability": {name: tables.reliability(column) for name, column in sheet.of_kind(*CLOSED).items()},
        "production": production(rows),
    }


def against(
    rows: Sequence[Judged],
    others: Sequence[Judged],
    fields: Fields,
    *,
    bootstrap: int = boot.RESAMPLES,
    seed: int = 0,
    tiers: Sequence[str] = (),
) -> dict[str, dict[str, boot.Figure]]:
    """`others` are the same rows in the same order, answered by another: its metrics, and the difference rows − others, paired.

    A difference is a `bootstrap.Difference`: it has a p value too.
    """
    assert [row.id for row in rows] == [row.id for row in others]
    ours, theirs = (measure(lay_out(sorted(side, key=lambda row: row.id), fields, tiers)) for side in (rows, others))
    metrics, differences = boot.paired(ours, theirs, bootstrap=bootstrap, seed=seed)
    return {"metrics": metrics, "difference": {**differences}}


def answered_by(rows: Sequence[Judged], answers: Mapping[str, Answer], rubric: Rubric | None = None) -> list[Judged]:
    """The same rows with another's answers (id -> answer; an id that is missing has none), overall and tier by the task's rubric.

    What only the one who answered can know, probabilities, losses and what it cost, is left out.
    """

    def swap(row: Judged) -> Judged:
        answer = answers.get(row.id)
        overall, tier = rubric(row.id, answer) if rubric and answer is not None else (None, None)
        return dataclasses.replace(row, answer=answer, overall=overall, tier=tier, **_UNKNOWN)

    return [swap(row) for row in rows]


_UNKNOWN: dict[str, Any] = {
    "confidence": {},
    "probabilities": {},
    "raw": {},
    "sure": None,
    "defer": False,
    "sets": {},
    "nll": None,
    "nll_tokens": None,
    "nll_fields": {},
    "tokens": None,
    "refused": None,
}


def _slices(values: Sequence[str], tallies: Mapping[str, AnyTally], main: str | None, bootstrap: int, seed: int) -> list[dict[str, Any]]:
    """One entry a value, worst first by the main metric, those without it last."""
    frequent = dict(Counter(values).most_common(SLICES_AT_MOST))
    own = np.array([value if value in frequent else None for value in values], dtype=object)
    found = [_slice(value, np.flatnonzero(own == value), tallies, bootstrap, seed) for value in frequent]
    if rest := np.flatnonzero(own == None).tolist():  # noqa: E711  (element by element)
        found.append(_slice(f"{len(set(values)) - len(frequent)} rarer values", np.array(rest, dtype=np.intp), tallies, bootstrap, seed))
    return sorted(found, key=lambda entry: (_badness(entry["metrics"].get(main), main), entry["value"]))


def _badness(figure: Mapping[str, Any] | None, main: str | None) -> float:
    """A key that sorts the worst first, and what has no figure last."""
    if main is None or figure is None or figure["value"] is None:
        return math.inf
    return -float(figure["value"]) if lower_is_better(main) else float(figure["value"])


def _slice(value: str, rows: Rows, tallies: Mapping[str, AnyTally], bootstrap: int, seed: int) -> dict[str, Any]:
    taken = {name: tally.take(rows) for name, tally in tallies.items()}
    metrics = boot.figures({name: tally for name, tally in taken.items() if tally.n}, bootstrap=bootstrap, seed=seed)
    return {"value": value, "n": len(rows), "small": len(rows) < SMALL, "metrics": metrics}
