"""Intervals that are known in closed form, and what must hold of any bootstrap."""

import numpy as np
import pytest
from scipy.stats import spearmanr
from sklearn.metrics import cohen_kappa_score

from mlx_distill.evaluation import bootstrap as boot
from mlx_distill.evaluation.metrics import mean
from mlx_distill.evaluation.metrics.kappa import tally as kappa
from mlx_distill.evaluation.metrics.macro_f1 import tally as macro_f1
from mlx_distill.evaluation.metrics.rmse import tally as rmse
from mlx_distill.evaluation.metrics.spearman import tally as spearman


def everyone(values):
    return mean(values, np.ones(len(values), dtype=bool))


def test_the_interval_of_a_mean_is_as_wide_as_theory_says():
    values = np.random.default_rng(7).normal(3.0, 2.0, size=400)
    figure = boot.figures({"mean": everyone(values)}, bootstrap=4000, seed=1)["mean"]
    error = values.std() / np.sqrt(400)
    assert figure["value"] == pytest.approx(values.mean())
    assert figure["low"] == pytest.approx(values.mean() - 1.96 * error, abs=0.06 * error * 1.96)
    assert figure["high"] == pytest.approx(values.mean() + 1.96 * error, abs=0.06 * error * 1.96)


def test_the_interval_of_a_share_is_that_of_the_binomial():
    hits = np.repeat([1.0, 0.0], [72, 28])
    figure = boot.figures({"share": everyone(hits)}, bootstrap=5000, seed=0)["share"]
    # quantiles 2.5 % and 97.5 % of Binomial(100, 0.72) are 63 and 80
    assert figure["low"] == pytest.approx(0.63, abs=0.011)
    assert figure["high"] == pytest.approx(0.80, abs=0.011)


def test_a_resample_is_what_drawing_rows_one_by_one_gives():
    random = np.random.default_rng(5)
    reference, answer = random.integers(0, 3, size=(2, 25))
    samples = boot.resample({"f1": macro_f1(reference, answer, 3)}, bootstrap=40, seed=9)["f1"]
    draws = np.random.default_rng(9).integers(0, 25, size=(40, 25))
    for drawn, sample in zip(draws, samples, strict=True):
        assert sample == pytest.approx(macro_f1(reference[drawn], answer[drawn], 3).total(), rel=1e-5)


def test_the_same_seed_gives_the_same_interval_and_another_gives_another():
    tallies = {"mean": everyone(np.random.default_rng(0).random(50))}
    one, again, other = (boot.figures(tallies, bootstrap=300, seed=seed)["mean"] for seed in (3, 3, 4))
    assert one == again
    assert one != other


def test_other_metrics_beside_a_metric_do_not_move_its_interval():
    random = np.random.default_rng(0)
    first, second = everyone(random.random(60)), everyone(random.random(60))
    alone = boot.figures({"first": first}, bootstrap=200, seed=0)["first"]
    assert boot.figures({"second": second, "first": first, "twin": first}, bootstrap=200, seed=0)["first"] == pytest.approx(alone)


def test_rows_in_chunks_are_drawn_as_rows_at_once(monkeypatch):
    tallies = {"mean": everyone(np.random.default_rng(0).random(64))}
    whole = boot.figures(tallies, bootstrap=100, seed=0)
    monkeypatch.setattr(boot, "CHUNK", 64 * 7)
    assert boot.figures(tallies, bootstrap=100, seed=0)["mean"] == pytest.approx(whole["mean"], rel=1e-6)


def test_a_paired_difference_is_narrower_than_two_figures_apart():
    random = np.random.default_rng(2)
    hard = random.random(500)
    ours, theirs = everyone(hard + 0.02), everyone(hard)
    figures, differences = boot.paired({"mean": ours}, {"mean": theirs}, bootstrap=500, seed=0)
    assert differences["mean"]["low"] == pytest.approx(0.02, abs=1e-5)
    assert differences["mean"]["high"] == pytest.approx(0.02, abs=1e-5)
    assert figures["mean"] == pytest.approx(boot.figures({"mean": theirs}, bootstrap=500, seed=0)["mean"])


def test_rows_that_do_not_count_widen_the_interval_and_are_not_in_n():
    counted = np.arange(40) < 10
    figure = boot.figures({"mean": mean(np.arange(40.0), counted)}, bootstrap=500, seed=0)["mean"]
    assert (figure["value"], figure["n"]) == (4.5, 10)
    assert 1 < figure["low"] < 4.5 < figure["high"] < 8


def test_nothing_to_count_is_unknown_and_no_number():
    nothing = mean(np.zeros(0), np.zeros(0, dtype=bool))
    assert boot.figures({"mean": nothing}, bootstrap=100, seed=0)["mean"] == {"value": None, "low": None, "high": None, "n": 0}


def test_a_resampled_rank_correlation_is_that_of_the_rows_that_were_drawn():
    random = np.random.default_rng(5)
    x, y = random.integers(0, 4, size=30).astype(float), random.integers(0, 4, size=30).astype(float)
    x[3] = y[7] = np.nan
    samples = boot.resample({"rho": spearman(x, y)}, bootstrap=40, seed=9)["rho"]
    for drawn, sample in zip(np.random.default_rng(9).integers(0, 30, size=(40, 30)), samples, strict=True):
        both = drawn[~np.isnan(x[drawn]) & ~np.isnan(y[drawn])]
        assert sample == pytest.approx(spearmanr(x[both], y[both]).statistic, abs=1e-12)


def test_a_resample_without_a_correlation_is_left_out_of_the_interval():
    x, y = np.array([1.0, 1.0, 2.0]), np.array([1.0, 2.0, 3.0])
    samples = boot.resample({"rho": spearman(x, y)}, bootstrap=200, seed=0)["rho"]
    assert np.isnan(samples).any()
    figure = boot.figures({"rho": spearman(x, y)}, bootstrap=200, seed=0)["rho"]
    assert figure["low"] is not None and -1 <= figure["low"] <= figure["high"] <= 1
    assert figure["high"] == pytest.approx(np.nanquantile(samples, 0.975))


def test_intervals_are_numpys_quantiles_of_what_is_finite():
    samples = np.array([[3.0, 1.0, np.nan, 2.0, np.inf], [5.0, 5.0, 4.0, 1.0, 0.0], [np.nan] * 5])
    found = [boot.figure(1.0, line, 9) for line in samples]
    assert (found[0]["low"], found[0]["high"]) == pytest.approx(tuple(np.quantile([1.0, 2.0, 3.0], [0.025, 0.975])))
    assert (found[1]["low"], found[1]["high"]) == pytest.approx(tuple(np.quantile(samples[1], [0.025, 0.975])))
    assert found[2] == {"value": None, "low": None, "high": None, "n": 9}


@pytest.mark.parametrize("middle", [0.0, 1000.5, -3e6])
def test_figures_far_from_zero_keep_the_digits_of_their_intervals(middle):
    """In single precision 1000.5 ± 0.1 has 3 digits left of its spread, and its squares none."""
    random = np.random.default_rng(1)
    judge = random.normal(0, 0.1, size=300).round(1)
    student = (judge + random.normal(0, 0.1, size=300)).round(1)
    everybody = np.ones(300, dtype=bool)

    def tallies(shift):
        x, y = judge + shift, student + shift
        steps = (np.rint(side * 10) + np.rint(shift * 10) for side in (judge, student))
        return {"mean": mean(x, everybody), "rmse": rmse(x, y, everybody), "kappa": kappa(*steps)}

    draws = np.random.default_rng(0).integers(0, 300, size=(50, 300))
    samples = boot.resample(tallies(middle), bootstrap=50, seed=0)
    exact = [np.mean(judge[drawn]) + middle for drawn in draws]
    assert samples["mean"] - middle == pytest.approx(np.array(exact) - middle, abs=1e-6)
    assert samples["rmse"] == pytest.approx([np.sqrt(np.mean((judge - student)[drawn] ** 2)) for drawn in draws], rel=1e-5)
    steps = np.rint(judge * 10).astype(int), np.rint(student * 10).astype(int)
    labels = range(min(map(min, steps)), max(map(max, steps)) + 1)
    expected = [cohen_kappa_score(steps[0][drawn], steps[1][drawn], weights="quadratic", labels=labels) for drawn in draws]
    assert samples["kappa"] == pytest.approx(expected, rel=1e-5)


def test_a_figure_that_is_the_same_in_every_row_has_an_interval_without_width():
    figure = boot.figures({"mean": everyone(np.full(50, 0.3))}, bootstrap=100, seed=0)["mean"]
    assert (figure["low"], figure["high"]) == pytest.approx((0.3, 0.3), abs=1e-12)


def covered(draw, tally, truth, *, times, n):
    """How often the interval of `n` rows holds the figure of the population."""
    random = np.random.default_rng(2024)
    hits = 0
    for i in range(times):
        figure = boot.figures({"figure": tally(*draw(random, n))}, bootstrap=300, seed=i)["figure"]
        hits += figure["low"] <= truth <= figure["high"]
    return hits / times


def test_95_percent_intervals_of_a_mean_hold_the_truth_in_about_95_percent_of_samples():
    # 500 samples of 80 rows: the share is within 3 standard errors (0.03) of 0.95, and a little low, as the percentile bootstrap is
    share = covered(lambda random, n: (random.normal(3, 2, size=n),), everyone, 3.0, times=500, n=80)
    assert 0.92 <= share <= 0.975


def test_95_percent_intervals_of_a_rank_correlation_hold_the_truth_in_about_95_percent_of_samples():
    def draw(random, n):
        x = random.normal(size=n)
        return x, 0.6 * x + 0.8 * random.normal(size=n)

    truth = 6 / np.pi * np.arcsin(0.6 / 2)  # of two normals with correlation 0.6
    assert 0.91 <= covered(draw, spearman, truth, times=300, n=80) <= 0.98


def test_a_p_value_is_small_where_the_interval_leaves_zero_out():
    random = np.random.default_rng(4)
    base = random.normal(size=200)
    clear = {"mean": everyone(base + random.normal(0.5, 1, size=200))}, {"mean": everyone(base)}
    level = {"mean": everyone(base + random.normal(0.0, 1, size=200))}, {"mean": everyone(base)}
    found = [boot.paired(*pair, bootstrap=999, seed=0)[1]["mean"] for pair in (clear, level)]
    assert found[0]["p"] == pytest.approx(2 / 1000)
    assert found[0]["low"] > 0
    assert found[1]["p"] > 0.05
    assert found[1]["low"] < 0 < found[1]["high"]


def test_no_difference_at_all_has_a_p_value_of_1_and_the_order_of_the_two_does_not_matter():
    values = np.random.default_rng(0).random(40)
    same = boot.paired({"mean": everyone(values)}, {"mean": everyone(values)}, bootstrap=100, seed=0)[1]["mean"]
    assert (same["value"], same["p"]) == (0.0, 1.0)
    other = np.random.default_rng(1).random(40)
    there = boot.paired({"mean": everyone(values)}, {"mean": everyone(other)}, bootstrap=100, seed=0)[1]["mean"]
    back = boot.paired({"mean": everyone(other)}, {"mean": everyone(values)}, bootstrap=100, seed=0)[1]["mean"]
    assert there["p"] == back["p"]
    assert boot.p_value(np.array([np.nan])) is None


def test_p_values_of_equal_students_are_below_five_percent_in_about_five_percent_of_samples():
    random = np.random.default_rng(7)
    below = 0
    for i in range(400):
        hard = random.normal(size=60)
        ours, theirs = ({"mean": everyone(hard + random.normal(size=60))} for _ in range(2))
        below += boot.paired(ours, theirs, bootstrap=199, seed=i)[1]["mean"]["p"] <= 0.05
    assert 0.02 <= below / 400 <= 0.09


def test_of_two_biases_the_one_nearer_to_zero_is_better():
    ours, theirs = bias_of(np.array([0.1, 0.3, 0.2, 0.2])), bias_of(np.array([-0.9, -1.1, -1.0, -1.0]))
    own, difference = boot.paired({"bias": ours}, {"bias": theirs}, bootstrap=200, seed=0)
    assert own["bias"]["value"] == pytest.approx(-1.0)
    assert difference["bias"]["value"] == pytest.approx(0.2 - 1.0)
    assert difference["bias"]["high"] < 0


def bias_of(gaps):
    return mean(gaps, np.ones(len(gaps), dtype=bool), centred=True)
