"""Choices, flags and tiers by group: selection, true and false positive rates, precision and accuracy, and their gaps.

All of them are sums over one table, how many rows of each group the judge calls r and the student a. Resampling rows within a group is
drawing that table anew (multinomial), so a thousand resamples cost no more than a few. It knows names as codes; nothing of tasks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlx_distill.evaluation import bootstrap as boot
from mlx_distill.evaluation.fairness import gaps, verdicts
from mlx_distill.evaluation.fairness.members import FEW, Codes, Members, mixed, summary
from mlx_distill.evaluation.judge import SMALL
from mlx_distill.evaluation.tally import Floats, ratio

GAPS = {
    "accuracy": ("accuracy",),
    "equalized_odds": ("tpr", "fpr"),
    "equal_opportunity": ("tpr",),
    "demographic_parity": ("selection",),
}
"""Between the groups' rates of these names."""
DECIDING = ("accuracy", "equalized_odds")
BY_LABEL = ("selection", "reference", "tpr", "fpr", "fnr", "precision")
Tables = NDArray[np.int64]
"""(..., groups, labels, labels + 1): judge's label, student's label; the last column counts rows without an answer."""


@dataclass(frozen=True, slots=True, eq=False)
class _Seen:
    """One field's table, what resampling made of its rates, and what its groups and labels are called."""

    table: Tables
    drawn: Mapping[str, Floats]
    positive: Sequence[int]
    """Labels that are taken for the positive one."""
    labels: Sequence[str]
    names: Sequence[str]


def compare(
    kind: str,
    labels: Sequence[str],
    pairs: Sequence[tuple[str | None, str | None]],
    members: Members,
    *,
    most: float,
    bootstrap: int,
    seed: int,
) -> dict[str, Any] | None:
    """`pairs` of (judge's, student's) label, one a row. None where fewer than two groups have rows that the judge labelled."""
    code = {name: i for i, name in enumerate(labels)}
    judge, student = (np.array([code.get(pair[i] or "", len(labels)) for pair in pairs], dtype=np.int64) for i in (0, 1))
    kept = (judge < len(labels)) & (members.groups >= 0)
    groups, judge, student = members.groups[kept], judge[kept], student[kept]
    if len(set(groups.tolist())) < 2:
        return None
    random = np.random.default_rng((seed, len(groups)))
    table = tabulate(groups, judge, student, len(members.names), len(labels))
    seen = _Seen(table, of(_resampled(table, bootstrap, random)), _positive(kind, labels, table), labels, members.names)
    chance = _by_chance(seen, groups, judge, student, bootstrap, random)
    found = [gap for name in GAPS if (gap := _gap(name, seen, chance[name], most))]
    return {
        "kind": kind,
        "n": len(groups),
        "groups": [_group(g, seen) for g in range(len(members.names))],
        "gaps": found,
        "verdict": verdicts.worst(gap["verdict"] for gap in found if gap["decides"]),
    }


def tabulate(groups: Codes, judge: Codes, student: Codes, many: int, labels: int) -> Tables:
    """How many rows of each group have each pair of labels, (many, labels, labels + 1)."""
    flat = (groups * labels + judge) * (labels + 1) + student
    return np.bincount(flat, minlength=many * labels * (labels + 1)).reshape(many, labels, labels + 1)


def of(tables: Tables) -> dict[str, Floats]:
    """Every rate, (..., groups, labels), NaN where there is nothing to divide by; `accuracy` (..., groups).

    >>> table = np.array([[[3, 1, 0], [1, 4, 1]]])  # of 4 that the judge calls 0, the student calls one 1; one of 6 has no answer
    >>> found = of(table)
    >>> {name: round(float(found[name][0, 1]), 3) for name in ("tpr", "fpr", "selection", "precision")}
    {'tpr': 0.667, 'fpr': 0.25, 'selection': 0.5, 'precision': 0.8}
    """
    hits = np.diagonal(tables, axis1=-2, axis2=-1)[..., : tables.shape[-2]]
    positives, chosen = tables.sum(axis=-1), tables[..., :-1].sum(axis=-2)
    rows = positives.sum(axis=-1, keepdims=True)
    tpr = ratio(hits, positives)
    return {
        "accuracy": ratio(hits.sum(axis=-1), rows[..., 0]),
        "selection": ratio(chosen, rows),
        "reference": ratio(positives, rows),
        "tpr": tpr,
        "fpr": ratio(chosen - hits, rows - positives),
        "fnr": 1 - tpr,
        "precision": ratio(hits, chosen),
    }


def trials(tables: Tables) -> dict[str, Floats]:
    """The rows behind each rate, likewise."""
    positives = tables.sum(axis=-1).astype(float)
    rows = positives.sum(axis=-1, keepdims=True)
    every = np.broadcast_to(rows, positives.shape)
    chosen = tables[..., :-1].sum(axis=-2).astype(float)
    return {
        "accuracy": rows[..., 0], "selection": every, "reference": every, "tpr": positives, "fnr": positives, "fpr": rows - positives,
        "precision": chosen,
    }  # fmt: skip


def _resampled(seen: Tables, bootstrap: int, random: np.random.Generator) -> Tables:
    """Rows drawn anew within each group, (bootstrap, groups, labels, labels + 1)."""
    cells = seen.reshape(len(seen), -1)
    drawn = [
        random.multinomial(total, line / total, size=bootstrap)
        if (total := int(line.sum()))
        else np.zeros((bootstrap, len(line)), np.int64)
        for line in cells
    ]
    return np.stack(drawn, axis=1).reshape(bootstrap, *seen.shape)


def _by_chance(seen: _Seen, groups: Codes, judge: Codes, student: Codes, times: int, random: np.random.Generator) -> dict[str, Floats]:
    """By gap, what it is in each of the mixtures, (times,)."""
    found: dict[str, list[float]] = {name: [] for name in GAPS}
    counted = trials(seen.table)
    for drawn in mixed(groups, judge, times, random):
        values = of(tabulate(drawn, judge, student, *seen.table.shape[:2]))
        for name in GAPS:
            found[name].append(gaps.widest(_family(*place, values, counted) for place in _places(name, seen.positive)))
    return {name: np.array(values) for name, values in found.items()}


def _places(name: str, positive: Sequence[int]) -> list[tuple[str, int | None]]:
    """(rate, label) of everything that a gap looks at; accuracy has no label."""
    return [(rate, label) for rate in GAPS[name] for label in (positive if rate in BY_LABEL else [None])]


def _family(rate: str, label: int | None, values: Mapping[str, Floats], counted: Mapping[str, Floats]) -> Floats:
    """One rate over groups, (..., groups); NaN for a group that has too few rows for it."""
    value, rows = (figures[rate] if label is None else figures[rate][..., label] for figures in (values, counted))
    return np.where((counted["accuracy"] >= SMALL) & (rows >= FEW), value, np.nan)


def _gap(name: str, seen: _Seen, chance: Floats, most: float) -> dict[str, Any] | None:
    """None where fewer than two groups are large enough."""
    counted, values, places = trials(seen.table), of(seen.table), _places(name, seen.positive)
    families = [_family(*place, values, counted) for place in places]
    sets = [
        gaps.differences(family, _family(rate, label, seen.drawn, counted), counted[rate] if label is None else counted[rate][..., label])
        for (rate, label), family in zip(places, families, strict=True)
    ]
    found = gaps.largest(sets)
    if found is None:
        return None
    (rate, label), widest, decides = places[found["where"]], families[found["where"]], name in DECIDING
    return {
        "name": name,
        "rate": rate,
        "label": None if label is None else seen.labels[label],
        "value": found["value"],
        "low": found["low"],
        "high": found["high"],
        "n": int(seen.table.sum()),
        "compared": int(np.isfinite(widest).sum()),
        "pair": [seen.names[i] for i in found["pair"]],
        "values": [float(widest[i]) for i in found["pair"]],
        **summary(found["value"], chance),
        "decides": decides,
        "verdict": verdicts.of_sample(found["low"], found["high"], most) if decides else "none",
    }


def _positive(kind: str, labels: Sequence[str], table: Tables) -> list[int]:
    """`true` of a flag; of other labels each that somebody gave."""
    if kind == "flag":
        return [list(labels).index("true")]
    return [i for i in range(len(labels)) if table[:, i].any() or table[:, :, i].any()]


def _group(g: int, seen: _Seen) -> dict[str, Any]:
    """One group's figures, each with its interval."""
    found, counted = of(seen.table), trials(seen.table)
    rows = int(counted["accuracy"][g])
    by_label = {
        seen.labels[label]: {
            rate: boot.figure(float(found[rate][g, label]), seen.drawn[rate][:, g, label], int(counted[rate][g, label]))
            for rate in BY_LABEL
        }
        for label in seen.positive
    }
    return {
        "value": seen.names[g],
        "n": rows,
        "small": rows < SMALL,
        "unanswered": int(seen.table[g, :, -1].sum()),
        "accuracy": boot.figure(float(found["accuracy"][g]), seen.drawn["accuracy"][:, g], rows),
        "labels": by_label,
    }
