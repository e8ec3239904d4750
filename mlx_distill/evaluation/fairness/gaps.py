"""The largest difference between several figures, with an interval that knows that it was picked as the largest.

    largest([differences(values, draws)])        Gap: value, low, high, and between which two

Of many groups two lie far apart by chance alone, so intervals pair by pair would promise too much. These hold for all pairs at once
(max-t bootstrap: Westfall and Young, "Resampling-based multiple testing", 1993, chapter 2; Tukey's idea for pairs of means): in 95 % of
the cases none of them misses its pair. Shares of few rows are pulled towards a half first, and never taken for certain (one row right and
one wrong is added: Agresti and Caffo, The American Statistician 54(4), 2000). It knows numbers; nothing of groups, fields or answers.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

from mlx_distill.evaluation.bootstrap import LEVEL
from mlx_distill.evaluation.tally import Floats

NORMAL = 1.959964
"""Standard errors to either side of a 95 % interval; what the resamples say is never less."""


@dataclass(frozen=True, slots=True, eq=False)
class Contrasts:
    """Differences that are looked at together, (p,) each; NaN: not known."""

    apart: Floats
    """As observed, signed."""
    centre: Floats
    """The middle of the interval."""
    draws: Floats | None
    """In each resample, (bootstrap, p); None: there are too few rows for resamples, and no interval."""
    least: Floats
    """A standard error that is not gone below."""
    pairs: NDArray[np.intp]
    """Between which two figures, (p, 2)."""
    most: float
    """What no difference can exceed."""


class Gap(TypedDict):
    value: float
    low: float | None
    high: float | None
    where: int
    """Which of the contrasts that were given holds the largest."""
    pair: tuple[int, int]
    """(larger, smaller) of its figures; of shares that two differ, in the order that they were given in."""


def differences(values: Floats, draws: Floats | None, trials: Floats | None = None) -> Contrasts:
    """Every figure of `values` (m,) against every other; `draws` (bootstrap, m). `trials`: the figures are shares of so many rows."""
    first, second = np.triu_indices(len(values), k=1)
    centre, least = _smoothed(values, trials)
    return Contrasts(
        values[first] - values[second],
        centre[first] - centre[second],
        None if draws is None else draws[:, first] - draws[:, second],
        np.hypot(least[first], least[second]),
        np.stack([first, second], axis=1),
        np.inf if trials is None else 1.0,
    )


def shares(values: Floats, draws: Floats | None, trials: Floats, pairs: NDArray[np.intp]) -> Contrasts:
    """Shares that are differences by themselves: how often the answers of a pair are not the same."""
    centre, least = _smoothed(values, trials)
    return Contrasts(values, centre, draws, least, pairs, 1.0)


def largest(sets: Sequence[Contrasts]) -> Gap | None:
    """The largest of all differences, without its sign. None where none is known."""
    sizes = [np.where(np.isnan(one.apart), -1.0, np.abs(one.apart)) for one in sets]
    if not any(size.size and size.max() >= 0 for size in sizes):
        return None
    where = max(range(len(sets)), key=lambda i: sizes[i].max(initial=-1.0))
    place = int(sizes[where].argmax())
    value, (first, second) = float(sizes[where][place]), sets[where].pairs[place]
    pair = (int(first), int(second)) if sets[where].apart[place] >= 0 else (int(second), int(first))
    low, high = _interval(sets, value)
    return Gap(value=value, low=low, high=high, where=where, pair=pair)


def widest(families: Iterable[Floats]) -> float:
    """The same without an interval: the largest difference within any of several families of figures; NaN where there is none.

    >>> widest([np.array([0.5, 0.25, np.nan]), np.array([0.5])])
    0.25
    """
    known = [family[~np.isnan(family)] for family in families]
    return float(max((np.ptp(family) for family in known if len(family) > 1), default=np.nan))


def _interval(sets: Sequence[Contrasts], value: float) -> tuple[float | None, float | None]:
    """From the largest lower end of all pairs to their largest upper end, all at once."""
    if any(one.draws is None for one in sets):
        return None, None
    errors = [_errors(one) for one in sets]
    reach = max(NORMAL, _reach(sets, errors))
    middles = np.concatenate([np.abs(one.centre) for one in sets])
    spread = reach * np.concatenate(errors)
    known = np.isfinite(middles) & np.isfinite(spread)
    if not known.any():
        return None, None
    low, high = (middles - spread)[known].max(), (middles + spread)[known].max()
    most = max(one.most for one in sets)
    return max(0.0, min(float(low), value)), max(min(float(high), most), value)


def _errors(one: Contrasts) -> Floats:
    """Standard errors of the differences, (p,)."""
    assert one.draws is not None
    known = np.isfinite(one.draws)
    mean = np.where(known, one.draws, 0.0).sum(axis=0) / np.maximum(known.sum(axis=0), 1)
    around = np.where(known, one.draws - mean, 0.0)
    spread: Floats = np.sqrt((around**2).sum(axis=0) / np.maximum(known.sum(axis=0) - 1, 1))
    return np.maximum(spread, one.least)


def _reach(sets: Sequence[Contrasts], errors: Sequence[Floats]) -> float:
    """So many standard errors hold every difference of 95 % of the resamples."""
    far = np.zeros(1)
    for one, error in zip(sets, errors, strict=True):
        assert one.draws is not None
        moved = np.abs(one.draws - one.apart) / np.where(error > 0, error, np.inf)
        far = np.maximum(far, np.where(np.isfinite(moved), moved, 0.0).max(axis=1, initial=0.0))
    return float(np.quantile(far, LEVEL))


def _smoothed(values: Floats, trials: Floats | None) -> tuple[Floats, Floats]:
    """(centre, least standard error): of shares with one row more of either kind, of other figures as they are."""
    if trials is None:
        return values, np.zeros(len(values))
    centre: Floats = (values * trials + 1) / (trials + 2)
    error: Floats = np.sqrt(centre * (1 - centre) / (trials + 2))
    return centre, error
