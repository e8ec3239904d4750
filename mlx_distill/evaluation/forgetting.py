"""What of the base's general ability the student still has: right and wrong answers of both to the same general questions, as figures.

    forgetting({"mmlu": Answers(...)}, max_drop=0.05)      document["forgetting"]

The drop is relative: 1 − student's share / base's share; so 5 % of a base that is right in 60 % are 3 points. A base that is not clearly
better than guessing has nothing to forget there, and no drop. Each verdict is met, missed, or not certain: the 95 % interval says which,
and a figure on few questions is rarely certain.

Intervals: Wilson's for a share; for difference and ratio of two shares of the same rows those that are recovered from Wilson's (MOVER:
Newcombe, "Improved confidence intervals for the difference between binomial proportions based on paired data", Statistics in Medicine 17,
1998, method 10; Donner and Zou, "Closed-form confidence intervals for functions of the normal mean and standard deviation", 2012). Unlike a
bootstrap they are honest where both answer everything alike. p is McNemar's, exact. It knows answers; nothing of models or files.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlx_distill.evaluation.bootstrap import Figure
from mlx_distill.evaluation.shares import wilson

Z = 1.959963984540054
"""The normal distribution's 97.5 % quantile."""
MET, MISSED, UNSURE = "met", "missed", "not certain"
Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Answers:
    """Of one benchmark. `base` None: nobody asked the base; `student` None: nobody judged the answers, and `why` says why."""

    title: str
    kind: str
    floor: float
    tasks: Sequence[str]
    """Of each question."""
    chance: Sequence[float]
    base: Sequence[bool] | None
    student: Sequence[bool] | None
    notes: Sequence[str] = ()
    named: bool = True
    """The recipe named the floor; else it is the usual one for choosing a base."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """What else is known of how it was asked: rows left out, shots, the file's hash."""


def forgetting(benchmarks: Mapping[str, Answers], *, max_drop: float) -> dict[str, Any]:
    """A floor that nobody named, and that the base misses too, is told and decides nothing.

    `verdict`: missed where any benchmark's drop or floor is, else not certain where any is, met where all are; none without any.
    """
    found = {name: _benchmark(answers, max_drop) for name, answers in benchmarks.items()}
    parts = [part for entry in found.values() for part in (entry["drop"], *([entry["floor"]] if entry["floor"]["decides"] else []))]
    verdicts = [part["verdict"] for part in parts if part["verdict"]]
    worst = next((word for word in (MISSED, UNSURE, MET) if word in verdicts), "none")
    return {"verdict": worst, "max_drop": max_drop, "benchmarks": found}


def _benchmark(answers: Answers, max_drop: float) -> dict[str, Any]:
    student = None if answers.student is None else np.asarray(answers.student, dtype=bool)
    base = None if answers.base is None or student is None else np.asarray(answers.base, dtype=bool)
    chance = float(np.mean(answers.chance)) if len(answers.chance) else 0.0
    ours, theirs = (None if side is None else share(side) for side in (student, base))
    guessing = theirs is not None and (theirs["low"] or 0.0) <= chance
    return {
        "title": answers.title,
        "kind": answers.kind,
        "n": len(answers.tasks),
        "chance": chance,
        "at_chance": guessing,
        "base": theirs,
        "student": ours,
        **_compared(base, student),
        "floor": {
            "value": answers.floor,
            "verdict": _floor(ours, answers.floor),
            "base": _floor(theirs, answers.floor),
            "decides": answers.named or _floor(theirs, answers.floor) != MISSED,
        },
        "drop": _dropped(base, student, max_drop, guessing),
        "tasks": _by_task(answers.tasks, base, student),
        "notes": list(answers.notes),
        **answers.facts,
    }


def share(right: Bools) -> Figure:
    """Of right answers, with its interval.

    >>> figure = share(np.array([True] * 9 + [False]))
    >>> [round(figure[end], 3) for end in ("value", "low", "high")]
    [0.9, 0.596, 0.982]
    """
    n = len(right)
    if not n:
        return Figure(value=None, low=None, high=None, n=0)
    low, high = wilson(int(right.sum()), n)
    return Figure(value=float(right.mean()), low=low, high=high, n=n)


def _compared(base: Bools | None, student: Bools | None) -> dict[str, Any]:
    """The student's share less the base's, over the same questions; who alone is right how often; p."""
    if base is None or student is None or not len(base):
        return {"difference": None, "lost": None, "won": None, "p": None}
    lost, won = int((base & ~student).sum()), int((student & ~base).sum())
    low, high = difference_interval(base, student)
    gap = Figure(value=float(student.mean() - base.mean()), low=low, high=high, n=len(base))
    return {"difference": gap, "lost": lost, "won": won, "p": mcnemar(lost, won)}


def mcnemar(lost: int, won: int) -> float:
    """Two-sided exact p of as uneven a parting of the questions that one side alone answers rightly.

    >>> round(mcnemar(10, 2), 5), mcnemar(0, 0), mcnemar(4, 4)
    (0.03857, 1.0, 1.0)
    """
    n, most = lost + won, max(lost, won)
    tail = sum(math.comb(n, k) for k in range(most, n + 1))
    return min(1.0, 2 * tail / (1 << n))  # whole numbers: exact for any number of questions


def correlation(base: Bools, student: Bools) -> float:
    """Of right answers, as Newcombe's method 10 has it: phi, drawn towards 0 by a continuity correction where it is positive."""
    a, d = int((base & student).sum()), int((~base & ~student).sum())
    b, c = int((base & ~student).sum()), int((~base & student).sum())
    under = (a + b) * (c + d) * (a + c) * (b + d)
    if not under:
        return 0.0
    over = a * d - b * c
    return (max(over - len(base) / 2, 0.0) if over > 0 else over) / math.sqrt(under)


def difference_interval(base: Bools, student: Bools) -> tuple[float, float]:
    """Of student − base."""
    (lb, ub), (ls, us) = (wilson(int(side.sum()), len(side)) for side in (base, student))
    b, s, r = float(base.mean()), float(student.mean()), correlation(base, student)
    down = (s - ls) ** 2 - 2 * r * (s - ls) * (ub - b) + (ub - b) ** 2
    up = (us - s) ** 2 - 2 * r * (us - s) * (b - lb) + (b - lb) ** 2
    return s - b - math.sqrt(max(0.0, down)), s - b + math.sqrt(max(0.0, up))


def ratio_interval(base: Bools, student: Bools) -> tuple[float, float]:
    """Of student / base, whose lower limits are above 0 (Donner and Zou 2012)."""
    (lb, ub), (ls, us) = (wilson(int(side.sum()), len(side)) for side in (base, student))
    b, s, r = float(base.mean()), float(student.mean()), correlation(base, student)
    down, up = s * b - r * (s - ls) * (ub - b), s * b - r * (us - s) * (b - lb)
    low = (down - math.sqrt(max(0.0, down**2 - ls * (2 * s - ls) * ub * (2 * b - ub)))) / (ub * (2 * b - ub)) if 2 * b > ub else 0.0
    high = (up + math.sqrt(max(0.0, up**2 - us * (2 * s - us) * lb * (2 * b - lb)))) / (lb * (2 * b - lb))
    return max(0.0, low), high


def _dropped(base: Bools | None, student: Bools | None, most: float, guessing: bool) -> dict[str, Any]:
    """The share of the base's right answers that is gone, and whether that is at most `most`."""
    if base is None or student is None or not base.any() or guessing:
        return {"value": None, "low": None, "high": None, "n": 0 if base is None else len(base), "limit": most, "verdict": None}
    low, high = ratio_interval(base, student)
    figure = Figure(value=float(1 - student.mean() / base.mean()), low=1 - high, high=1 - low, n=len(base))
    return {**figure, "limit": most, "verdict": MET if 1 - low <= most else MISSED if 1 - high > most else UNSURE}


def _floor(figure: Figure | None, floor: float) -> str | None:
    if figure is None or figure["low"] is None or figure["high"] is None:
        return None
    return MET if figure["low"] >= floor else MISSED if figure["high"] < floor else UNSURE


def _by_task(tasks: Sequence[str], base: Bools | None, student: Bools | None) -> list[dict[str, Any]]:
    """What the student lost most of first; without a base, what it is worst at."""
    if student is None:
        return []
    names = np.asarray(tasks, dtype=object)
    entries = []
    for task in dict.fromkeys(tasks):
        own = names == task
        theirs = None if base is None else share(base[own])
        pair = _compared(None if base is None else base[own], student[own])
        entries.append({"task": task, "n": int(own.sum()), "base": theirs, "student": share(student[own]), **pair})
    return sorted(entries, key=lambda entry: (_gap(entry), entry["student"]["value"], entry["task"]))


def _gap(entry: Mapping[str, Any]) -> float:
    return 0.0 if entry["difference"] is None else float(entry["difference"]["value"])
