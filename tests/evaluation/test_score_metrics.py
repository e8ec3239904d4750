"""Metrics of scores against scikit-learn and scipy, and against values worked out by hand."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr
from sklearn.metrics import cohen_kappa_score, mean_squared_error

from mlx_distill.evaluation.judge import Judged, lay_out, measure
from mlx_distill.evaluation.metrics import nearest_step
from mlx_distill.evaluation.metrics.bias import bias
from mlx_distill.evaluation.metrics.crps import crps, scores
from mlx_distill.evaluation.metrics.kappa import kappa
from mlx_distill.evaluation.metrics.rmse import rmse
from mlx_distill.evaluation.metrics.spearman import spearman
from mlx_distill.recipe.schema import FieldSpec

RISK = {"risk": FieldSpec(kind="score")}
steps = st.lists(st.tuples(st.integers(0, 10), st.integers(0, 10)), min_size=2, max_size=40)


def sheet(pairs, fields=RISK, **more):
    rows = [
        Judged(id=str(i), split="test", reference={} if a is None else {"risk": a}, answer=None if b is None else {"risk": b}, **more)
        for i, (a, b) in enumerate(pairs)
    ]
    return lay_out(rows, fields)


def totals(pairs, fields=RISK, **more):
    return {name: (tally.total(), tally.n) for name, tally in measure(sheet(pairs, fields, **more)).items()}


@given(st.lists(st.tuples(st.floats(-1e3, 1e3), st.floats(-1e3, 1e3)), min_size=1, max_size=30))
def test_rmse_is_that_of_scikit_learn_and_bias_is_the_difference_of_the_means(pairs):
    reference, answer = zip(*pairs, strict=True)
    assert rmse(reference, answer) == pytest.approx(math.sqrt(mean_squared_error(reference, answer)), abs=1e-9)
    assert bias(reference, answer) == pytest.approx(np.mean(answer) - np.mean(reference), abs=1e-9)


@settings(deadline=None)
@given(steps)
def test_spearman_is_that_of_scipy_ties_and_all(pairs):
    reference, answer = zip(*pairs, strict=True)
    if len(set(reference)) > 1 and len(set(answer)) > 1:
        assert spearman(reference, answer) == pytest.approx(spearmanr(reference, answer).statistic, abs=1e-12)
    else:
        assert math.isnan(spearman(reference, answer))


def test_spearman_of_numbers_without_ties_is_that_of_scipy():
    x, y = np.random.default_rng(3).normal(size=(2, 500))
    y += x
    assert spearman(x.tolist(), y.tolist()) == pytest.approx(spearmanr(x, y).statistic, abs=1e-12)
    assert spearman([1, 2, 3], [10, 20, 30]) == 1.0
    assert spearman([1, 2, 3], [3, 2, 1]) == -1.0


def test_spearman_with_ties_by_hand():
    # ranks 1 2.5 2.5 4 and 1.5 1.5 3 4: sums of squares about 2.5 are 4.5 and 4.5, of products 4.25 - 0.5 + 0.5 ...
    # (-1.5)(-1) + 0(-1) + 0(0.5) + 1.5(1.5) = 3.75; 3.75 / 4.5
    assert spearman([1, 2, 2, 3], [5, 5, 6, 7]) == pytest.approx(3.75 / 4.5)


@given(steps)
def test_weighted_kappa_is_that_of_scikit_learn_over_all_steps(pairs):
    reference, answer = zip(*pairs, strict=True)
    if len({*reference, *answer}) > 1:
        expected = cohen_kappa_score(reference, answer, weights="quadratic", labels=range(11))
        assert kappa(reference, answer) == pytest.approx(expected, abs=1e-12)
    else:
        assert math.isnan(kappa(reference, answer))


def test_weighted_kappa_by_hand():
    # judge   0 0 1 1 2 2 2 2        table  2 0 0      squared distances, observed: 1 + 4 = 5 of 8 rows
    # student 0 0 1 2 2 2 2 0               0 1 1      by chance: sum over cells of (i - j)² * row * column / 8
    #                                       1 0 3      = (1*2*1 + 4*2*4 + 1*2*3 + 1*2*4 + 4*4*3 + 1*4*1) / 8 = 100 / 8
    assert kappa([0, 0, 1, 1, 2, 2, 2, 2], [0, 0, 1, 2, 2, 2, 2, 0]) == pytest.approx(1 - 5 / 12.5)


def test_a_step_is_as_far_as_it_is_though_those_between_never_occur():
    assert kappa([0, 0, 10, 10], [0, 10, 10, 10]) == pytest.approx(0.5)
    wide, near = ([0, 0, 1, 10], [0, 1, 1, 10]), ([0, 0, 1, 2], [0, 1, 1, 2])
    assert kappa(*wide) > kappa(*near)


def test_weighted_kappa_takes_scores_at_their_nearest_step_and_rows_with_both():
    found = totals([(4.4, 4), (4.5, 5), (7.6, 8), (3, None), (None, 5)])
    assert found["kappa.risk"] == (1.0, 3)
    assert found["exact.risk"] == (0.75, 4)
    halves = {"risk": FieldSpec(kind="score", min=1000, max=1001, step=0.1)}
    values = [(1000.5, 1000.4), (1000.6, 1000.6), (1000.4, 1000.4), (1000.5, 1000.7)]
    expected = cohen_kappa_score([5, 6, 4, 5], [4, 6, 4, 7], weights="quadratic", labels=range(11))
    assert totals(values, halves)["kappa.risk"][0] == pytest.approx(expected)


def test_steps_are_counted_from_the_lowest_and_ends_hold():
    steps = np.array([-1.0, -0.5, 0.0, 0.5, 1.0])
    assert nearest_step(np.array([-3.0, -0.76, -0.75, 0.24, 0.25, 9.0]), steps).tolist() == [0, 0, 1, 2, 3, 4]
    tenths = np.round(np.arange(11) * 0.1, 1)
    assert nearest_step(np.array([0.15, 0.35, 0.1499]), tenths).tolist() == [2, 4, 1], "0.15 / 0.1 is less than 1.5 to a computer"
    thirds = np.round(np.arange(1001) / 3000, 6)
    assert nearest_step(thirds, thirds).tolist() == list(range(1001)), "values are rounded, their distance is not"


distributions = st.lists(st.integers(0, 9), min_size=4, max_size=4).filter(any).map(lambda counts: np.array(counts) / sum(counts))


@given(distributions, st.floats(-1, 12))
def test_crps_is_the_expected_distance_less_half_the_expected_spread(shares, reference):
    values = np.array([0.0, 2.5, 5.0, 7.5])  # Gneiting and Raftery, 2007, equation 21
    expected = np.abs(values - reference) @ shares - np.abs(np.subtract.outer(values, values)) @ shares @ shares / 2
    assert crps([reference], values.tolist(), [shares.tolist()]) == pytest.approx(expected, abs=1e-12)


def test_crps_by_hand_between_two_steps():
    # F is 0.25 from 1 to 2, 0.75 from 2 to 3; the judge's 2.4: 0.25² * 1 + 0.75² * 0.4 + 0.25² * 0.6
    assert crps([2.4], [1, 2, 3], [[0.25, 0.5, 0.25]]) == pytest.approx(0.0625 + 0.225 + 0.0375)


def test_crps_of_many_values_is_worked_out_block_by_block(monkeypatch):
    random = np.random.default_rng(0)
    reference, values, shares = random.uniform(0, 4, size=50), np.arange(5.0), random.dirichlet(np.ones(5), size=50)
    whole = scores(reference, values, shares)
    monkeypatch.setattr("mlx_distill.evaluation.metrics.crps.AT_ONCE", 17)
    assert scores(reference, values, shares).tolist() == whole.tolist()


def test_crps_of_a_certain_student_is_its_absolute_error():
    certain = [0.0] * 11
    certain[4] = 1.0
    found = totals([(6.3, 4), (4, 4)], probabilities={"risk": certain})
    assert found["crps.risk"] == (pytest.approx(2.3 / 2), 2)
    assert found["crps.risk"][0] == pytest.approx(found["mae.risk"][0])


def test_crps_counts_rows_with_a_label_and_a_distribution():
    found = totals([(4, 4), (None, 4)], probabilities={"risk": [1 / 11] * 11})
    assert found["crps.risk"][1] == 1
    assert "crps.risk" not in totals([(4, 4)])
    assert "crps.risk" not in totals([(4, 4)], probabilities={"risk": [0.5, 0.5]})


def test_crps_does_not_count_a_row_without_an_answer_whatever_its_distribution():
    certain = [0.0] * 11
    certain[10] = 1.0
    found = totals([(10, 10), (0, None)], probabilities={"risk": certain})
    assert found["crps.risk"] == (0.0, 1)
    assert found["mae.risk"] == (0.0, 1)


def test_a_field_of_which_no_row_has_a_distribution_takes_no_room_for_one():
    assert sheet([(4, 4)] * 3).fields["risk"].probabilities.shape == (3, 0)


def test_errors_use_the_judges_own_number_and_leave_out_rows_without_an_answer():
    found = totals([(4.4, 4), (6.2, 8), (3, None)])
    assert found["rmse.risk"] == (pytest.approx(math.sqrt((0.16 + 3.24) / 2)), 2)
    assert found["bias.risk"] == (pytest.approx((-0.4 + 1.8) / 2), 2)
    assert found["spearman.risk"] == (pytest.approx(1.0), 2)
