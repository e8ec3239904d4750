"""Intervals that are known in closed form, and what must hold of any bootstrap."""

import numpy as np
import pytest

from mlx_distill.evaluation import bootstrap as boot
from mlx_distill.evaluation.metrics import mean
from mlx_distill.evaluation.metrics.macro_f1 import tally as macro_f1


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
    assert boot.figures(tallies, bootstrap=100, seed=0) == whole


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
