"""How sure a whole row is, and whether it is wrong: the two sides of deferral.

    sure(task, of, within, answer, confidence, probabilities, overall, tier)    0 to 1; more where it is wrong less often
    wrong(task, of, within, reference, answer, ...)                              what the guarantee is about

`of` is what `targets.defer.of` names: `tier`, `overall`, `answer`, or a field. How sure a row is decides which rows are handed back first,
and so how many are kept. What is promised of those that are kept rests on counting their errors alone (`evaluation.deferral`): it holds
however crude the measure is. It takes fields as independent given the text, the sum of scores as normal, and knows gates, but no
condition caps.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from operator import mul

import numpy as np
from numpy.typing import NDArray

from mlx_distill.recipe.schema import FieldSpec, TaskSpec
from mlx_distill.records import Value
from mlx_distill.task.calibrated import WIDE
from mlx_distill.task.fields import CLOSED, nearest_value, values_of

Answer = Mapping[str, Value]
Distributions = Mapping[str, Sequence[float]]
Floats = NDArray[np.float64]

EXACT = 1e-9
"""Points: numbers as near as this are the same."""
ROUNDED = 0.005
"""Points that an overall may be off for having been rounded."""


def default_of(task: TaskSpec) -> str:
    """What a row is judged by where the recipe does not say: `tier`, `overall` or `answer`."""
    if not any(spec.weight is not None for spec in task.fields.values()):
        return "answer"
    return "tier" if task.tiers else "overall"


def wrong(
    task: TaskSpec,
    of: str,
    within: float,
    *,
    reference: Answer,
    answer: Answer | None,
    reference_overall: float | None = None,
    reference_tier: str | None = None,
    overall: float | None = None,
    tier: str | None = None,
) -> bool | None:
    """Whether the row is wrong in the sense of `of`. None: the judge has no label to tell by. No answer is wrong.

    `answer`: any closed field that the judge has answered, as metrics compare them (a score: another nearest step).
    """
    if of in ("tier", "overall"):
        if reference_overall is None:
            return None
        if of == "tier":
            return answer is None or overall is None or tier != reference_tier
        return overall is None or abs(overall - reference_overall) > within + EXACT
    if of == "answer":
        known = [name for name, spec in task.fields.items() if spec.kind in CLOSED and name in reference]
        return any(not _same(task, name, reference, answer) for name in known) if known else None
    if of not in reference:
        return None
    if task.fields[of].kind == "score" and answer is not None and of in answer:
        return abs(float(answer[of]) - float(reference[of])) > within + EXACT  # type: ignore[arg-type]
    return not _same(task, of, reference, answer)


def _same(task: TaskSpec, name: str, reference: Answer, answer: Answer | None) -> bool:
    if answer is None or name not in answer:
        return False
    spec = task.fields[name]
    return nearest_value(spec, answer[name]) == nearest_value(spec, reference[name])


def sure(
    task: TaskSpec,
    of: str,
    within: float,
    *,
    answer: Answer,
    confidence: Mapping[str, float],
    probabilities: Distributions,
    overall: float | None,
    tier: str | None,
) -> float | None:
    """The probability that the row is right, as far as calibrated confidences tell. None where something that it needs is missing."""
    if of == "answer":
        closed = [name for name, spec in task.fields.items() if spec.kind in CLOSED]
        return math.prod(confidence[name] for name in closed) if all(name in confidence for name in closed) else None
    if of in ("tier", "overall"):
        return _sure_of_overall(task, of, within, probabilities, overall, tier)
    if task.fields[of].kind != "score":
        return confidence.get(of)
    if of not in probabilities or of not in answer:
        return None
    own = float(answer[of])  # type: ignore[arg-type]
    pairs = zip(_numbers(task.fields[of]), probabilities[of], strict=True)
    return min(1.0, sum(p for number, p in pairs if abs(number - own) <= within + EXACT))


def _sure_of_overall(
    task: TaskSpec, of: str, within: float, probabilities: Distributions, overall: float | None, tier: str | None
) -> float | None:
    needed = [name for name, spec in task.fields.items() if spec.weight is not None or spec.gate is not None]
    if overall is None or any(name not in probabilities for name in needed):
        return None
    near = within + ROUNDED
    low, high = (overall - near, overall + near) if of == "overall" else tier_range(task, tier)
    scores = {name: Moments.of(task.fields[name], probabilities[name]) for name in needed}
    gates = {name: Moments.of(task.fields[name], probabilities[name], held=True) for name in needed if task.fields[name].gate is not None}
    return min(1.0, max(0.0, _reaching(task, scores, gates, low) - _reaching(task, scores, gates, high)))


def tier_range(task: TaskSpec, tier: str | None) -> tuple[float, float]:
    """From the tier's lowest overall to that of the next one above. None: below every tier."""
    low = -math.inf if tier is None else task.tiers[tier]
    return low, min((step for step in task.tiers.values() if step > low), default=math.inf)


@dataclass(frozen=True, slots=True)
class Moments:
    """A score's mean and variance, and the probability of what they are conditioned on."""

    chance: float
    mean: float
    variance: float

    @classmethod
    def of(cls, spec: FieldSpec, shares: Sequence[float], *, held: bool = False) -> Moments:
        """`held`: given that its gate has not tripped."""
        numbers = _numbers(spec)
        if len(numbers) >= WIDE:
            return cls._wide(spec, np.asarray(shares, np.float64), _array(numbers), held=held)
        if held and spec.gate is not None:
            below = spec.gate.below
            shares = [0.0 if number < below else p for p, number in zip(shares, numbers, strict=True)]
        if (chance := sum(shares)) <= 0:
            return cls(0.0, 0.0, 0.0)
        weighted = list(map(mul, shares, numbers))
        mean = sum(weighted) / chance
        return cls(chance, mean, max(0.0, sum(map(mul, weighted, numbers)) / chance - mean * mean))

    @classmethod
    def _wide(cls, spec: FieldSpec, shares: Floats, numbers: Floats, *, held: bool) -> Moments:
        """The same of many values."""
        if held and spec.gate is not None:
            shares = np.where(numbers < spec.gate.below, 0.0, shares)
        if (chance := float(shares.sum())) <= 0:
            return cls(0.0, 0.0, 0.0)
        mean = float(shares @ numbers) / chance
        return cls(chance, mean, max(0.0, float(shares @ (numbers * numbers)) / chance - mean * mean))


def _reaching(task: TaskSpec, scores: Mapping[str, Moments], gates: Mapping[str, Moments], least: float) -> float:
    """P(overall >= least), the sum of scores taken as normal.

    An overall reaches `least` where the sum does and no gate with a lower cap has tripped: the product of those gates' chances to hold,
    and the moments of the scores given that they hold.
    """
    if math.isinf(least):
        return float(least < 0)
    chance, mean, variance = 1.0, 0.0, 0.0
    for name, score in scores.items():
        spec = task.fields[name]
        if spec.gate is not None and spec.gate.cap < least:
            score = gates[name]
            chance *= score.chance
        weight = spec.weight or 0.0
        mean += weight * score.mean
        variance += weight * weight * score.variance
    if variance < EXACT:
        return chance * float(mean >= least - EXACT)
    return chance * 0.5 * math.erfc((least - mean) / math.sqrt(2 * variance))


def _numbers(spec: FieldSpec) -> tuple[float, ...]:
    return values_of(spec)  # type: ignore[return-value]


@lru_cache(maxsize=256)
def _array(numbers: tuple[float, ...]) -> Floats:
    """Once for each score, not for each row."""
    return np.asarray(numbers, np.float64)
