"""How far several raters agree on the same rows, beyond what chance would give: each figure as a tally.

    fleiss_kappa(ratings)   three and more, names    Fleiss, "Measuring Nominal Scale Agreement Among Many Raters", 1971
    alpha(ratings, ...)     any number, with gaps    Krippendorff, "Computing Krippendorff's Alpha-Reliability", 2011
    icc(ratings, ...)       scores                   Shrout and Fleiss, 1979; McGraw and Wong, 1996, whose names these are
    pairwise(ratings, ...)  as it stands             of names the share of pairs that agree, of scores their mean distance

`ratings` is (rows, raters): codes of names, or scores; NaN where a rater gave none. All but the last are 1 where all agree, 0 at chance
level, and NaN where all ratings are the same: then chance agrees as well, and nothing can be told.
It knows numbers; nothing of fields, students or reports.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from mlx_distill.evaluation.tally import Bools, Floats, Tally, mean, ratio


def fleiss_kappa(ratings: Floats) -> Tally:
    """Fleiss' κ over the rows that every rater rated: it asks for one number of ratings in all. Higher is better.

    >>> round(fleiss_kappa(np.array([[0, 0, 0], [1, 1, 1], [0, 0, 1]])).total(), 12)  # pairs agree in 7/9; by chance in (5² + 4²) / 9²
    0.55
    """
    whole, raters = _whole(ratings), ratings.shape[1]
    counts = _counts(ratings) * whole[:, None]
    agreeing = ((counts**2).sum(axis=1) - raters * whole) / max(1, raters * (raters - 1))

    def value(sums: Floats) -> Floats:
        n = sums[..., -1:]
        return _beyond(ratio(sums[..., 0], n[..., 0]), (ratio(sums[..., 1:-1], n * raters) ** 2).sum(axis=-1))

    return Tally(np.column_stack([agreeing, counts, whole]).astype(float), whole, value)


def alpha(ratings: Floats, *, names: bool) -> Tally:
    """Krippendorff's α over the rows with two ratings and more; `names`: nominal, else interval data. Higher is better.

    It is 1 − (disagreement within rows) / (disagreement of all ratings with all), disagreement being 1 of two names that differ, and of
    two scores their squared distance.

    >>> alpha(np.array([[0, 0], [1, 1], [0, 1], [0, np.nan]]), names=True).total()  # 1 - (6 - 1) * 2 / (6² - 3² - 3²)
    0.4444444444444444
    """
    given = ~np.isnan(ratings)
    counted = given.sum(axis=1) >= 2
    n = given.sum(axis=1) * counted
    if names:
        counts = _counts(ratings) * counted[:, None]
        within, parts = ratio(n**2 - (counts**2).sum(axis=1), n - 1), counts
    else:
        centred = np.where(given & counted[:, None], ratings - _centre(ratings), 0.0)
        parts = np.column_stack([centred.sum(axis=1), (centred**2).sum(axis=1)])
        within = ratio(2 * n * parts[:, 1] - 2 * parts[:, 0] ** 2, n - 1)

    def value(sums: Floats) -> Floats:
        total, rest = sums[..., -1], sums[..., 1:-1]
        apart = total**2 - (rest**2).sum(axis=-1) if names else 2 * total * rest[..., 1] - 2 * rest[..., 0] ** 2
        return np.asarray(1 - ratio((total - 1) * sums[..., 0], apart))

    return Tally(np.column_stack([np.nan_to_num(within), parts, n]).astype(float), counted, value)


def icc(ratings: Floats, kind: str) -> Tally:
    """Intraclass correlation over the rows that every rater rated: the share of the variance that is the rows' own. Higher is better.

    `kind`: A1, absolute agreement of one rater with another, Shrout and Fleiss' ICC(2,1); C1, their consistency, which forgives a rater who
    is always a point higher, ICC(3,1); Ak, absolute agreement of the mean of all raters, ICC(2,k).

    >>> table = np.array([[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]])  # Shrout and Fleiss
    >>> [round(icc(table, kind).total(), 2) for kind in ("A1", "C1", "Ak")]
    [0.29, 0.71, 0.62]
    """
    whole, k = _whole(ratings), ratings.shape[1]
    scores = np.where(whole[:, None], ratings - _centre(ratings), 0.0)

    def value(sums: Floats) -> Floats:
        n, grand = sums[..., -1], sums[..., 2:-1].sum(axis=-1)
        base = ratio(grand**2, n * k)
        between, raters = sums[..., 0] / k - base, ratio((sums[..., 2:-1] ** 2).sum(axis=-1), n) - base
        rows, columns = ratio(between, n - 1), raters / (k - 1)
        error = ratio(np.maximum(sums[..., 1] - base - between - raters, 0.0), (n - 1) * (k - 1))
        return _ICC[kind](rows, columns, error, n, k)

    own = scores.sum(axis=1)
    return Tally(np.column_stack([own**2, (scores**2).sum(axis=1), scores, whole]).astype(float), whole, value)


def pairwise(ratings: Floats, *, names: bool) -> Tally:
    """The mean over rows of what two raters of a row have in common: the share of pairs that agree, or of scores their mean distance.

    >>> pairwise(np.array([[0, 0, 1], [1, 1, np.nan]]), names=True).total()  # 1 of 3 pairs, and 1 of 1
    0.6666666666666666
    >>> pairwise(np.array([[4, 6, 7]]), names=False).total()  # 2, 3 and 1 apart
    2.0
    """
    given = ~np.isnan(ratings)
    first, second = np.triu_indices(ratings.shape[1], 1)
    both = given[:, first] & given[:, second]
    gaps = np.abs(np.where(both, ratings[:, first] - ratings[:, second], 0.0))
    shared = (both & (gaps == 0)) if names else gaps
    return mean(np.nan_to_num(ratio(shared.sum(axis=1), both.sum(axis=1))), both.any(axis=1))


_ICC: dict[str, Callable[[Floats, Floats, Floats, Floats, int], Floats]] = {
    "A1": lambda rows, columns, error, n, k: ratio(rows - error, rows + (k - 1) * error + k * ratio(columns - error, n)),
    "C1": lambda rows, columns, error, n, k: ratio(rows - error, rows + (k - 1) * error),
    "Ak": lambda rows, columns, error, n, k: ratio(rows - error, rows + ratio(columns - error, n)),
}
"""From the mean squares between rows, between raters and of the rest (McGraw and Wong, table 4, two-way)."""


def _beyond(seen: Floats, chance: Floats) -> Floats:
    """Agreement beyond chance, of all that there could be beyond it."""
    return ratio(seen - chance, np.where(1 - chance > 1e-12, 1 - chance, 0.0))


def _centre(ratings: Floats) -> float:
    """What to take off every score: figures stay the same, and sums of squares keep their digits."""
    return float(np.nanmean(ratings)) if (~np.isnan(ratings)).any() else 0.0


def _whole(ratings: Floats) -> Bools:
    """The rows that every rater rated."""
    return np.asarray((~np.isnan(ratings)).all(axis=1))


def _size(codes: Floats) -> int:
    known = codes[~np.isnan(codes)]
    return 1 + int(known.max(initial=0))


def _counts(ratings: Floats) -> Floats:
    """How many raters gave each code, (rows, codes)."""
    size = _size(ratings)
    return np.asarray(sum((_one_hot(column, ~np.isnan(column), size) for column in ratings.T), np.zeros((len(ratings), size))))


def _one_hot(codes: Floats, kept: Bools, size: int) -> Floats:
    """(rows, size), all 0 in a row that is not kept."""
    return np.asarray(np.where(kept, codes, -1)[:, None] == np.arange(size)[None, :], dtype=float)
