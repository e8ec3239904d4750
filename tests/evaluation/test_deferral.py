"""The guarantee of deferral: checked by hand, against SciPy, and over hundreds of random splits of populations whose errors are known."""

import dataclasses
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, binomtest

from mlx_distill.evaluation.sheet import Judged
from mlx_distill.evaluation.trust import deferral, selective
from mlx_distill.evaluation.trust.assurance import documents, judged, learn
from mlx_distill.evaluation.trust.deferral import Outcomes, Plan, find, most_errors, p_values, search
from mlx_distill.evaluation.trust.selective import aurc, curve, thinned
from mlx_distill.recipe.schema import DeferSpec
from tests.evaluation import doubts
from tests.evaluation.doubts import TASK

MAX_ERROR, LEVEL, SPLITS = 0.05, 0.9, 200
SPEC = DeferSpec(max_error=MAX_ERROR, level=LEVEL)


# A population of which everything is known: 40 values of `sure`, as slots give them, each with its share of rows and its error


@dataclasses.dataclass
class Population:
    sure: np.ndarray
    share: np.ndarray
    error: np.ndarray

    def draw(self, n, random):
        which = random.choice(len(self.sure), n, p=self.share)
        return Outcomes(self.sure[which], random.random(n) < self.error[which])

    def true_error(self, threshold):
        """Of what a threshold keeps; 0 where it keeps nothing."""
        kept = self.sure >= threshold if threshold is not None else np.zeros(len(self.sure), dtype=bool)
        return float(self.share[kept] @ self.error[kept] / self.share[kept].sum()) if kept.any() else 0.0

    def coverage(self, threshold):
        return 0.0 if threshold is None else float(self.share[self.sure >= threshold].sum())


SURE = np.round(np.linspace(0.3, 1.0, 40), 4)
SHARE = np.linspace(1, 4, 40) / np.linspace(1, 4, 40).sum()
POPULATIONS = {
    "too sure of itself": Population(SURE, SHARE, np.clip(0.5 * (1 - SURE) + 0.005, 0, 1)),
    "good above a step": Population(SURE, SHARE, np.where(SURE > 0.8, 0.02, 0.4)),
    "just too bad everywhere": Population(SURE, SHARE, np.full(40, 0.055)),
    "worst where it is surest": Population(SURE, SHARE, np.where(SURE > 0.93, 0.09, np.where(SURE > 0.7, 0.03, 0.3))),
    "sure of one thing alone": Population(np.array([0.4, 0.9]), np.array([0.5, 0.5]), np.array([0.3, 0.051])),
}


def learned(fit, guarantee):
    return search(Plan.of(fit, guarantee.n, MAX_ERROR, LEVEL), guarantee, MAX_ERROR, LEVEL)


def unlearned(fit, guarantee):
    return learned(Outcomes(fit.sure[:0], fit.wrong[:0]), guarantee)


def naive(fit, guarantee):
    """The lowest threshold whose error on the guarantee rows is small enough: what one would do without thinking."""
    values = np.unique(guarantee.sure)
    kept, errors = guarantee.over(values)
    fitting = values[errors <= MAX_ERROR * kept]
    return float(fitting[0]) if len(fitting) else None


def broken(population, n, rule, seed=0):
    """Share of random splits in which the promise is broken."""
    random = np.random.default_rng([seed, n])
    found = [rule(population.draw(n, random), population.draw(n, random)) for _ in range(SPLITS)]
    return np.mean([population.true_error(value) > MAX_ERROR for value in found])


MOST = binom.ppf(0.999, SPLITS, 1 - LEVEL) / SPLITS
"""What 200 splits may show of a promise that is kept 90 % of the time."""


@pytest.mark.parametrize("n", [150, 400, 1000])
@pytest.mark.parametrize("rule", [learned, unlearned])
@pytest.mark.parametrize("name", POPULATIONS)
def test_the_promise_is_broken_no_more_often_than_it_says(name, rule, n):
    assert broken(POPULATIONS[name], n, rule) <= MOST


@pytest.mark.parametrize("n", [150, 400, 1000])
@pytest.mark.parametrize("name", ["too sure of itself", "just too bad everywhere", "worst where it is surest"])
def test_the_same_check_finds_the_naive_threshold_out(name, n):
    assert broken(POPULATIONS[name], n, naive) > MOST


def test_one_threshold_errs_as_often_as_it_may():
    """With nothing to search the bound is exact: just above the limit, it is broken in 10 % of the cases, less what whole numbers cost."""
    population = Population(np.array([0.9]), np.array([1.0]), np.array([0.0501]))
    random = np.random.default_rng(0)
    plan = Plan(np.array([0.5]), np.array([1.0]), learned=True)
    n = next(n for n in range(400, 500) if binom.cdf(most_errors(np.array(n), MAX_ERROR, LEVEL), n, MAX_ERROR) > 0.0995)
    rate = np.mean([search(plan, population.draw(n, random), MAX_ERROR, LEVEL) is not None for _ in range(4000)])
    assert 0.085 < rate < 0.115


def test_it_keeps_most_of_what_could_be_kept():
    random = np.random.default_rng(1)
    population = POPULATIONS["good above a step"]
    best = population.coverage(0.81)
    kept = [population.coverage(learned(population.draw(1000, random), population.draw(1000, random))) for _ in range(50)]
    assert np.mean(kept) > 0.85 * best


def test_a_student_that_is_good_everywhere_keeps_everything():
    random = np.random.default_rng(2)
    population = Population(SURE, SHARE, np.full(40, 0.01))
    assert np.mean([population.coverage(learned(population.draw(400, random), population.draw(400, random))) for _ in range(50)]) > 0.97


# The test itself


@given(st.integers(1, 400), st.floats(0.01, 0.5), st.sampled_from([0.8, 0.9, 0.95, 0.99]), st.data())
@settings(deadline=None, max_examples=60)
def test_a_threshold_is_rejected_exactly_where_clopper_and_pearsons_bound_is_low_enough(n, max_error, level, data):
    errors = data.draw(st.integers(0, min(n, 30)))
    upper = binomtest(errors, n, alternative="less").proportion_ci(level, method="exact").high
    value = float(p_values(np.array([n]), np.array([errors]), max_error)[0])
    if abs(upper - max_error) > 1e-9:
        assert (value <= 1 - level) == (upper <= max_error)
        assert (errors <= most_errors(np.array(n), max_error, level)) == (upper <= max_error)


def test_the_sequence_ends_at_the_first_threshold_that_is_not_rejected():
    sure = np.repeat([0.9, 0.8, 0.7, 0.6], 100)
    wrong = np.zeros(400, dtype=bool)
    wrong[200:225] = True  # 25 of 300 at 0.7: too many; 25 of 400 at 0.6 are too many as well
    tried = Outcomes(sure, wrong)
    plan = Plan(np.array([0.9, 0.8, 0.7, 0.6]), np.array([1.0, 0, 0, 0]), learned=True)
    assert search(plan, tried, 0.05, 0.9) == 0.8
    assert search(dataclasses.replace(plan, shares=np.array([0, 0, 1.0, 0])), tried, 0.05, 0.9) is None
    wrong[200:225], wrong[100:112] = False, True  # 12 of 200 are too many; 12 of 400 would not be, and are not asked for
    assert search(plan, Outcomes(sure, wrong), 0.05, 0.9) == 0.9


def test_several_starts_share_what_may_go_wrong():
    tried = Outcomes(np.full(60, 0.95), np.zeros(60, dtype=bool))  # 0.95 ** 60 = 0.046: enough for 0.1 and its half, not for its third
    grid = np.array([0.97, 0.9, 0.5])
    assert search(Plan(grid, np.array([0, 1.0, 0]), learned=True), tried, 0.05, 0.9) == 0.5
    assert search(Plan(grid, np.array([0.5, 0.5, 0]), learned=True), tried, 0.05, 0.9) == 0.5
    assert search(Plan(grid, np.array([0.7, 0.3, 0]), learned=True), tried, 0.05, 0.9) is None


def test_what_one_threshold_wins_goes_on_to_the_next():
    """At 0.8 it has a half of its own and a half from 0.9: 96 rows with 1 error have p = 0.044, 2 errors at 0.8 of 150 have 0.018."""
    sure = np.repeat([0.9, 0.8, 0.7], [96, 54, 30])
    wrong = np.zeros(180, dtype=bool)
    wrong[[0, 100, 151, 152, 153]] = True  # 5 of 180: p = 0.11; 4 of them would have 0.05
    plan = Plan(np.array([0.9, 0.8, 0.7]), np.array([0.5, 0.5, 0]), learned=True)
    assert binom.cdf(1, 96, 0.05) < 0.05 < binom.cdf(4, 180, 0.05) < 0.1 < binom.cdf(5, 180, 0.05)
    assert search(plan, Outcomes(sure, wrong), 0.05, 0.9) == 0.8
    wrong[153] = False
    assert search(plan, Outcomes(sure, wrong), 0.05, 0.9) == 0.7  # the whole of delta has come down to it
    wrong[[1, 100]] = [True, False]  # 2 of 96 are too many for a half; the other half begins at 0.8, and is all there is at 0.7
    assert search(plan, Outcomes(sure, wrong), 0.05, 0.9) == 0.8


def test_rows_that_tie_are_kept_together_or_not_at_all():
    tried = Outcomes(np.array([0.5, 0.5, 0.5, 0.9]), np.array([True, False, False, False]))
    assert tried.at(0.5) == (4, 1) and tried.at(np.nextafter(0.5, 1)) == (1, 0) and tried.at(None) == (0, 0)


@given(st.lists(st.tuples(st.sampled_from([-1.0, 0.2, 0.5, 0.5, 0.9, 1.0]), st.booleans()), min_size=1, max_size=40))
def test_counts_at_every_threshold_are_those_of_counting(pairs):
    tried = Outcomes(np.array([sure for sure, _ in pairs]), np.array([wrong for _, wrong in pairs]))
    values = np.array([0.0, 0.2, 0.3, 0.5, 0.9, 1.0])
    kept, errors = tried.over(values)
    assert kept.tolist() == [sum(sure >= value for sure, _ in pairs) for value in values]
    assert errors.tolist() == [sum(wrong for sure, wrong in pairs if sure >= value) for value in values]


def test_what_is_tested_is_fixed_before_the_labels_of_the_guarantee_rows_are_seen():
    """The plan takes their number and nothing else of them."""
    fit = POPULATIONS["good above a step"].draw(500, np.random.default_rng(0))
    plan = Plan.of(fit, 400, MAX_ERROR, LEVEL)
    assert plan.learned and plan.shares.sum() == 1 and plan.grid[-1] == 0.0
    assert plan.grid.tolist() == sorted(set(plan.grid.tolist()), reverse=True) and set(plan.grid[:-1]) <= set(fit.sure)
    scattered = Outcomes(np.random.default_rng(1).random(333), np.zeros(333, dtype=bool))
    assert set(Plan.of(scattered, 400, MAX_ERROR, LEVEL).grid[:-1]) <= set(scattered.sure)  # a threshold is what some row has
    few = Plan.of(Outcomes(fit.sure[:29], fit.wrong[:29]), 400, MAX_ERROR, LEVEL)
    assert not few.learned and sorted(few.grid[few.shares > 0]) == pytest.approx(deferral.STARTS) and few.shares.max() == 0.25


# Rows of a student


@cache
def surer(n, seed, prefix="r"):
    """Rows that mostly leave little doubt. Not to be changed."""
    return doubts.rows(n, seed, prefix=prefix, concentration=0.08)


def test_the_threshold_of_a_student_keeps_its_promise_on_new_rows():
    spec = DeferSpec(max_error=0.2, level=0.9)
    recipe = doubts.recipe(defer=spec)
    confidence = learn(recipe, surer(800, 1, prefix="v"), surer(800, 2, prefix="c"))
    threshold = confidence.threshold
    assert (threshold.of, threshold.max_error, threshold.level) == ("tier", 0.2, 0.9) and threshold.value is not None
    before = surer(1500, 3)
    after = [judged(row, confidence, TASK) for row in before]
    kept = [row for row in after if not row.defer]
    assert all(row.sure >= threshold.value for row in kept) and len(kept) > 150
    errors = sum(row.tier != row.reference_tier for row in kept)
    assert errors / len(kept) <= 0.2
    found = documents(recipe, confidence, before, after)["deferral"]
    assert found["test"]["kept"] == len(kept) and found["test"]["errors"] == errors
    assert found["test"]["coverage"]["value"] == len(kept) / 1500
    assert found["everything"]["value"] == np.mean([row.tier != row.reference_tier for row in after]) > 0.2
    assert found["found"]["split"] == "calibrate" and found["found"]["n"] == 800
    assert found["promise"].startswith(
        "Of the answers that are kept, at most 20 % are in another tier than the judge's, with 90 % certainty"
    )
    own = next(other for other in found["others"] if other["max_error"] == 0.2)
    assert own["value"] == threshold.value and [other["max_error"] for other in found["others"]] == list(deferral.OTHERS)


@pytest.mark.parametrize("of", ["overall", "answer", "kind", "risk"])
def test_any_measure_of_wrong_can_be_promised(of):
    spec = DeferSpec(max_error=0.3, level=0.9, of=of, within=1.0)
    confidence = learn(doubts.recipe(defer=spec), surer(600, 1, prefix="v"), surer(600, 2, prefix="c"))
    after = [judged(row, confidence, TASK) for row in surer(1500, 3)]
    tried = Outcomes.of(TASK, of, 1.0, after)
    kept, errors = tried.at(confidence.threshold.value)
    assert confidence.threshold.of == of and kept == sum(not row.defer for row in after) > 0
    assert errors <= 0.3 * kept


def test_too_few_rows_promise_nothing_and_say_so():
    recipe = doubts.recipe(defer=SPEC)
    confidence = learn(recipe, surer(200, 1, prefix="v"), surer(40, 2, prefix="c"))
    assert confidence.threshold.value is None
    rows = [judged(row, confidence, TASK) for row in surer(50, 3)]
    assert all(row.defer for row in rows)
    found = documents(recipe, confidence, rows, rows)["deferral"]
    assert found["why"] == "40 rows are too few: even without any error it takes 45"
    assert found["promise"].endswith("So every row is handed back.") and found["test"]["coverage"]["value"] == 0
    assert found["test"]["error"]["value"] is None


def test_without_rows_kept_apart_nothing_is_promised():
    confidence = learn(doubts.recipe(defer=SPEC), surer(500, 1), [])
    assert confidence.threshold.value is None and "data.split.calibrate" in confidence.facts["deferral"]["why"]


def test_a_student_that_is_wrong_too_often_promises_nothing():
    confidence = learn(doubts.recipe(defer=DeferSpec(max_error=0.005, level=0.9)), surer(600, 1, prefix="v"), surer(600, 2, prefix="c"))
    assert confidence.threshold.value is None and "it is wrong in" in confidence.facts["deferral"]["why"]


def test_the_order_of_the_rows_does_not_matter():
    fit, guarantee = surer(300, 1, prefix="v"), surer(300, 2, prefix="c")
    spec = DeferSpec(max_error=0.3)
    one = find(TASK, spec, fit, guarantee)
    assert one == find(TASK, spec, fit[::-1], guarantee[::-1])


def test_a_row_without_an_answer_is_wrong_and_never_kept():
    rows = [
        Judged(id="a", split="test", reference={"kind": "fire"}, answer=None, refused="too long"),
        Judged(id="b", split="test", reference={"kind": "fire"}, answer={"kind": "fire"}, confidence={"kind": 0.9}),
        Judged(id="c", split="test", reference={}, answer={"kind": "fire"}, confidence={"kind": 0.9}),
    ]
    tried = Outcomes.of(TASK, "kind", 1.0, rows)
    assert tried.sure.tolist() == [-1.0, 0.9] and tried.wrong.tolist() == [True, False] and tried.at(0.0) == (1, 0)


# Risk and coverage


def test_the_curve_and_its_area_are_those_worked_out_by_hand():
    tried = Outcomes(np.array([0.9, 0.8, 0.8, 0.1, -1.0]), np.array([False, True, False, True, True]))
    assert curve(tried) == [(0.2, 0.0, 0.9), (0.6, 1 / 3, 0.8), (0.8, 0.5, 0.1)]
    # the tie counts as half an error each: 0, .5/2, 1/3, 2/4, 3/5
    assert aurc(tried) == pytest.approx((0 + 0.25 + 1 / 3 + 0.5 + 0.6) / 5)


def test_a_confidence_that_says_nothing_has_the_error_rate_as_its_area():
    assert aurc(Outcomes(np.full(8, 0.5), np.arange(8) < 2)) == pytest.approx(0.25)
    assert aurc(Outcomes(np.zeros(0), np.zeros(0, dtype=bool))) is None and curve(Outcomes(np.zeros(0), np.zeros(0, dtype=bool))) == []


def test_a_thinned_curve_keeps_its_ends():
    points = [(i / 1000, 0.0, 1 - i / 1000) for i in range(1000)]
    kept = thinned(points, 50)
    assert len(kept) == 50 and kept[0] == points[0] and kept[-1] == points[-1] and thinned(points[:3], 50) == points[:3]


def test_where_rows_were_split_by_group_the_report_says_so_and_shows_each():
    recipe = doubts.recipe(defer=DeferSpec(max_error=0.3), group="source")
    confidence = learn(recipe, surer(400, 1, prefix="v"), surer(400, 2, prefix="c"))
    before = surer(600, 3)
    after = [judged(row, confidence, TASK) for row in before]
    found = documents(recipe, confidence, before, after)["deferral"]
    assert "does not carry over to a source that was not there" in found["promise"]
    assert {entry["group"] for entry in found["groups"]} == {"s0", "s1", "s2"}
    assert sum(entry["kept"] for entry in found["groups"]) == found["test"]["kept"]
    errors = [entry["error"]["value"] for entry in found["groups"] if not entry["small"]]
    assert errors == sorted(errors, reverse=True)
    assert documents(doubts.recipe(defer=SPEC), confidence, before, after)["deferral"]["groups"] is None
    assert selective.document(TASK, dataclasses.replace(confidence, threshold=None), after) is None
