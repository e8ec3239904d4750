"""How a student's error falls with the number of labels, and what more of them would bring: a power law, with how far it can be trusted.

    curve(trained, metric, fields)     a plain document: figures by size, the fit, what twice and four times the labels would bring
    read_near(run)                     the curve that was measured for a run's recipe, where there is one in its folder

The error after n labels is taken as a + b * n^-c: a is what no number of labels removes (Cortes, Jackel, Solla, Vapnik and Denker,
"Learning Curves: Asymptotic Values and Rate of Convergence", NIPS 1993; Hestness et al., "Deep Learning Scaling is Predictable,
Empirically", 2017). For a given c that is a line, so the fit is weighted least squares in a and b for every c of a grid: it needs no start,
and meets no local minimum. An error is the metric itself where lower is better, 1 - metric where higher is.

Uncertain are the rows that judge (a bootstrap over them, the same rows for all sizes), the training (its luck: out of several seeds, else
out of what the fit leaves over), and the law (every resample is fitted anew). It knows judged rows; no run, no file.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mlx_distill.evaluation import bootstrap as boot
from mlx_distill.evaluation import judge
from mlx_distill.evaluation.bootstrap import Figure
from mlx_distill.evaluation.judge import Fields, Judged
from mlx_distill.evaluation.tally import Floats

RECORD = "learning-curve.json"
LEAST = 3
"""Sizes that a law of three numbers takes."""
EXPONENTS = np.linspace(0.05, 2.0, 196)
"""Candidates for c. Of real tasks it is mostly 0.1 to 1; below 0.05 the law is flat, above 2 it has fallen before it begins."""
LAWLESS = "these figures do not fall off as they would by a law: what more labels would bring cannot be told from them"
"""Where the best fit rises, or lies at the end of what is tried, and nothing is known of how much of that is luck."""
TIMES = (2, 4)
BAND = 40
"""Points of the drawn curve."""


@dataclass(frozen=True, slots=True)
class Trained:
    """One training on `labels` rows, judged on the same `rows` as all others, in one order. `loss` is used where there is no metric."""

    labels: int
    seed: int
    rows: Sequence[Judged]
    loss: float | None = None


@dataclass(frozen=True, slots=True)
class Law:
    """error = a + b * n^-c, each (resamples,)."""

    a: Floats
    b: Floats
    c: Floats

    def at(self, n: float) -> Floats:
        result: Floats = self.a + self.b * n**-self.c
        return result


def fit(sizes: Sequence[float], errors: Floats, weights: Floats) -> Law:
    """The law of each line of `errors` (resamples, sizes), by least squares with `weights` (sizes,); a is never below 0.

    >>> law = fit([100, 200, 400, 800], np.array([[0.1 + 2 * n**-0.5 for n in (100, 200, 400, 800)]]), np.ones(4))
    >>> [round(float(value[0]), 3) for value in (law.a, law.b, law.c)]
    [0.1, 2.0, 0.5]
    """
    n, w = np.asarray(sizes, dtype=float), weights / weights.sum()
    unit = float(n[0])  # n / n0: powers of large numbers would be badly conditioned beside the constant
    x = (n / unit) ** -EXPONENTS[:, None]  # (exponents, sizes)
    mean_x, mean_y = x @ w, errors @ w
    spread = ((x - mean_x[:, None]) ** 2) @ w
    shared = (errors * w) @ x.T - mean_y[:, None] * mean_x  # (resamples, exponents)
    slope = shared / spread
    floor = mean_y[:, None] - slope * mean_x
    bare = ((errors * w) @ x.T) / ((x**2) @ w)  # through a = 0
    slope, floor = np.where(floor < 0, bare, slope), np.maximum(floor, 0.0)
    left = sum(w[k] * (errors[:, k, None] - floor - slope * x[:, k]) ** 2 for k in range(len(n)))
    best = np.asarray(left).argmin(axis=1)
    every, c = np.arange(len(errors)), EXPONENTS[best]
    return Law(floor[every, best], slope[every, best] * unit**c, c)


def curve(
    trained: Sequence[Trained],
    metric: str | None,
    fields: Fields,
    *,
    tiers: Sequence[str] = (),
    bootstrap: int = boot.RESAMPLES,
    seed: int = 0,
) -> dict[str, Any]:
    """`metric` None: by loss. {points, fit, extrapolated, band, noise}; the last four are None or empty where there are too few sizes, or
    (`lawless`) where they follow no law.

    A gain is better by so much, whichever way better is: above 0 more labels help.
    """
    totals, draws = _measured(trained, metric, fields, tiers, bootstrap, seed)
    sizes = sorted({one.labels for one in trained if (one.labels, one.seed) in totals})
    by_size = {size: [key for key in totals if key[0] == size] for size in sizes}
    values = np.array([np.mean([totals[key] for key in by_size[size]]) for size in sizes])
    drawn = np.stack([np.mean([draws[key] for key in by_size[size]], axis=0) for size in sizes], axis=1) if sizes else np.zeros((0, 0))
    rows = len(trained[0].rows) if trained else 0
    points = [
        {"labels": size, "figure": _figure(values[i], drawn[:, i], rows), "seeds": {str(key[1]): totals[key] for key in by_size[size]}}
        for i, size in enumerate(sizes)
    ]
    found: dict[str, Any] = {"points": points, "fit": None, "extrapolated": [], "band": [], "noise": None}
    if len(sizes) >= LEAST:
        found |= _fitted(sizes, values, drawn, [[totals[key] for key in by_size[size]] for size in sizes], metric, seed)
    return found


def read_near(run: Path) -> dict[str, Any] | None:
    """RUN/learning-curve/learning-curve.json, where it says what more labels would bring: the report's remedies go by it."""
    try:
        document: dict[str, Any] = json.loads((run / Path(RECORD).stem / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return document if document.get("extrapolated") and document.get("words") else None


def _measured(
    trained: Sequence[Trained], metric: str | None, fields: Fields, tiers: Sequence[str], bootstrap: int, seed: int
) -> tuple[dict[tuple[int, int], float], dict[tuple[int, int], Floats]]:
    """By (labels, seed) the figure, and the figure in each resample of the rows (bootstrap,). Those without one are left out."""
    if metric is None:
        losses = {(one.labels, one.seed): one.loss for one in trained if one.loss is not None}
        return losses, {key: np.full(bootstrap, loss) for key, loss in losses.items()}
    tallies = {}
    for one in trained:
        found = judge.measure(judge.lay_out(one.rows, fields, tiers))
        if metric in found:
            tallies[one.labels, one.seed] = found[metric]
    drawn = boot.resample({f"{labels}/{one}": tally for (labels, one), tally in tallies.items()}, bootstrap=bootstrap, seed=seed)
    return {key: tally.total() for key, tally in tallies.items()}, {key: drawn[f"{key[0]}/{key[1]}"] for key in tallies}


def _fitted(
    sizes: Sequence[int], values: Floats, drawn: Floats, seeds: Sequence[Sequence[float]], metric: str | None, seed: int
) -> dict[str, Any]:
    """The law of the figures as they are, and of every resample with the luck of training laid over it."""
    errors, samples = _error(values, metric)[None, :], _error(drawn[np.isfinite(drawn).all(axis=1)], metric)
    luck = _luck(seeds)
    spread = samples.var(axis=0) + (luck or 0.0) ** 2 / np.array([len(own) for own in seeds])
    weights = 1 / np.maximum(spread, max(float(spread.max()) * 1e-3, 1e-12))
    own = fit(sizes, errors, weights)
    noise, told_by = (luck, "seeds") if luck is not None else (_left_over(sizes, errors[0], own), "fit")
    if noise is not None:
        scale = noise / np.sqrt([len(own_seeds) for own_seeds in seeds])
        samples = samples + np.random.default_rng([seed, len(sizes)]).normal(size=samples.shape) * scale
    laws = fit(sizes, samples, weights)
    known = noise is not None or metric is not None  # of a loss alone, without any measure of luck, nothing is known of its uncertainty
    last = sizes[-1]
    law = {"a": float(own.a[0]), "b": float(own.b[0]), "c": float(own.c[0])}
    if noise is None and (law["b"] <= 0 or not EXPONENTS[0] < law["c"] < EXPONENTS[-1]):
        return {"noise": None if noise is None else {"value": float(noise), "told_by": told_by}, "lawless": LAWLESS}
    return {
        "fit": {"floor": _value(law["a"], metric), **law},
        "noise": None if noise is None else {"value": float(noise), "told_by": told_by},
        "extrapolated": [_ahead(times, last, own, laws, metric, known=known) for times in TIMES],
        "band": [_drawn(n, own, laws, metric, known=known) for n in np.geomspace(sizes[0], last * TIMES[-1], BAND)],
    }


def _luck(seeds: Sequence[Sequence[float]]) -> float | None:
    """Standard deviation of one training's figure, pooled over the sizes that were trained with several seeds. None: there are none."""
    squares = [(np.var(own, ddof=1) * (len(own) - 1), len(own) - 1) for own in seeds if len(own) > 1]
    degrees = sum(n for _, n in squares)
    return float(np.sqrt(sum(square for square, _ in squares) / degrees)) if degrees else None


def _left_over(sizes: Sequence[int], errors: Floats, law: Law) -> float | None:
    """The same from what the fit leaves over. None: as many sizes as the law has numbers leave nothing over."""
    if len(sizes) <= LEAST:
        return None
    left = errors - np.array([law.at(n)[0] for n in sizes])
    return float(np.sqrt((left**2).sum() / (len(sizes) - LEAST)))


def _ahead(times: int, last: int, own: Law, laws: Law, metric: str | None, *, known: bool) -> dict[str, Any]:
    n = times * last
    gain = own.at(last) - own.at(n)
    return {
        "times": times,
        "labels": n,
        "value": _ends(_value(float(own.at(n)[0]), metric), _value(laws.at(n), metric), known=known),
        "gain": _ends(float(gain[0]), laws.at(last) - laws.at(n), known=known),
    }


def _drawn(n: float, own: Law, laws: Law, metric: str | None, *, known: bool) -> dict[str, Any]:
    return {"labels": float(n), **_ends(_value(float(own.at(n)[0]), metric), _value(laws.at(n), metric), known=known)}


def _ends(value: Any, samples: Any, *, known: bool) -> dict[str, float | None]:
    low, high = np.quantile(samples, [(1 - boot.LEVEL) / 2, (1 + boot.LEVEL) / 2])
    return {"value": float(value), "low": float(low) if known else None, "high": float(high) if known else None}


def _figure(value: float, samples: Floats, rows: int) -> Figure:
    """Over the rows alone; None for its ends where they do not move it (a loss that is known as a whole)."""
    found = boot.figure(float(value), samples, rows)
    return Figure(value=found["value"], low=None, high=None, n=rows) if float(np.ptp(samples)) == 0 and len(samples) else found


def _higher(metric: str | None) -> bool:
    return metric is not None and not judge.lower_is_better(metric)


def _error(values: Floats, metric: str | None) -> Floats:
    return 1 - values if _higher(metric) else values


def _value(error: Any, metric: str | None) -> Any:
    return 1 - error if _higher(metric) else error
