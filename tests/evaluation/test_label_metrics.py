"""Metrics of choices, flags and confidences against scikit-learn, published examples, and values worked out by hand."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.calibration import calibration_curve
from sklearn.metrics import cohen_kappa_score
from sklearn.preprocessing import label_binarize

from mlx_distill.evaluation.judge import Judged, lay_out, measure
from mlx_distill.evaluation.metrics.brier import brier
from mlx_distill.evaluation.metrics.cohen_kappa import cohen_kappa
from mlx_distill.evaluation.metrics.ece_mass import bin_of, ece_mass
from mlx_distill.recipe.schema import FieldSpec

FIELDS = {"kind": FieldSpec(kind="choice", choices=("a", "b", "c")), "urgent": FieldSpec(kind="flag")}


def totals(rows):
    return {name: (tally.total(), tally.n) for name, tally in measure(lay_out(rows, FIELDS)).items()}


def row(reference, answer, **more):
    return Judged(id="r", split="test", reference=reference, answer=answer, **more)


def paired(table):
    """Rows of a table of counts: (judge's, student's)."""
    cells = [(i, j) for i, line in enumerate(table) for j, count in enumerate(line) for _ in range(count)]
    return [i for i, _ in cells], [j for _, j in cells]


labels = st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from("abcd")), min_size=1, max_size=40)


@given(labels)
def test_cohens_kappa_is_that_of_scikit_learn(pairs):
    reference, answer = zip(*pairs, strict=True)
    if len({*reference, *answer}) > 1:
        assert cohen_kappa(reference, answer) == pytest.approx(cohen_kappa_score(reference, answer), abs=1e-12)
    else:
        assert math.isnan(cohen_kappa(reference, answer))


def test_cohens_kappa_of_cohens_own_example():
    # Cohen, 1960, table 1, as percents: observed 0.29, by chance 0.35
    assert cohen_kappa(*paired([[25, 13, 12], [12, 2, 16], [3, 15, 2]])) == pytest.approx((0.29 - 0.35) / 0.65)


def test_an_unanswered_row_is_a_disagreement_of_cohens_kappa():
    reference, answer = list("aabbcc"), ["a", None, "b", "b", None, "c"]
    expected = cohen_kappa_score(reference, [value or "none" for value in answer])
    assert cohen_kappa(reference, answer) == pytest.approx(expected)
    assert cohen_kappa([None, None, *reference], ["a", None, *answer]) == pytest.approx(expected), "no label does not count"


@given(st.lists(st.tuples(st.integers(0, 2), st.tuples(*[st.integers(1, 9)] * 3)), min_size=1, max_size=20))
def test_brier_is_the_squared_distance_of_the_distribution_from_the_label(rows):
    reference = [label for label, _ in rows]
    given = np.array([counts for _, counts in rows], dtype=float)
    given /= given.sum(axis=1, keepdims=True)
    said = label_binarize(reference, classes=[0, 1, 2])
    assert brier(reference, given.tolist()) == pytest.approx(((given - said) ** 2).sum(axis=1).mean())


def test_brier_goes_from_0_to_2_and_of_a_flag_is_twice_the_score_of_one_value():
    assert brier([0], [[1.0, 0.0]]) == 0.0
    assert brier([0], [[0.0, 1.0]]) == 2.0
    found = totals([row({"urgent": True}, {"urgent": True}, probabilities={"urgent": [0.3, 0.7]})])
    assert found["brier.urgent"] == (pytest.approx(2 * 0.3**2), 1)


def test_brier_counts_rows_with_a_label_and_a_distribution_in_the_recipes_order():
    rows = [
        row({"kind": "c"}, {"kind": "a"}, probabilities={"kind": [0.5, 0.25, 0.25]}),
        row({"kind": "volcano"}, {"kind": "a"}, probabilities={"kind": [1.0, 0.0, 0.0]}),
        row({}, {"kind": "a"}, probabilities={"kind": [1.0, 0.0, 0.0]}),
        row({"kind": "c"}, {"kind": "c"}),
    ]
    # 0.25 + 0.0625 + 0.5625; a label that the field does not know had no probability: 1 + 1
    assert totals(rows)["brier.kind"] == (pytest.approx((0.875 + 2.0) / 2), 2)


sure = st.lists(st.tuples(st.integers(0, 100).map(lambda percent: percent / 100), st.booleans()), min_size=3, max_size=80)


@settings(deadline=None)
@given(sure.filter(lambda rows: len({hit for _, hit in rows}) == 2))
def test_bins_of_equal_mass_are_those_of_scikit_learn(rows):
    confidence, right = (np.array(side) for side in zip(*rows, strict=True))
    share, said = calibration_curve(right, confidence, n_bins=10, strategy="quantile")
    member = bin_of(confidence, np.ones(len(rows), dtype=bool))
    n = np.bincount(member)[np.unique(member)]
    assert ece_mass(confidence, right) == pytest.approx((n * np.abs(share - said)).sum() / n.sum(), abs=1e-12)


def test_ece_of_equal_mass_by_hand():
    # twenty rows, two a bin; confidences 0.81, 0.82 ... 1.00, the surer half right: each pair's mean is its gap to 0 or 1
    confidence = [0.805 + 0.01 * i for i in range(20)]
    right = [i >= 10 for i in range(20)]
    gaps = [np.mean(confidence[i : i + 2]) - (i >= 10) for i in range(0, 20, 2)]
    assert ece_mass(confidence, right) == pytest.approx(np.mean(np.abs(gaps)))
    assert bin_of(np.array(confidence), np.ones(20, dtype=bool)).tolist() == [i // 2 for i in range(20)]


def test_equal_confidences_share_a_bin_whatever_their_order():
    confidence, right = [0.9] * 15 + [0.6] * 5, [True] * 5 + [False] * 10 + [True] * 5
    assert ece_mass(confidence, right) == pytest.approx((15 * (0.9 - 1 / 3) + 5 * 0.4) / 20)
    assert ece_mass(confidence[::-1], right[::-1]) == pytest.approx(ece_mass(confidence, right))


def test_bins_are_those_of_the_rows_that_count():
    given = [(0.5 + 0.02 * i, i % 3 > 0) for i in range(20)]
    counted = [row({"kind": "a"}, {"kind": "a" if hit else "b"}, confidence={"kind": sure}) for sure, hit in given]
    others = [row({}, {"kind": "a"}, confidence={"kind": 0.01}), row({"kind": "a"}, None), row({"kind": "a"}, {"kind": "a"})] * 9
    assert totals([*others, *counted])["ece_mass.kind"] == (pytest.approx(ece_mass(*zip(*given, strict=True))), 20)


def test_a_field_has_a_loss_of_its_own():
    rows = [
        row({"kind": "a"}, None, nll=6.0, nll_tokens=4, nll_fields={"kind": (3.0, 2.0), "urgent": (1.0, 1.0)}),
        row({"kind": "a"}, None, nll=2.0, nll_tokens=4, nll_fields={"kind": (1.0, 2.0)}),
        row({"kind": "a"}, None),
    ]
    found = totals(rows)
    assert found["nll.kind"] == (1.0, 2)
    assert found["nll.urgent"] == (1.0, 1)
    assert found["perplexity.kind"] == (pytest.approx(math.e), 2)
    assert found["nll"] == (1.0, 2)
