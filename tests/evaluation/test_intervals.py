"""Intervals of figures for which a bootstrap's percentiles are not one: shares, and calibration errors."""

import numpy as np
import pytest

from mlx_distill.evaluation import bootstrap as boot
from mlx_distill.evaluation.judge import Judged, against, judge
from mlx_distill.evaluation.metrics import Drawn, ece, ece_mass, mean, mean_of_shares, share
from mlx_distill.evaluation.shares import wilson
from mlx_distill.recipe.schema import FieldSpec

KIND = {"kind": FieldSpec(kind="choice", choices=["a", "b"])}
ERRORS = (ece, ece_mass)


def ends(tally, bootstrap=200, seed=0):
    figure = boot.figures({"it": tally}, bootstrap=bootstrap, seed=seed)["it"]
    return figure["low"], figure["high"]


def of(hits, n, counted=None):
    return share(np.arange(n) < hits, np.ones(n, dtype=bool) if counted is None else counted)


def answered(given, n=10, **more):
    return [Judged(id=f"{i:03}", split="test", reference={"kind": "a"}, answer={"kind": given}, **more) for i in range(n)]


@pytest.mark.parametrize("hits", [0, 10])
def test_a_share_of_none_or_all_has_wilsons_interval(hits):
    assert ends(of(hits, 10)) == pytest.approx(wilson(hits, 10))


@pytest.mark.parametrize("hits", [5, 35])
def test_a_share_has_the_hull_of_both_intervals(hits):
    plain = mean(np.arange(40) < hits, np.ones(40, dtype=bool))
    drawn, closed = ends(plain), wilson(hits, 40)
    assert ends(of(hits, 40)) == pytest.approx((min(drawn[0], closed[0]), max(drawn[1], closed[1])))
    assert (drawn[0] < closed[0]) == (hits == 5), "each interval reaches further on one side"


def test_wilson_counts_only_the_rows_that_count():
    counted = np.arange(40) < 10
    assert ends(of(10, 40, counted))[0] == pytest.approx(wilson(10, 10)[0])


def test_the_interval_of_a_share_that_is_nearly_all_holds_the_true_one():
    random = np.random.default_rng(3)
    held = [low <= 0.97 <= high for low, high in (ends(of(random.binomial(30, 0.97), 30), seed=i) for i in range(300))]
    assert np.mean(held) >= 0.93, "0.58 by percentiles alone"


def test_every_share_of_a_judged_task_has_a_width_and_so_has_each_slice():
    found = judge(answered("a", slices={"lang": "el"}), KIND, bootstrap=100, slices=["lang"])
    for metrics in (found["metrics"], found["slices"]["lang"][0]["metrics"]):
        for name in ("accuracy", "accuracy.kind", "exact_match", "valid_json"):
            assert (metrics[name]["low"], metrics[name]["high"]) == pytest.approx(wilson(10, 10)), name


def test_shares_of_scores_overalls_tiers_and_texts_have_a_width_too():
    fields = {"risk": FieldSpec(kind="score", weight=1.0), "why": FieldSpec(kind="text")}
    value = {"risk": 3, "why": "smoke"}
    same = {"reference_overall": 3.0, "overall": 3.0, "reference_tier": "low", "tier": "low"}
    rows = [Judged(id=str(i), split="test", reference=value, answer=value, **same) for i in range(10)]
    found = judge(rows, fields, bootstrap=100, tiers=["low", "high"])["metrics"]
    full = ("exact.risk", "tier_agreement", "tier_adjacent", "overall_within_0.5", "overall_within_1.0", "accuracy")
    assert [found[name]["low"] for name in full] == pytest.approx([wilson(10, 10)[0]] * len(full))
    assert found["empty.why"]["high"] == pytest.approx(wilson(0, 10)[1])


def test_anothers_shares_have_a_width_and_a_difference_is_of_the_resamples():
    found = against(answered("a"), answered("b"), KIND, bootstrap=100)
    assert found["metrics"]["accuracy.kind"]["high"] == pytest.approx(wilson(0, 10)[1])
    assert (found["difference"]["accuracy.kind"]["low"], found["difference"]["accuracy.kind"]["high"]) == (1.0, 1.0)


def test_a_mean_of_one_share_is_that_share():
    assert ends(mean_of_shares([of(9, 10)])) == pytest.approx(ends(of(9, 10)))


def test_shares_that_are_all_right_together_are_as_uncertain_as_one_and_those_of_other_rows_less():
    same = ends(mean_of_shares([of(10, 10)] * 4))
    assert same == pytest.approx(wilson(10, 10))
    halves = [of(20, 20, np.arange(20) // 10 == half) for half in (0, 1)]
    # two distances d of unrelated shares: sqrt(d² + d²) / 2
    assert 1 - ends(mean_of_shares(halves))[0] == pytest.approx((1 - wilson(10, 10)[0]) / np.sqrt(2))


def test_unrelated_shares_have_a_narrower_mean_than_equal_ones():
    random = np.random.default_rng(0)
    hits, one = random.random((9, 400)) < 0.8, np.ones(400, dtype=bool)
    own = [share(line, one) for line in hits]
    alone, mixed, equal = (np.ptp(ends(tally)) for tally in (own[0], mean_of_shares(own), mean_of_shares([own[0]] * 9)))
    assert mixed == pytest.approx(alone / 3, rel=0.15)
    assert equal == pytest.approx(alone)


def test_a_field_without_rows_does_not_count_for_the_mean_of_shares():
    assert ends(mean_of_shares([of(10, 10), of(0, 10, np.zeros(10, dtype=bool))])) == pytest.approx(wilson(10, 10))


def students(n, times, off, seed=1):
    """Confidences, `off` more than what is true, and who was right."""
    random = np.random.default_rng(seed)
    for _ in range(times):
        true = random.beta(6, 1.2, n) * 0.5 + 0.5
        yield np.clip(true + off, 0, 1), random.random(n) < true


def errors(module, n, times, off):
    for i, (said, right) in enumerate(students(n, times, off)):
        yield boot.figures({"it": module.tally(said, right, np.ones(n, dtype=bool))}, bootstrap=200, seed=i)["it"]


@pytest.mark.parametrize("module", ERRORS)
@pytest.mark.parametrize("n", [100, 300])
def test_a_calibrated_student_may_have_a_calibration_error_of_none(module, n):
    held = [figure["low"] == 0.0 for figure in errors(module, n, 80, 0.0)]
    assert np.mean(held) >= 0.9, "never, by percentiles"


@pytest.mark.parametrize("module", ERRORS)
@pytest.mark.parametrize("n", [100, 300])
def test_the_interval_of_a_student_that_is_too_sure_holds_its_error(module, n):
    truth = module.tally(*next(students(400_000, 1, 0.08)), np.ones(400_000, dtype=bool)).total()
    held = [figure["low"] <= truth <= figure["high"] for figure in errors(module, n, 80, 0.08)]
    assert np.mean(held) >= 0.85


@pytest.mark.parametrize("module", ERRORS)
def test_a_calibration_error_lies_in_its_own_interval_and_a_clear_one_excludes_none(module):
    assert all(figure["low"] <= figure["value"] <= figure["high"] for figure in errors(module, 30, 40, 0.0))
    assert all(0 < figure["low"] <= figure["value"] <= figure["high"] for figure in errors(module, 1000, 5, 0.15))


@pytest.mark.parametrize("module", ERRORS)
def test_a_slice_has_the_calibration_interval_of_its_own_rows(module):
    said, right = next(students(300, 1, 0.05))
    rows, every = np.arange(0, 300, 3), np.ones(300, dtype=bool)
    assert ends(module.tally(said, right, every).take(rows)) == ends(module.tally(said[rows], right[rows], every[rows]))


def test_a_clear_calibration_error_is_corrected_for_chance_twice_by_hand():
    sure = np.full(400, 0.95)  # a calibrated student's error is about 0.01
    drawn = Drawn(value=0.20, low=0.15, high=0.19, samples=np.array([0.20, 0.21, 0.22]), seed=0)
    tally = ece.tally(sure, sure > 1, sure > 0)
    assert ece.around(sure, ece.bin_of(sure), tally, drawn) == pytest.approx((0.15 - 2 * 0.01, 0.20))


def test_unlike_confidences_of_one_bin_are_not_drawn_as_their_mean():
    said = np.repeat([0.52, 0.99], 200)
    spread = np.sqrt((0.52 * 0.48 + 0.99 * 0.01) / 2 / 400)
    drawn = ece.if_calibrated(said, np.zeros(400, dtype=np.int64), seed=0)
    assert drawn.mean() == pytest.approx(spread * np.sqrt(2 / np.pi), rel=0.08), "the mean distance of a normal from its mean"


def test_drawn_students_are_as_right_as_they_say():
    said = np.array([0.9997, 0.85, 0.85, 0.85, 0.3, 0.7] * 50)
    drawn = ece.if_calibrated(said, ece.bin_of(said), seed=0)
    random = np.random.default_rng(5)
    one_by_one = [ece.ece(said, random.random(len(said)) < said) for _ in range(2000)]
    assert np.quantile(drawn, [0.1, 0.5, 0.9]) == pytest.approx(np.quantile(one_by_one, [0.1, 0.5, 0.9]), abs=0.004)
    assert drawn.tolist() == ece.if_calibrated(said, ece.bin_of(said), seed=0).tolist()
