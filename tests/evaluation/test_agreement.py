"""Agreement of several raters: published tables, hand-worked ones, and scikit-learn."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from mlx_distill.evaluation import bootstrap as boot
from mlx_distill.evaluation.agreement import alpha, fleiss_kappa, icc, pairwise
from mlx_distill.evaluation.tally import Floats, Tally

NONE = float("nan")

DIAGNOSES = """
00060 03003 01401 00006 03030 20400 00402 20310 20040 00006 10050 11040 03300 10050 02031
00501 30012 51000 02040 10203 00006 01050 02013 20040 10041 05010 40002 02040 10500 00006
"""
"""Fleiss 1971, table 1: 30 patients, 6 psychiatrists, 5 diagnoses; how many chose each."""

FOURTEEN = [
    (0, 0, 0, 0, 14), (0, 2, 6, 4, 2), (0, 0, 3, 5, 6), (0, 3, 9, 2, 0), (2, 2, 8, 1, 1),
    (7, 7, 0, 0, 0), (3, 2, 6, 3, 0), (2, 5, 3, 2, 2), (6, 5, 2, 1, 0), (0, 2, 2, 3, 7),
]  # fmt: skip
"""The worked example of Wikipedia's article on Fleiss' kappa: 10 subjects, 14 raters, 5 categories."""

JUDGES = np.array([[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]], dtype=float)
"""Shrout and Fleiss 1979, table 2: 6 targets, 4 judges."""

OBSERVERS = np.array(
    [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, NONE, NONE, NONE],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, NONE, 3],
        [NONE, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, NONE],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, NONE],
    ]
).T
"""Krippendorff 2011, "Computing Krippendorff's Alpha-Reliability", section C: 12 units, 4 observers, with gaps."""


def expanded(table: Sequence[Sequence[int]]) -> Floats:
    """(subjects, categories) of counts as (subjects, raters) of codes."""
    return np.array([[code for code, n in enumerate(row) for _ in range(n)] for row in table], dtype=float)


def test_fleiss_kappa_is_that_of_his_own_table() -> None:
    table = [[int(digit) for digit in patient] for patient in DIAGNOSES.split()]
    assert np.sum(table, axis=0).tolist() == [26, 26, 30, 55, 43]
    assert fleiss_kappa(expanded(table)).total() == pytest.approx(0.430, abs=5e-4)


def test_fleiss_kappa_is_that_of_fourteen_raters() -> None:
    assert fleiss_kappa(expanded(FOURTEEN)).total() == pytest.approx(0.210, abs=5e-4)
    assert pairwise(expanded(FOURTEEN), names=True).total() == pytest.approx(0.378, abs=5e-4)


@pytest.mark.parametrize(("kind", "published"), [("A1", 0.29), ("C1", 0.71), ("Ak", 0.62)])
def test_intraclass_correlations_are_those_of_shrout_and_fleiss(kind: str, published: float) -> None:
    assert icc(JUDGES, kind).total() == pytest.approx(published, abs=5e-3)


@pytest.mark.parametrize(("names", "published"), [(True, 0.743), (False, 0.849)])
def test_alpha_is_krippendorffs(names: bool, published: float) -> None:
    found = alpha(OBSERVERS, names=names)
    assert found.total() == pytest.approx(published, abs=5e-4)
    assert found.n == 11, "the unit that one observer alone rated says nothing"


def test_consistency_forgives_a_rater_who_is_always_higher_and_agreement_does_not() -> None:
    shifted = np.stack([np.arange(8.0), np.arange(8.0) + 3], axis=1)
    assert icc(shifted, "C1").total() == pytest.approx(1)
    # mean squares: rows 12, raters 36, rest 0; 12 / (12 + 2 * 36 / 8)
    assert icc(shifted, "A1").total() == pytest.approx(12 / 21)
    assert icc(shifted, "Ak").total() == pytest.approx(12 / 16.5)


def test_scores_of_any_height_have_the_same_correlation() -> None:
    assert icc(JUDGES + 1e6, "A1").total() == pytest.approx(icc(JUDGES, "A1").total())
    assert alpha(OBSERVERS + 1e6, names=False).total() == pytest.approx(alpha(OBSERVERS, names=False).total())


def test_two_raters_alpha_comes_near_their_kappa_and_pairwise_is_their_accuracy() -> None:
    from sklearn.metrics import accuracy_score, cohen_kappa_score

    random = np.random.default_rng(0)
    first = random.integers(0, 3, 5000)
    second = np.where(random.random(5000) < 0.7, first, random.integers(0, 3, 5000))
    ratings = np.stack([first, second], axis=1).astype(float)
    assert pairwise(ratings, names=True).total() == pytest.approx(accuracy_score(first, second))
    assert alpha(ratings, names=True).total() == pytest.approx(cohen_kappa_score(first, second), abs=1e-3)
    assert fleiss_kappa(ratings).total() == pytest.approx(alpha(ratings, names=True).total(), abs=1e-3)


def test_whom_everybody_rates_alike_tells_nothing_about_agreement() -> None:
    same = np.ones((5, 3))
    for found in (fleiss_kappa(same), alpha(same, names=True), alpha(same, names=False), icc(same, "A1")):
        assert np.isnan(found.total())
    assert pairwise(same, names=True).total() == 1


def test_only_rows_with_every_rating_count_for_what_asks_for_a_whole_table() -> None:
    gaps = np.vstack([JUDGES, [1, NONE, 9, 3]])
    assert icc(gaps, "A1").total() == pytest.approx(icc(JUDGES, "A1").total())
    assert icc(gaps, "A1").n == 6
    holes = np.vstack([expanded(FOURTEEN), [NONE] + [4.0] * 13])
    assert fleiss_kappa(holes).total() == pytest.approx(fleiss_kappa(expanded(FOURTEEN)).total())
    assert pairwise(gaps, names=False).n == 7


@pytest.mark.parametrize("what", ["fleiss", "alpha", "interval", "A1", "C1", "Ak"])
def test_a_resample_is_the_figure_of_the_rows_that_were_drawn(what: str) -> None:
    random = np.random.default_rng(1)
    ratings = random.integers(0, 4, (40, 3)).astype(float)
    ratings[:, 1] = np.where(random.random(40) < 0.6, ratings[:, 0], ratings[:, 1])

    def figure(rows: Floats) -> Tally:
        names = {"fleiss": fleiss_kappa, "alpha": lambda r: alpha(r, names=True), "interval": lambda r: alpha(r, names=False)}
        return names[what](rows) if what in names else icc(rows, what)

    drawn = boot.resample({"x": figure(ratings)}, bootstrap=100, seed=3)["x"]
    weights = np.random.default_rng(3)
    expected = [figure(ratings[weights.integers(0, 40, size=40)]).total() for _ in range(100)]
    assert drawn == pytest.approx(expected, abs=1e-4)
