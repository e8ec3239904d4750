"""Bootstrap over rows: how much a figure would move had other rows of the same kind been drawn.

    figures(tallies, bootstrap=..., seed=...)          each figure with its interval
    paired(ours, theirs, bootstrap=..., seed=...)      theirs, and ours minus theirs with interval and p value

The percentile interval of Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13; a tally for which that one is wrong
(shares, calibration errors) brings its own, made from the same resamples. Differences have the percentile interval.
A resample is a weight for each row, so all figures of a resample come from one product of matrices. The same seed and the same number of
rows give the same resamples: figures of two students are paired. It knows tallies and weights; nothing of fields or reports. It takes rows
as independent of each other.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mlx_distill.evaluation.figure import LEVEL as LEVEL
from mlx_distill.evaluation.figure import Figure as Figure
from mlx_distill.evaluation.tally import AnyTally, Drawn, Floats, PairTally, Singles, Tally
from mlx_distill.recipe.schema import EvaluateSpec

RESAMPLES = EvaluateSpec().bootstrap
CHUNK = 2_000_000
"""Weights in memory at once."""
EXACT = 2**24
"""Whole numbers below this are exact in single precision, and so are their sums."""


class Difference(Figure):
    """Ours minus theirs. `p`: how often, at most, a difference this clear comes of equal students."""

    p: float | None


def figures(tallies: Mapping[str, AnyTally], *, bootstrap: int, seed: int) -> dict[str, Figure]:
    return _of(tallies, resample(tallies, bootstrap=bootstrap, seed=seed), seed)


def paired(
    ours: Mapping[str, AnyTally], theirs: Mapping[str, AnyTally], *, bootstrap: int, seed: int
) -> tuple[dict[str, Figure], dict[str, Difference]]:
    """Their figures; and ours minus theirs, where both have a name, over the same rows and the same resamples.

    Of figures that are best at 0 on both sides (a bias) it is the difference of their absolute values. `p` is `p_value`'s.
    """
    both = [name for name in ours if name in theirs]
    drawn = resample(
        {f"theirs {name}": tally for name, tally in theirs.items()} | {f"ours {name}": ours[name] for name in both},
        bootstrap=bootstrap,
        seed=seed,
    )
    known = _of(theirs, {name: drawn[f"theirs {name}"] for name in theirs}, seed)
    values = {name: _apart(ours[name], ours[name].total(), theirs[name].total()) for name in both}
    samples = {name: _apart(ours[name], drawn[f"ours {name}"], drawn[f"theirs {name}"]) for name in both}
    shared = [int((ours[name].counted & theirs[name].counted).sum()) for name in both]
    gaps = _figures([float(value) for value in values.values()], list(samples.values()), shared)
    differences = {name: Difference(**gap, p=p_value(samples[name])) for name, gap in zip(both, gaps, strict=True)}
    return known, differences


def _apart(tally: AnyTally, ours: float | Floats, theirs: float | Floats) -> Floats:
    if tally.centred:
        ours, theirs = np.abs(ours), np.abs(theirs)
    return np.asarray(np.subtract(ours, theirs))


def p_value(differences: Floats) -> float | None:
    """Two-sided p value of "no difference", from a paired difference in each resample (bootstrap,).

    Twice the share of resamples on the other side of 0 (those at 0 are on both), at most 1: small exactly where the percentile interval
    leaves 0 out. One is added to count and number, so that it is never 0: no p value is below 2 / (bootstrap + 1).
    Efron and Tibshirani, 1993, sections 15.4 and 16; the + 1: Davison and Hinkley, "Bootstrap Methods and their Application", 1997, 4.2.

    >>> p_value(np.array([0.1, 0.2, 0.3, -0.1, 0.2, 0.4, 0.1, 0.5, 0.2]))  # 2 * (1 + 1) / (9 + 1)
    0.4
    """
    known = differences[np.isfinite(differences)]
    if not len(known):
        return None
    other = min(int((known <= 0).sum()), int((known >= 0).sum()))
    return min(1.0, 2 * (other + 1) / (len(known) + 1))


def figure(value: float, samples: Floats, n: int) -> Figure:
    """One figure of its `samples` (bootstrap,); those that are not finite are left out."""
    return _figures([value], [samples], [n])[0]


def _of(tallies: Mapping[str, AnyTally], samples: Mapping[str, Floats], seed: int) -> dict[str, Figure]:
    """Each tally's figure, with the interval that the tally asks for."""
    found = _figures([t.total() for t in tallies.values()], list(samples.values()), [t.n for t in tallies.values()])
    return {name: _own(tallies[name], figure, samples[name], seed) for name, figure in zip(tallies, found, strict=True)}


def _own(tally: AnyTally, found: Figure, samples: Floats, seed: int) -> Figure:
    value, low, high = found["value"], found["low"], found["high"]
    if isinstance(tally, PairTally) or tally.interval is None or value is None or low is None or high is None:
        return found
    low, high = tally.interval(tally, Drawn(value, low, high, samples[np.isfinite(samples)], seed))
    return Figure(value=value, low=low, high=high, n=found["n"])


def _figures(values: Sequence[float], samples: Sequence[Floats], n: Sequence[int]) -> list[Figure]:
    if not values:
        return []
    low, high = _ends(np.stack(samples))
    known = np.isfinite(values) & np.isfinite(low)
    return [
        Figure(value=float(value), low=float(a), high=float(b), n=rows) if yes else Figure(value=None, low=None, high=None, n=rows)
        for value, a, b, rows, yes in zip(values, low, high, n, known, strict=True)
    ]


def _ends(samples: Floats) -> tuple[Floats, Floats]:
    """The quantiles of each line (m, bootstrap) that hold `LEVEL` between them, as np.quantile has them; NaN where none is finite."""
    ordered = np.sort(np.where(np.isfinite(samples), samples, np.nan), axis=1)  # NaN comes last
    known = (~np.isnan(ordered)).sum(axis=1)
    ends = []
    for share in ((1 - LEVEL) / 2, (1 + LEVEL) / 2):
        place = share * np.maximum(known - 1, 0)
        below = np.floor(place).astype(np.intp)
        above = np.minimum(below + 1, np.maximum(known - 1, 0))
        first, second = (np.take_along_axis(ordered, at[:, None], axis=1)[:, 0] for at in (below, above))
        ends.append(first + (second - first) * (place - below))
    return ends[0], ends[1]


def resample(tallies: Mapping[str, AnyTally], *, bootstrap: int, seed: int) -> dict[str, Floats]:
    """Each figure in each resample, (bootstrap,). NaN where a resample drew no row that counts."""
    if not tallies:
        return {}
    summed = {name: tally for name, tally in tallies.items() if isinstance(tally, Tally)}
    paired = {name: tally for name, tally in tallies.items() if isinstance(tally, PairTally)}
    columns = Columns.of([tally.columns for tally in summed.values()])
    sums: list[Floats] = []
    drawn: dict[str, list[Floats]] = {name: [] for name in paired}
    for weights in _weights(bootstrap, seed, len(next(iter(tallies.values())).counted)):
        sums.append(columns.sums(weights))
        for name, tally in paired.items():
            drawn[name].append(tally.drawn(weights))
    edges = np.cumsum([tally.columns.shape[1] for tally in summed.values()])[:-1]
    parts = dict(zip(summed, np.split(np.concatenate(sums, axis=1), edges), strict=True)) if summed else {}
    return {name: summed[name].value(parts[name].T) if name in summed else np.concatenate(drawn[name]) for name in tallies}


@dataclass(frozen=True, slots=True, eq=False)
class Columns:
    """Columns to be summed, in single precision: that takes half the time, and moves an end of an interval by about 1e-6 of its width.

    Whole numbers are kept as they are: sums of them are exact, and a 0 is a 0. Everything else is centred and scaled first, so that
    1000.5 give or take 0.1 keeps its digits. Metrics share many columns (who has a label, who is right): each is summed once.
    """

    distinct: Singles
    """(d, rows): a column is scale * distinct + offset."""
    scale: Floats
    """(d, 1)"""
    offset: Floats
    place: NDArray[np.intp]
    """(k,): which of them a column is."""

    @classmethod
    def of(cls, blocks: Sequence[Floats]) -> Columns:
        """(rows, any number) each."""
        found: dict[tuple[bytes, float, float], int] = {}
        kept: list[Singles] = []
        place = []
        for block in blocks:
            for column, scale, offset in zip(*_single(block), strict=True):
                at = found.setdefault((column.tobytes(), float(scale), float(offset)), len(found))
                if at == len(kept):
                    kept.append(column)
                place.append(at)
        distinct = np.stack(kept) if kept else np.zeros((0, 0), dtype=np.float32)
        scale, offset = (np.array([key[i] for key in found], dtype=float)[:, None] for i in (1, 2))
        return cls(distinct, scale, offset, np.array(place, dtype=np.intp))

    def sums(self, weights: Singles) -> Floats:
        """Of every resample: (rows, resamples) to (k, resamples)."""
        rows, resamples = weights.shape
        if not self.distinct.size:
            return np.zeros((len(self.place), resamples))
        drawn: Floats = (self.distinct @ weights).astype(float)
        drawn *= self.scale
        drawn += self.offset * rows  # the weights of a resample sum to the number of rows
        return drawn[self.place]


def _single(block: Floats) -> tuple[Singles, Floats, Floats]:
    """(rows, k) to (k, rows) in single precision, with the scale (k,) and the offset that lead back."""
    columns = np.array(block.T, order="C")  # a copy: of one row, or one column, the transpose is the very same memory
    rows = columns.shape[1]
    exact = (columns == np.rint(columns)).all(axis=1) & (np.abs(columns).max(axis=1, initial=0.0) * rows < EXACT)
    scale, offset = np.ones(len(columns)), np.zeros(len(columns))
    if not exact.all():
        rest = columns[~exact]
        middle = rest.mean(axis=1)
        rest -= middle[:, None]
        widest = np.abs(rest).max(axis=1)
        scale[~exact], offset[~exact] = np.where(widest > 0, widest, 1.0), middle
        columns[~exact] = rest / scale[~exact, None]
    return columns.astype(np.float32), scale, offset


def _weights(bootstrap: int, seed: int, rows: int) -> Iterator[Singles]:
    """How often each row was drawn, (rows, some of the resamples)."""
    random, step = np.random.default_rng(seed), max(1, CHUNK // max(1, rows))
    for start in range(0, bootstrap, step):
        size = min(step, bootstrap - start)
        weights = np.zeros((size, rows), dtype=np.float32)
        if rows:
            for line, drawn in zip(weights, random.integers(0, rows, size=(size, rows)), strict=True):
                line[:] = np.bincount(drawn, minlength=rows)
        yield np.ascontiguousarray(weights.T)
