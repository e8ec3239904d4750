"""Whether answers stay the same when a text changes in one gap alone: differences of scores, flips of the rest, between its fillings.

    judge(name, scenario, task, ask, most=0.1, bootstrap=1000, seed=0, show=True)     one scenario's part of report.json

Counterfactual fairness as tests do it that exchange names and places in a text (Kusner et al., "Counterfactual Fairness", NeurIPS 2017;
Garg et al., "Counterfactual Fairness in Text Classification through Robustness", AIES 2019). For the texts that were tried a difference is
exact. What others of their kind would show is estimated by resampling contexts (the fillings of the other gaps), where there are ENOUGH.
Beside each difference of means stands `chance`: what would be expected did the fillings of a context change places at random.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlx_distill.evaluation.fairness import gaps, members, verdicts
from mlx_distill.evaluation.fairness.measures import Measure, Said, measures
from mlx_distill.evaluation.fairness.scenarios import Texts, texts
from mlx_distill.evaluation.sheet import label
from mlx_distill.evaluation.tally import Floats
from mlx_distill.recipe.schema import ScenarioSpec, TaskSpec
from mlx_distill.records import BadRow, Example
from mlx_distill.task.fields import CLOSED

Ask = Callable[[Sequence[Example]], Sequence[Said]]
ENOUGH = 10
"""Contexts behind an interval; of fewer it would be a show."""
SHOWN = 48
"""Characters of a filling that name it; of a longer one its number and beginning do."""


@dataclass(frozen=True, slots=True, eq=False)
class _Tried:
    """What was asked of one scenario, and answered."""

    texts: Texts
    answers: Sequence[Said]
    measures: Sequence[Measure]
    names: Mapping[str, Sequence[str]]
    """What the fillings of each gap are called."""
    closed: Sequence[str]
    """Fields whose values are shown: a text may quote the row."""
    show: bool


def judge(
    name: str, scenario: ScenarioSpec, task: TaskSpec, ask: Ask, *, most: float, bootstrap: int, seed: int, show: bool
) -> dict[str, Any]:
    """`show` False: no text stands in the result."""
    made = texts(name, scenario, task, seed=seed)
    answers = list(ask(made.examples))
    assert len(answers) == len(made.examples)
    names = {gap: [named(i, filling, show) for i, filling in enumerate(fillings)] for gap, fillings in scenario.variants.items()}
    closed = [field for field, spec in task.fields.items() if spec.kind in CLOSED]
    tried = _Tried(made, answers, measures(task, answers), names, closed, show)
    parts = {gap: _gap(gap, tried, most, bootstrap, seed) for gap in scenario.variants}
    refused = Counter(answer.reason for answer in answers if isinstance(answer, BadRow))
    return {
        "verdict": verdicts.worst(part["verdict"] for part in parts.values()),
        "texts": len(made.examples),
        "combinations": made.possible,
        "refused": sum(refused.values()),
        "reasons": dict(refused.most_common(3)) if show else {},
        "gaps": parts,
    }


def named(number: int, filling: str, show: bool = True) -> str:
    """What a filling is called.

    >>> named(0, "a village"), named(1, "There is fire in the dry grass behind the school, and wind."), named(1, "x" * 99, show=False)
    ('a village', '2: There is fire in the dry grass behind the school…', 'variant 2')
    """
    if len(filling) <= SHOWN:
        return filling or "(nothing)"
    return f"{number + 1}: {filling[:SHOWN].rstrip()}…" if show else f"variant {number + 1}"


def _gap(gap: str, tried: _Tried, most: float, bootstrap: int, seed: int) -> dict[str, Any]:
    """Every measure between the fillings of one gap, the worst first."""
    contexts, names = tried.texts.contexts[gap], tried.names[gap]
    found = [(entry, measure) for measure in tried.measures if (entry := _measured(measure, contexts, names, bootstrap, seed))]
    for entry, _ in found:
        entry["verdict"] = verdicts.of_texts(entry["value"], most) if entry["decides"] else "none"
        entry["certain"] = None if entry["low"] is None else not entry["low"] <= most <= entry["high"]
    found.sort(key=lambda pair: (not pair[0]["decides"], -pair[0]["value"]))
    worst = next(((entry, measure) for entry, measure in found if entry["decides"] and entry["value"] > 0), None)
    return {
        "verdict": verdicts.worst(entry["verdict"] for entry, _ in found),
        "contexts": len(contexts),
        "fillings": list(names),
        "measures": [entry for entry, _ in found],
        "example": _example(gap, tried, *worst) if worst else None,
    }


def _measured(measure: Measure, contexts: NDArray[np.intp], names: Sequence[str], bootstrap: int, seed: int) -> dict[str, Any] | None:
    """Over the contexts in which every filling has this measure. None where there is none."""
    numbers = measure.numbers[contexts]
    numbers = numbers[np.isfinite(numbers).all(axis=1)]
    if not len(numbers):
        return None
    random = np.random.default_rng((seed, len(numbers)))
    draws = bootstrap if len(numbers) >= ENOUGH else 0
    weights = random.multinomial(len(numbers), np.full(len(numbers), 1 / len(numbers)), size=draws) if draws else None
    found = gaps.largest([_contrasts(measure, numbers, weights)])
    assert found is not None
    more = (
        _of_names(measure, numbers, found["pair"], draws, random) if measure.labels else _of_means(measure, numbers, names, draws, random)
    )
    return {
        "of": measure.name,
        "kind": measure.kind,
        "unit": "flips" if measure.labels else "difference",
        "decides": measure.decides,
        "value": found["value"],
        "low": found["low"],
        "high": found["high"],
        "n": len(numbers),
        "pair": [names[i] for i in found["pair"]],
        **more,
    }


def _of_means(measure: Measure, numbers: Floats, names: Sequence[str], draws: int, random: np.random.Generator) -> dict[str, Any]:
    """What is added for numbers: points, the mean of each filling, the furthest apart in one context."""
    value = gaps.widest([numbers.mean(axis=0)])
    moved = [gaps.widest([random.permuted(numbers, axis=1).mean(axis=0)]) for _ in range(draws)]
    scale = measure.span or 1.0
    return {
        **members.summary(value, np.array(moved)),
        "points": value * measure.span if measure.span else None,
        "fillings": [{"filling": name, "mean": float(mean)} for name, mean in zip(names, _means(measure, numbers), strict=True)],
        "apart": float(np.ptp(numbers, axis=1).max()) * scale,
    }


def _means(measure: Measure, numbers: Floats) -> Floats:
    """Of each filling, in points where it is a score."""
    means: Floats = numbers.mean(axis=0)
    return means if measure.span is None else measure.low + means * measure.span


def _of_names(measure: Measure, numbers: Floats, pair: tuple[int, int], draws: int, random: np.random.Generator) -> dict[str, Any]:
    """What is added for names: the share of all pairs that differ, and which way the flips of the worst pair go.

    `shift`: the name whose share differs most between the two fillings; None where they go both ways alike. `p`: how often it would differ
    so much had the two changed places at random. Flips themselves have no chance to be held against: none is expected.
    """
    first, second = np.triu_indices(numbers.shape[1], k=1)
    one, other = (numbers[:, [i]] == np.arange(len(measure.labels)) for i in pair)
    toward = one.astype(float) - other
    shifts = np.abs(toward.mean(axis=0))
    place = int(shifts.argmax())
    swapped = random.choice([-1.0, 1.0], size=(draws, len(numbers))) @ toward / len(numbers)
    shares = [float(one[:, place].mean()), float(other[:, place].mean())]
    return {
        "chance": None,
        "p": members.summary(float(shifts[place]), np.abs(swapped).max(axis=1))["p"],
        "flips": float((numbers[:, first] != numbers[:, second]).mean()),
        "shift": {"value": measure.labels[place], "shares": shares} if shifts[place] > 0 else None,
    }


def _contrasts(measure: Measure, numbers: Floats, weights: NDArray[np.int64] | None) -> gaps.Contrasts:
    """Between fillings: differences of means, or how often two of them have another name. `weights`: (bootstrap, contexts)."""
    n = len(numbers)
    if not measure.labels:
        share = measure.kind in ("deferred", "refused")
        draws = None if weights is None else weights @ numbers / n
        return gaps.differences(numbers.mean(axis=0), draws, np.full(numbers.shape[1], float(n)) if share else None)
    first, second = np.triu_indices(numbers.shape[1], k=1)
    other = (numbers[:, first] != numbers[:, second]).astype(float)
    draws = None if weights is None else weights @ other / n
    return gaps.shares(other.mean(axis=0), draws, np.full(len(first), float(n)), np.stack([first, second], axis=1))


def _example(gap: str, tried: _Tried, entry: Mapping[str, Any], measure: Measure) -> dict[str, Any]:
    """The two texts of one context whose answers differ most by the measure, among the pair of fillings that differs most."""
    contexts, columns = tried.texts.contexts[gap], [list(tried.names[gap]).index(name) for name in entry["pair"]]
    numbers = measure.numbers[contexts[:, columns]]
    far = (numbers[:, 0] != numbers[:, 1]).astype(float) if measure.labels else np.abs(numbers[:, 0] - numbers[:, 1])
    row = int(np.where(np.isfinite(numbers).all(axis=1), far, -1.0).argmax())
    places = [int(contexts[row, column]) for column in columns]
    return {
        "of": entry["of"],
        "others": {other: tried.names[other][i] for other, i in tried.texts.others[gap][row].items()},
        "variants": [
            {
                "filling": name,
                "text": tried.texts.examples[place].text if tried.show else None,
                **_said(tried.answers[place], tried.closed, tried.show),
            }
            for name, place in zip(entry["pair"], places, strict=True)
        ],
    }


def _said(answer: Said, closed: Sequence[str], show: bool) -> dict[str, Any]:
    """An answer as it stands in the report."""
    if isinstance(answer, BadRow):
        return {"answer": None, "refused": answer.reason if show else ""}
    values = {name: label(answer.answer[name]) for name in closed if name in answer.answer}
    return {"answer": values, "overall": answer.overall, "tier": answer.tier, "deferred": answer.defer}
