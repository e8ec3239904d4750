"""What deferral does to rows that served for nothing so far: how many are kept, how many of those are wrong, and at which price.

    document(task, confidence, rows, group_by)    report.json's `deferral`
    curve(outcomes)                               risk and coverage at every threshold
    aurc(outcomes)                                the mean risk over all coverages

It counts; the threshold comes from `deferral`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np

from mlx_distill.evaluation.shares import share
from mlx_distill.evaluation.sheet import Judged
from mlx_distill.evaluation.tally import Floats
from mlx_distill.evaluation.trust.deferral import Outcomes
from mlx_distill.recipe.schema import TaskSpec
from mlx_distill.task.confidence import Confidence, Threshold
from mlx_distill.task.fields import ABSENT, follow

POINTS = 100
"""Of the curve that is kept for a plot."""
GROUPS = 10
"""That are shown, the worst first."""
FEW = 30
"""A group with fewer kept rows is marked: its error says little."""
WRONG = {"tier": "in another tier than the judge's", "answer": "wrong in at least one field"}


def document(task: TaskSpec, confidence: Confidence, rows: Sequence[Judged], group_by: str | None = None) -> dict[str, Any] | None:
    """What the threshold does on `rows`, which have calibrated confidences and served for nothing. None where rows are not deferred.

    `group_by`: the column that parted the splits, where one did.
    """
    threshold = confidence.threshold
    if threshold is None:
        return None
    facts = dict(confidence.facts.get("deferral", {}))
    tried = Outcomes.of(task, threshold.of, threshold.within, rows)
    found = facts.get("n", 0), facts.get("kept", 0), facts.get("errors", 0)
    return {
        "of": threshold.of,
        "wrong": wrong_in_words(threshold),
        "within": threshold.within,
        "max_error": threshold.max_error,
        "level": threshold.level,
        "threshold": threshold.value,
        "why": facts.get("why"),
        "promise": promise(threshold, facts.get("why"), group_by),
        "verdict": verdict(threshold, tried),
        "found": {**figures(*found), **{key: facts.get(key) for key in ("split", "needed", "thresholds", "learned_on")}},
        "test": figures(tried.n, *tried.at(threshold.value)),
        "everything": share(int(tried.wrong.sum()), tried.n),
        "curve": [_point(tried, *point) for point in thinned(curve(tried))],
        "aurc": aurc(tried),
        "aurc_of_chance": float(tried.wrong.mean()) if tried.n else None,
        "others": [{**other, **figures(tried.n, *tried.at(other["value"]))} for other in facts.get("others", ())],
        "group_by": group_by,
        "groups": None if group_by is None else _groups(task, threshold, rows, group_by),
    }


def verdict(threshold: Threshold, tried: Outcomes) -> str:
    """missed: there is no threshold, or the whole interval of the kept rows' error lies above what was promised; else met."""
    kept, errors = tried.at(threshold.value)
    low = share(errors, kept)["low"]
    return "missed" if threshold.value is None or (low is not None and low > threshold.max_error) else "met"


def _point(tried: Outcomes, coverage: float, error: float, value: float) -> dict[str, float | None]:
    """A point of the curve, with the exact interval of its error."""
    kept, errors = tried.at(value)
    spread = share(errors, kept)
    return {"coverage": coverage, "error": error, "low": spread["low"], "high": spread["high"], "threshold": value}


def figures(n: int, kept: int, errors: int) -> dict[str, Any]:
    """{n, kept, errors, coverage, error}: the last two as figures with exact intervals."""
    return {"n": n, "kept": kept, "errors": errors, "coverage": share(kept, n), "error": share(errors, kept)}


def curve(outcomes: Outcomes) -> list[tuple[float, float, float]]:
    """(coverage, share of kept rows that are wrong, threshold), from the fewest kept rows to all that can be kept; one a distinct value.

    >>> curve(Outcomes(np.array([0.9, 0.5, 0.5, 0.2]), np.array([False, True, False, True])))
    [(0.25, 0.0, 0.9), (0.75, 0.3333333333333333, 0.5), (1.0, 0.5, 0.2)]
    """
    known = outcomes.sure >= 0
    order = np.argsort(-outcomes.sure[known], kind="stable")
    sure, errors = outcomes.sure[known][order], np.cumsum(outcomes.wrong[known][order])
    last = np.flatnonzero(np.append(sure[1:] != sure[:-1], True)) if len(sure) else np.zeros(0, dtype=int)
    return [(float((i + 1) / outcomes.n), float(errors[i] / (i + 1)), float(sure[i])) for i in last]


def thinned(points: Sequence[tuple[float, float, float]], most: int = POINTS) -> list[tuple[float, float, float]]:
    """Some of the points, evenly, with the first and the last."""
    return [points[i] for i in np.unique(np.linspace(0, len(points) - 1, min(most, len(points))).round().astype(int))] if points else []


def aurc(outcomes: Outcomes) -> float | None:
    """Area under the risk-coverage curve: the mean over k of the share wrong among the k surest (Geifman, Uziel and El-Yaniv 2019).

    Rows that tie are kept in any order: each counts with the mean of its tie. Lower is better; a student whose confidence says
    nothing has its error rate.

    >>> aurc(Outcomes(np.array([0.9, 0.8, 0.1]), np.array([False, False, True])))  # (0 + 0 + 1/3) / 3
    0.1111111111111111
    """
    if not outcomes.n:
        return None
    _, tie, size = np.unique(-outcomes.sure, return_inverse=True, return_counts=True)
    rate = np.bincount(tie, weights=outcomes.wrong) / size
    spread: Floats = np.repeat(rate, size)
    return float((np.cumsum(spread) / np.arange(1, outcomes.n + 1)).mean())


def wrong_in_words(threshold: Threshold) -> str:
    """What counts as wrong, behind "is".

    >>> wrong_in_words(Threshold(of="overall", within=1.0, max_error=0.05, level=0.9, value=None))
    "more than 1 from the judge's overall"
    """
    if threshold.of == "overall":
        return f"more than {threshold.within:g} from the judge's overall"
    return WRONG.get(threshold.of, f"wrong in {threshold.of}")


def promise(threshold: Threshold, why: str | None, group_by: str | None) -> str:
    """The guarantee in plain words."""
    most, level = f"{threshold.max_error * 100:.3g} %", f"{threshold.level * 100:.4g} %"
    if threshold.value is None:
        reason = f": {why}" if why else ""
        return f"No threshold can promise at most {most} wrong answers with {level} certainty{reason}. So every row is handed back."
    words = (
        f"Of the answers that are kept, at most {most} are {wrong_in_words(threshold)}, with {level} certainty, as long as texts are like "
        "those that the threshold was found on."
    )
    if group_by is None:
        return words
    return f"{words} Rows were split by {group_by}: the promise does not carry over to a {group_by} that was not there."


def _groups(task: TaskSpec, threshold: Threshold, rows: Sequence[Judged], column: str) -> list[dict[str, Any]]:
    """What happened in each group, the worst first: by its error, those with too few kept rows to tell behind the others."""
    parted: defaultdict[str, list[Judged]] = defaultdict(list)
    for row in rows:
        value = follow(row.record, column)
        parted["" if value is ABSENT or value is None else str(value)].append(row)
    found = []
    for group, own in parted.items():
        tried = Outcomes.of(task, threshold.of, threshold.within, own)
        if tried.n:
            entry = figures(tried.n, *tried.at(threshold.value))
            found.append({"group": group, "small": entry["kept"] < FEW, **entry})
    found.sort(key=lambda entry: (entry["kept"] == 0, entry["small"], -(entry["error"]["value"] or 0.0), entry["group"]))
    return found[:GROUPS]
