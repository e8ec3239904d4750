"""Percentile bootstrap over rows: how much a figure would move had other rows of the same kind been drawn.

Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13. A resample is a weight for each row, so all
figures of a resample come from one product of matrices. The same seed and the same number of rows give the same resamples: figures of
two students are paired. It knows tallies and weights; nothing of fields or reports. It takes rows as independent of each other.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

from mlx_distill.evaluation.metrics import Floats, Tally
from mlx_distill.recipe.schema import EvaluateSpec

RESAMPLES = EvaluateSpec().bootstrap
LEVEL = 0.95
CHUNK = 2_000_000
"""Weights in memory at once."""


class Figure(TypedDict):
    """A figure with its 95 % interval and the rows behind it; None where it is not known."""

    value: float | None
    low: float | None
    high: float | None
    n: int


def figures(tallies: Mapping[str, Tally], *, bootstrap: int, seed: int) -> dict[str, Figure]:
    samples = resample(tallies, bootstrap=bootstrap, seed=seed)
    return {name: figure(tally.total(), samples[name], tally.n) for name, tally in tallies.items()}


def paired(
    ours: Mapping[str, Tally], theirs: Mapping[str, Tally], *, bootstrap: int, seed: int
) -> tuple[dict[str, Figure], dict[str, Figure]]:
    """Their figures; and ours minus theirs, where both have a name, over the same rows and the same resamples."""
    both = [name for name in ours if name in theirs]
    drawn = resample(
        {f"theirs {name}": tally for name, tally in theirs.items()} | {f"ours {name}": ours[name] for name in both},
        bootstrap=bootstrap,
        seed=seed,
    )
    figures = {name: figure(tally.total(), drawn[f"theirs {name}"], tally.n) for name, tally in theirs.items()}
    differences = {
        name: figure(
            ours[name].total() - theirs[name].total(),
            drawn[f"ours {name}"] - drawn[f"theirs {name}"],
            int((ours[name].counted & theirs[name].counted).sum()),
        )
        for name in both
    }
    return figures, differences


def figure(value: float, samples: Floats, n: int) -> Figure:
    known = samples[np.isfinite(samples)]
    if not np.isfinite(value) or not len(known):
        return Figure(value=None, low=None, high=None, n=n)
    low, high = np.quantile(known, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Figure(value=float(value), low=float(low), high=float(high), n=n)


def resample(tallies: Mapping[str, Tally], *, bootstrap: int, seed: int) -> dict[str, Floats]:
    """Each figure in each resample, (bootstrap,). NaN where a resample drew no row that counts."""
    if not tallies:
        return {}
    parts = list(tallies.values())
    sums = _sums(np.concatenate([part.columns for part in parts], axis=1), bootstrap, seed)
    edges = np.cumsum([part.columns.shape[1] for part in parts])[:-1]
    return {name: tally.value(own) for (name, tally), own in zip(tallies.items(), np.split(sums, edges, axis=1), strict=True)}


def _sums(columns: Floats, bootstrap: int, seed: int) -> Floats:
    """Column sums of every resample, (bootstrap, k).

    Metrics share many columns (who has a label, who is right): each is summed once. Single precision moves an end of an interval by
    about 1e-6 and takes half the time.
    """
    rows = len(columns)
    if not rows:
        return np.zeros((bootstrap, columns.shape[1]))
    single = np.ascontiguousarray(columns.T, dtype=np.float32)
    first: dict[bytes, int] = {}
    place = [first.setdefault(column.tobytes(), len(first)) for column in single]
    distinct = single[[place.index(i) for i in range(len(first))]].T
    random, step = np.random.default_rng(seed), max(1, CHUNK // rows)
    parts = [_weights(random, min(step, bootstrap - start), rows) @ distinct for start in range(0, bootstrap, step)]
    return np.concatenate(parts).astype(np.float64)[:, place]


def _weights(random: np.random.Generator, resamples: int, rows: int) -> NDArray[np.float32]:
    """How often each row was drawn, (resamples, rows); each line sums to `rows`."""
    drawn = random.integers(0, rows, size=(resamples, rows)) + np.arange(resamples)[:, None] * rows
    return np.bincount(drawn.ravel(), minlength=resamples * rows).reshape(resamples, rows).astype(np.float32)
