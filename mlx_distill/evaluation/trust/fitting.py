"""Maps of confidence, fitted: the candidates, and the choice between them by cross-validation.

    fit(sample, "beta")          one FieldMap
    choose(sample, "auto")       the map that predicts best which answers are right, and what each candidate lost

Temperature is fitted to whole distributions, by the log loss of the judge's value; beta and isotonic to the answer's probability, tempered
where the field has more than two values, by whether it was right. Where rows come in groups, and new ones will be of new groups, a map must
prove itself on groups that it has not seen: what fits the events of the validation may be worse than nothing on the next. It knows arrays;
nothing of rows, recipes or reports.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlx_distill.evaluation.tally import Bools, Floats, Rows
from mlx_distill.task.calibrated import EDGE, TINY, FieldMap

METHODS = ("none", "temperature", "beta", "isotonic")
"""From the simplest to the one with most freedom."""
FEWEST = {"none": 0, "temperature": 30, "beta": 100, "isotonic": 1000}
"""Rows from which `auto` considers a method. One that the recipe names is fitted from `FEWEST["temperature"]` rows on."""
FOLDS = 5
LEAST, MOST = 0.05, 20.0
"""Temperatures between which the best is looked for."""
STILL = np.array([1.0, 1.0, 0.0])
"""(a, b, c) of the beta map that changes nothing."""
STEPS = 100
"""Newton's, at most; five to ten are the rule."""
RIDGE = 1e-3
"""Nats for each unit that beta is off the map that changes nothing: keeps it finite where right and wrong never overlap."""


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """One field on the rows to learn from."""

    ids: Sequence[str]
    confidence: Floats
    """(n,): the student's probability of its own answer."""
    right: Bools
    """(n,)"""
    place: Rows
    """(n,): the answer's number among the field's values."""
    truth: Rows
    """(n,): the judge's."""
    logs: Floats | None = None
    """(n, k): of each value's probability; None where whole distributions are not known."""
    groups: Sequence[str] | None = None
    """(n,): which rows come together, where rows come in groups."""

    def take(self, rows: Rows) -> Sample:
        ids, logs = [self.ids[i] for i in rows], None if self.logs is None else self.logs[rows]
        groups = None if self.groups is None else [self.groups[i] for i in rows]
        return Sample(ids, self.confidence[rows], self.right[rows], self.place[rows], self.truth[rows], logs, groups)

    @property
    def units(self) -> Sequence[str]:
        """(n,): rows of one name are seen together, or not at all."""
        return self.groups or self.ids

    @property
    def mixed(self) -> bool:
        """Whether some answers are right and some wrong."""
        return bool(self.right.any() and not self.right.all())


def choose(sample: Sample, wanted: str) -> tuple[FieldMap, dict[str, Any]]:
    """The map, and how it was found: {method, wanted, n, losses {method: nats a row, cross-validated}, why}.

    Of the methods that the rows suffice for, the simplest whose log loss is within one standard error (of the paired difference) of the
    best. The order of the rows does not matter.
    """
    n = len(sample.ids)
    facts: dict[str, Any] = {"method": "none", "wanted": wanted, "n": n, "losses": {}, "why": None}
    if wanted == "none":
        return FieldMap(), facts | {"why": "the recipe asks for none"}
    if n < FEWEST["temperature"]:
        return FieldMap(), facts | {"why": f"{n} rows with a label are too few: it takes {FEWEST['temperature']}"}
    if not sample.mixed:
        return FieldMap(), facts | {"why": f"all {n} answers are {'right' if sample.right.all() else 'wrong'}: nothing to learn from"}
    if wanted == "temperature" and sample.logs is None:
        return FieldMap(), facts | {"why": "a temperature needs whole distributions, and the answers came without"}
    if wanted != "auto":
        return fit(sample, wanted), facts | {"method": wanted}
    if sample.groups is not None and len(set(sample.groups)) < 2:
        return FieldMap(), facts | {"why": "all rows are of one group: whether a map holds for another cannot be tried"}
    losses = cross_validated(
        sample, [method for method in METHODS if n >= FEWEST[method] and (method != METHODS[1] or sample.logs is not None)]
    )
    method = _simplest(losses, sample.units)
    means = {name: float(loss.mean()) for name, loss in losses.items()}
    return fit(sample, method), facts | {"method": method, "losses": means}


def _simplest(losses: dict[str, Floats], units: Sequence[str]) -> str:
    best = min(losses, key=lambda method: float(losses[method].mean()))
    _, unit = np.unique(np.array(units, dtype=object).astype(str), return_inverse=True)
    for method, loss in losses.items():
        if (gap := loss - losses[best]).mean() <= _error_of_mean(gap, unit):
            return method
    return best


def _error_of_mean(values: Floats, unit: Rows) -> float:
    """The standard error of a mean over rows that are alike within a unit (Liang and Zeger 1986); a unit a row is the usual one."""
    sums = np.bincount(unit, weights=values - values.mean())
    return float(np.sqrt((sums**2).sum() * len(sums) / max(1, len(sums) - 1)) / len(values))


def cross_validated(sample: Sample, methods: Sequence[str]) -> dict[str, Floats]:
    """Nats of each row, (n,), by method: what a map that has not seen the row says of whether its answer is right."""
    folds = _folds(sample.units)
    found = {method: np.zeros(len(sample.ids)) for method in methods}
    for fold in range(int(folds.max()) + 1):
        seen, unseen = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
        learned, held = sample.take(seen), sample.take(unseen)
        for method in methods:
            sure = predicted(fit(learned, method), held)
            found[method][unseen] = -np.log(np.where(held.right, sure, 1.0 - sure))
    return found


def _folds(units: Sequence[str]) -> NDArray[np.int64]:
    """(n,): evenly, in the order of the units' hashes."""
    order = sorted(set(units), key=lambda name: (hashlib.sha256(name.encode("utf-8", "surrogatepass")).digest(), name))
    fold = {name: i % FOLDS for i, name in enumerate(order)}
    return np.array([fold[name] for name in units], dtype=np.int64)


def predicted(own: FieldMap, sample: Sample) -> Floats:
    """(n,): the answers' probabilities after a map, within EDGE of 0 and 1."""
    sure = _tempered(sample, own.temperature)
    mapped = np.array([own.right(float(confidence)) for confidence in sure]) if own.bends else sure
    kept: Floats = np.clip(mapped, EDGE, 1.0 - EDGE)
    return kept


def fit(sample: Sample, method: str) -> FieldMap:
    """A map of one method. `sample` has right and wrong answers, or the method is none."""
    if method == "none":
        return FieldMap()
    temperature = 1.0 if sample.logs is None or (method != "temperature" and sample.logs.shape[1] == 2) else _temperature(sample)
    if method == "temperature":
        return FieldMap(temperature=temperature)
    sure = np.clip(_tempered(sample, temperature), EDGE, 1.0 - EDGE)
    if method == "beta":
        return FieldMap(temperature=temperature, beta=_beta(sure, sample.right))
    return FieldMap(temperature=temperature, isotonic=_isotonic(sure, sample.right))


def _tempered(sample: Sample, temperature: float) -> Floats:
    """(n,): the answers' probabilities."""
    if temperature == 1.0 or sample.logs is None:
        return sample.confidence
    shares = _softmax(sample.logs / temperature)
    own: Floats = shares[np.arange(len(shares)), sample.place]
    return own


def _temperature(sample: Sample) -> float:
    """The T of least log loss of the judge's values.

    The loss is convex in 1 / T: its slope, the mean over rows of E[ln p] - ln p(judge's), rises, and the zero is bracketed. Halving the
    bracket is slower than Newton's method, and fails on nothing.
    """
    assert sample.logs is not None
    logs, truth = sample.logs, sample.logs[np.arange(len(sample.logs)), sample.truth]
    low, high = np.log(1 / MOST), np.log(1 / LEAST)
    for _ in range(40):
        middle = (low + high) / 2
        slope = float(((_softmax(logs * np.exp(middle)) * logs).sum(axis=1) - truth).mean())
        low, high = (low, middle) if slope > 0 else (middle, high)
    return float(np.exp(-(low + high) / 2))


def _beta(sure: Floats, right: Bools) -> tuple[float, float, float]:
    """(a, b, c): logistic regression on ln p and -ln(1 - p), a and b not below 0 (Kull et al. 2017, which drops one that would be).

    The loss is convex, so the best of all is the best without a bound, or with a, b or both at 0: the best of these that keeps the bounds.
    """
    features = np.stack([np.log(sure), -np.log1p(-sure), np.ones(len(sure))], axis=1)
    found = []
    for kept in ([0, 1, 2], [1, 2], [0, 2], [2]):
        weights = np.zeros(3)
        weights[kept] = _logistic(features[:, kept], right, STILL[kept])
        if (weights[:2] >= 0).all():
            found.append((_nats(features, right, weights, STILL), *map(float, weights)))
        if kept == [0, 1, 2] and found:
            break
    _, a, b, c = min(found)
    return a, b, c


def _logistic(features: Floats, right: Bools, still: Floats) -> Floats:
    """(k,): the weights of least `_nats`, by Newton's method; a step that overshoots is halved. For three numbers a minimiser of SciPy's
    costs more in calls than in sums, and waits for threads of its own wherever other work fills the cores."""
    weights = still
    for _ in range(STEPS):
        sure = 1.0 / (1.0 + np.exp(-np.clip(features @ weights, -50, 50)))
        slope = features.T @ (sure - right) + 2 * RIDGE * (weights - still)
        bend = (features.T * (sure * (1.0 - sure))) @ features + 2 * RIDGE * np.eye(len(still))
        step = np.linalg.solve(bend, slope)
        gain = float(slope @ step)  # twice what is left to win, in nats
        if gain < 1e-9:
            return np.asarray(weights - step)
        most, size = _nats(features, right, weights, still), 1.0
        while size > 1e-6 and _nats(features, right, weights - size * step, still) > most - 1e-4 * size * gain:
            size /= 2
        weights = weights - size * step
    return weights


def _nats(features: Floats, right: Bools, weights: Floats, still: Floats) -> float:
    """Of all rows together, and what keeps the weights from running away where rows are few or parted cleanly."""
    logit, off = features @ weights, weights - still
    return float((np.logaddexp(0.0, logit) - right * logit).sum() + RIDGE * off @ off)


def _isotonic(sure: Floats, right: Bools) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The rising staircase of least squares. Of n rows none tells a rate from 0 or 1 by less than 1 / (n + 2)."""
    from sklearn.isotonic import IsotonicRegression

    edge = 1.0 / (len(sure) + 2)
    stairs = IsotonicRegression(y_min=edge, y_max=1.0 - edge, out_of_bounds="clip").fit(sure, right.astype(float))
    return tuple(map(float, stairs.X_thresholds_)), tuple(map(float, stairs.y_thresholds_))


def _softmax(logits: Floats) -> Floats:
    """Over the last axis."""
    weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
    shares: Floats = weights / weights.sum(axis=-1, keepdims=True)
    return shares


def logs_of(shares: Sequence[Sequence[float]]) -> Floats:
    """(n, k): logarithms of probabilities, a rounded 0 as TINY."""
    logs: Floats = np.log(np.maximum(np.asarray(shares, np.float64), TINY))
    return logs
