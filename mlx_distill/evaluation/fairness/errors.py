"""Scores and the overall by group: how far off the student is, and which way, and the gaps between groups.

    mae     mean of |student - judge|, points
    bias    mean of student - judge: above 0 where the student scores the group too high

Rows that lack either number do not count. It knows numbers; nothing of tasks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from mlx_distill.evaluation import bootstrap as boot
from mlx_distill.evaluation.fairness import gaps, verdicts
from mlx_distill.evaluation.fairness.members import Codes, Members, mixed, summary
from mlx_distill.evaluation.judge import SMALL
from mlx_distill.evaluation.tally import Floats, mean, ratio
from mlx_distill.records import Value

GAPS = ("mae", "bias")
STRATA = 10
"""Parts of a score's range that count as the same judge's answer where groups are mixed."""


def compare(
    kind: str,
    span: tuple[float, float],
    pairs: Sequence[tuple[Value | None, Value | None]],
    members: Members,
    *,
    most: float,
    bootstrap: int,
    seed: int,
) -> dict[str, Any] | None:
    """`pairs` of (judge's, student's) number; `span`: the lowest and the highest. None where fewer than two groups have any."""
    numbers = np.array([[_number(one) for one in pair] for pair in pairs], dtype=float).reshape(len(pairs), 2)
    kept = np.isfinite(numbers).all(axis=1) & (members.groups >= 0)
    groups, judge, student = members.groups[kept], numbers[kept, 0], numbers[kept, 1]
    if len(set(groups.tolist())) < 2:
        return None
    errors = student - judge
    drawn = _resampled(groups, errors, len(members.names), bootstrap, seed)
    low, high = span
    strata = np.floor((judge - low) / (high - low) * STRATA + 1e-9).astype(np.int64)
    random = np.random.default_rng((seed, len(groups)))
    chance = _by_chance(groups, errors, strata, len(members.names), bootstrap, random)
    found = [_gap(name, groups, errors, drawn, members.names, chance[name], high - low, most) for name in GAPS]
    return {
        "kind": kind,
        "n": int(kept.sum()),
        "groups": [_group(g, name, groups, errors, drawn) for g, name in enumerate(members.names)],
        "gaps": [gap for gap in found if gap],
        "verdict": verdicts.worst(gap["verdict"] for gap in found if gap),
    }


def of(groups: Codes, errors: Floats, many: int) -> dict[str, Floats]:
    """mae and bias by group, (many,); NaN for a group without rows.

    >>> of(np.array([0, 0, 1]), np.array([1.0, -2.0, 3.0]), 2)
    {'mae': array([1.5, 3. ]), 'bias': array([-0.5,  3. ])}
    """
    n = np.bincount(groups, minlength=many)
    return {
        "mae": ratio(np.bincount(groups, weights=np.abs(errors), minlength=many), n),
        "bias": ratio(np.bincount(groups, weights=errors, minlength=many), n),
    }


def _number(value: Value | None) -> float:
    return float("nan") if value is None else float(value)  # type: ignore[arg-type]


def _resampled(groups: Codes, errors: Floats, many: int, bootstrap: int, seed: int) -> dict[str, Floats]:
    """Rows drawn anew within each group, (bootstrap, many). Groups of one size would move together, had each not its own seed."""
    seeds = np.random.default_rng((seed, many)).integers(2**31, size=many)
    drawn = {name: np.full((bootstrap, many), np.nan) for name in GAPS}
    for g in range(many):
        own = errors[groups == g]
        all_of_them = np.ones(len(own), dtype=bool)
        found = boot.resample(
            {"mae": mean(np.abs(own), all_of_them), "bias": mean(own, all_of_them)}, bootstrap=bootstrap, seed=int(seeds[g])
        )
        for name in GAPS:
            drawn[name][:, g] = found[name]
    return drawn


def _large(groups: Codes, values: Floats) -> Floats:
    """NaN for groups that are too small to take part."""
    return np.where(np.bincount(groups, minlength=values.shape[-1]) >= SMALL, values, np.nan)


def _by_chance(groups: Codes, errors: Floats, strata: Codes, many: int, times: int, random: np.random.Generator) -> dict[str, Floats]:
    found: dict[str, list[float]] = {name: [] for name in GAPS}
    for drawn in mixed(groups, strata, times, random):
        values = of(drawn, errors, many)
        for name in GAPS:
            found[name].append(gaps.widest([_large(groups, values[name])]))
    return {name: np.array(values) for name, values in found.items()}


def _gap(
    name: str,
    groups: Codes,
    errors: Floats,
    drawn: dict[str, Floats],
    names: Sequence[str],
    chance: Floats,
    span: float,
    most: float,
) -> dict[str, Any] | None:
    """As a share of the range, and in points. None where fewer than two groups are large enough."""
    values = _large(groups, of(groups, errors, len(names))[name])
    found = gaps.largest([gaps.differences(values / span, _large(groups, drawn[name]) / span)])
    if found is None:
        return None
    return {
        "name": name,
        "rate": name,
        "label": None,
        "value": found["value"],
        "low": found["low"],
        "high": found["high"],
        "n": len(groups),
        "points": found["value"] * span,
        "compared": int(np.isfinite(values).sum()),
        "pair": [names[i] for i in found["pair"]],
        "values": [float(values[i]) for i in found["pair"]],
        **summary(found["value"], chance / span),
        "decides": True,
        "verdict": verdicts.of_sample(found["low"], found["high"], most),
    }


def _group(g: int, name: str, groups: Codes, errors: Floats, drawn: dict[str, Floats]) -> dict[str, Any]:
    n = int((groups == g).sum())
    values = of(groups, errors, drawn["mae"].shape[1])
    return {
        "value": name,
        "n": n,
        "small": n < SMALL,
        **{key: boot.figure(float(values[key][g]), drawn[key][:, g], n) for key in GAPS},
    }
