"""Fitting of maps against scikit-learn and SciPy, the choice between them, and what the report tells of them."""

import json

import numpy as np
import pytest
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss

from mlx_distill.evaluation.metrics.brier import brier
from mlx_distill.evaluation.metrics.crps import crps
from mlx_distill.evaluation.metrics.ece import ece
from mlx_distill.evaluation.shares import exact, share
from mlx_distill.evaluation.sheet import Judged
from mlx_distill.evaluation.trust import calibration, fitting
from mlx_distill.evaluation.trust.assurance import documents, judged, learn
from mlx_distill.evaluation.trust.fitting import FEWEST, Sample, choose, cross_validated, fit, predicted
from mlx_distill.recipe.schema import TaskSpec
from mlx_distill.task.calibrated import FieldMap
from mlx_distill.task.fields import closed_values
from tests.evaluation import doubts
from tests.evaluation.doubts import FIELDS, TASK


def sample_of(name, n=600, seed=1, **more):
    return calibration.sample(doubts.rows(n, seed, **more), name, FIELDS[name])


def bare(confidence, right):
    """Answers that came without distributions."""
    n = len(confidence)
    nothing = np.zeros(n, dtype=np.intp)
    return Sample([f"r{i}" for i in range(n)], np.array(confidence, dtype=float), np.array(right, dtype=bool), nothing, nothing)


def drawn(n, seed, rate):
    """Confidences from 0.3 to 1, right as often as `rate` says."""
    random = np.random.default_rng(seed)
    sure = random.uniform(0.3, 1.0, n)
    return bare(sure, random.random(n) < rate(sure))


# One map


@pytest.mark.parametrize("name", ["kind", "urgent", "risk"])
def test_a_temperature_has_the_least_log_loss_of_all(name):
    from scipy.optimize import minimize_scalar

    own = sample_of(name)
    found = fit(own, "temperature").temperature
    labels = range(own.logs.shape[1])

    def loss(temperature):
        shares = np.exp(own.logs / temperature)
        return log_loss(own.truth, shares / shares.sum(axis=1, keepdims=True), labels=labels)

    best = minimize_scalar(loss, bounds=(0.05, 20), method="bounded", options={"xatol": 1e-8}).x
    assert found == pytest.approx(best, rel=1e-4)
    assert found == pytest.approx(2.5, rel=0.2)  # what the student was sharpened by


def test_a_temperature_stays_within_reason_where_certainty_is_never_wrong():
    own = bare([0.9] * 40, [True] * 40)
    sure = Sample(own.ids, own.confidence, own.right, own.place, own.truth, np.log(np.tile([0.9, 0.1], (40, 1))))
    assert fit(sure, "temperature").temperature == pytest.approx(fitting.LEAST, rel=1e-6)


def test_beta_is_logistic_regression_on_both_logarithms():
    own = drawn(2000, 0, lambda sure: 0.2 + 0.6 * sure**2)
    features = np.stack([np.log(own.confidence), -np.log1p(-own.confidence)], axis=1)
    reference = LogisticRegression(C=np.inf, tol=1e-10, max_iter=10_000).fit(features, own.right)
    assert fit(own, "beta").beta == pytest.approx((*reference.coef_[0], reference.intercept_[0]), abs=2e-3)


def test_beta_never_falls_where_being_sure_means_being_wrong():
    a, b, _ = fit(drawn(500, 1, lambda sure: 1.1 - sure), "beta").beta
    assert a >= 0 and b >= 0 and a + b < 1e-6


@pytest.mark.parametrize(
    ("rate", "at_zero"),
    [
        (lambda sure: sure, []),
        (lambda sure: 1.1 - sure, [0, 1]),
        (lambda sure: np.where(sure > 0.9, 0.97, 0.1), [0]),
        (lambda sure: np.where(sure > 0.4, 0.97, 0.1), [1]),
        (lambda sure: (sure > 0.6) * 1.0, []),
    ],
)
def test_beta_is_the_best_that_a_bounded_minimiser_finds(rate, at_zero):
    from scipy.optimize import minimize

    own = drawn(400, 4, rate)
    features = np.stack([np.log(own.confidence), -np.log1p(-own.confidence), np.ones(400)], axis=1)
    bounds = [(0, None), (0, None), (None, None)]
    best = minimize(lambda w: fitting._nats(features, own.right, w, fitting.STILL), fitting.STILL, bounds=bounds, tol=1e-14)
    found = np.array(fit(own, "beta").beta)
    assert np.flatnonzero(found == 0).tolist() == at_zero
    assert fitting._nats(features, own.right, found, fitting.STILL) <= best.fun + 1e-9


def test_isotonic_is_scikit_learns():
    own = drawn(1500, 2, lambda sure: np.where(sure > 0.7, 0.9, 0.2))
    reference = IsotonicRegression(y_min=1 / 1502, y_max=1 - 1 / 1502, out_of_bounds="clip").fit(own.confidence, own.right)
    tried = np.linspace(0.0, 1.0, 301)
    made = fit(own, "isotonic")
    assert [made.right(float(p)) for p in tried] == pytest.approx(list(reference.predict(tried)), abs=1e-6)


def test_a_map_of_many_values_bends_what_the_temperature_has_made():
    made = fit(sample_of("kind"), "beta")
    assert made.temperature == pytest.approx(fit(sample_of("kind"), "temperature").temperature) and made.beta is not None
    assert fit(sample_of("urgent"), "beta").temperature == 1.0  # of two values the second step alone says everything


# The choice


def test_a_student_that_is_right_as_often_as_it_says_is_left_alone():
    made, facts = choose(sample_of("kind", 500, sharper=1.0), "auto")
    assert facts["method"] == "none" and made == FieldMap() and set(facts["losses"]) == {"none", "temperature", "beta"}


def test_one_that_is_too_sure_gets_the_simplest_map_that_mends_it():
    made, facts = choose(sample_of("kind", 2000), "auto")
    assert facts["method"] == "temperature" and made.temperature == pytest.approx(2.5, rel=0.2)
    assert facts["losses"]["temperature"] < facts["losses"]["none"] - 0.05


def test_a_temperature_that_cannot_mend_it_gives_way_to_a_map_that_can():
    own = drawn(3000, 3, lambda sure: np.where(sure > 0.8, 0.55, np.where(sure > 0.55, 0.9, 0.1)))
    _, facts = choose(own, "auto")
    assert facts["method"] == "isotonic"
    _, facts = choose(drawn(800, 3, lambda sure: 0.3 + 0.0 * sure), "auto")
    assert facts["method"] == "beta" and "temperature" not in facts["losses"] and "isotonic" not in facts["losses"]


def test_a_simpler_map_wins_unless_it_is_worse_by_more_than_chance():
    best = np.full(100, 0.5)
    noisy = best + 0.01 + np.where(np.arange(100) % 2, 0.2, -0.2)  # worse by 0.01, give or take 0.02
    surely = best + 0.01 + np.where(np.arange(100) % 2, 0.02, -0.02)  # worse by 0.01, give or take 0.002
    rows = [f"r{i}" for i in range(100)]
    assert fitting._simplest({"none": noisy, "temperature": best}, rows) == "none"
    assert fitting._simplest({"none": surely, "temperature": best}, rows) == "temperature"
    assert fitting._simplest({"none": surely, "temperature": noisy, "beta": best}, rows) == "temperature"


def test_the_error_of_a_mean_is_the_usual_one_and_of_rows_that_come_together_that_of_their_groups():
    values = np.random.default_rng(0).normal(size=60)
    assert fitting._error_of_mean(values, np.arange(60)) == pytest.approx(values.std(ddof=1) / np.sqrt(60))
    twice = np.repeat(values, 5)  # five copies of a row tell no more than the row
    assert fitting._error_of_mean(twice, np.repeat(np.arange(60), 5)) == pytest.approx(values.std(ddof=1) / np.sqrt(60))


def joined(parts, *, groups):
    ids = [f"{i}-{name}" for i, part in enumerate(parts) for name in part.ids]
    arrays = {key: np.concatenate([getattr(part, key) for part in parts]) for key in ("confidence", "right", "place", "truth", "logs")}
    return Sample(ids, **arrays, groups=[name.partition("-")[0] for name in ids] if groups else None)


def test_a_map_that_helps_in_some_groups_and_harms_in_others_is_taken_for_new_rows_of_these_and_not_for_new_groups():
    parts = [sample_of("kind", 150, sharper=sharper) for sharper in (2.5, 1.0, 1.0, 2.5)]
    assert choose(joined(parts, groups=False), "auto")[1]["method"] == "temperature"
    assert choose(joined(parts, groups=True), "auto")[1]["method"] == "none"
    alike = [sample_of("kind", 150, seed=seed) for seed in range(4)]
    assert choose(joined(alike, groups=True), "auto")[1]["method"] == "temperature"


def test_rows_of_a_group_are_never_learned_from_where_others_of_it_are_held_out(monkeypatch):
    own = sample_of("kind", 90)
    groups = [f"event {i % 3}" for i in range(90)]
    seen, plain = [], fitting.fit

    def watched(learned, method):
        seen.append(set(learned.groups))
        return plain(learned, method)

    monkeypatch.setattr(fitting, "fit", watched)
    cross_validated(Sample(own.ids, own.confidence, own.right, own.place, own.truth, own.logs, groups), ["temperature"])
    assert sorted(map(len, seen)) == [2, 2, 2] and set.union(*seen) == set(groups)


def test_of_one_group_alone_no_map_is_learned_and_that_is_said():
    own = sample_of("kind", 300)
    made, facts = choose(Sample(own.ids, own.confidence, own.right, own.place, own.truth, own.logs, ["one"] * 300), "auto")
    assert made == FieldMap() and "all rows are of one group" in facts["why"]


def test_cross_validated_losses_are_those_of_maps_that_did_not_see_the_row():
    own = sample_of("kind", 200)
    losses = cross_validated(own, ["none", "temperature"])
    sure = np.clip(own.confidence, 1e-6, 1 - 1e-6)
    assert losses["none"].mean() == pytest.approx(log_loss(own.right, sure))
    folds = fitting._folds(own.ids)
    assert sorted(np.bincount(folds)) == [40] * 5
    unseen = np.flatnonzero(folds == 2)
    made = fit(own.take(np.flatnonzero(folds != 2)), "temperature")
    kept = predicted(made, own.take(unseen))
    assert losses["temperature"][unseen].sum() == pytest.approx(log_loss(own.right[unseen], kept, normalize=False, labels=[False, True]))


@pytest.mark.parametrize(
    ("own", "why"),
    [
        (bare([0.5] * 29, [True, False] * 14 + [True]), "29 rows with a label are too few"),
        (bare([0.5] * 40, [True] * 40), "all 40 answers are right"),
        (bare([0.5] * 40, [False] * 40), "all 40 answers are wrong"),
    ],
)
def test_where_there_is_nothing_to_learn_it_says_why(own, why):
    for wanted in ("auto", "beta"):
        made, facts = choose(own, wanted)
        assert made == FieldMap() and facts["method"] == "none" and facts["why"].startswith(why)


def test_what_the_recipe_names_is_what_is_fitted():
    own = sample_of("kind", 150)
    for method in ("none", "temperature", "beta", "isotonic"):
        assert choose(own, method)[1]["method"] == method
    assert "whole distributions" in choose(drawn(100, 0, lambda sure: sure), "temperature")[1]["why"]
    assert FEWEST["beta"] == 100 and FEWEST["isotonic"] == 1000


def test_the_order_of_the_rows_does_not_matter():
    rows = doubts.rows(150, 5)
    turned = [rows[i] for i in np.random.default_rng(0).permutation(len(rows))]
    one, other = (calibration.learned(TASK, some, "auto") for some in (rows, turned))
    assert one[1].keys() == other[1].keys() == FIELDS.keys()
    for name, facts in one[1].items():
        assert other[1][name]["method"] == facts["method"]
        assert one[0].get(name, FieldMap()).temperature == pytest.approx(other[0].get(name, FieldMap()).temperature, rel=1e-9)


# Rows


def test_rows_without_label_answer_or_confidence_do_not_count():
    rows = [
        Judged(id="a", split="valid", reference={"kind": "fire"}, answer={"kind": "fire"}, confidence={"kind": 0.9}),
        Judged(id="b", split="valid", reference={}, answer={"kind": "fire"}, confidence={"kind": 0.9}),
        Judged(id="c", split="valid", reference={"kind": "fire"}, answer=None),
        Judged(id="d", split="valid", reference={"kind": "fire"}, answer={"kind": "fire"}),
        Judged(id="e", split="valid", reference={"kind": "hail"}, answer={"kind": "fire"}, confidence={"kind": 0.9}),
    ]
    own = calibration.sample(rows, "kind", FIELDS["kind"])
    assert list(own.ids) == ["a"] and own.right.tolist() == [True] and own.logs is None


def test_a_mean_is_right_where_its_nearest_value_is_the_judges():
    rows = [
        Judged(id=str(i), split="valid", reference={"reach": label}, answer={"reach": said}, confidence={"reach": 0.5})
        for i, (said, label) in enumerate([(2.4, 2), (2.5, 2), (2.5, 3.4)])
    ]
    assert calibration.sample(rows, "reach", FIELDS["reach"]).right.tolist() == [True, False, True]


# The report


@pytest.fixture(scope="module")
def told():
    recipe = doubts.recipe()
    before = doubts.rows(600, 11)
    confidence = learn(recipe, doubts.rows(1000, 10, prefix="v"), [])
    after = [judged(row, confidence, TASK) for row in before]
    return before, after, documents(recipe, confidence, before, after)


def test_the_report_has_the_figures_before_and_after(told):
    before, after, found = told
    for name, spec in FIELDS.items():
        entry = found["calibration"]["fields"][name]
        for side, rows in (("before", before), ("after", after)):
            confidence = [row.confidence[name] for row in rows]
            own = calibration.sample(rows, name, spec)
            assert entry[side]["ece"]["value"] == pytest.approx(ece(confidence, own.right))
            assert entry[side]["ece"]["n"] == 600 and entry[side]["ece"]["low"] <= entry[side]["ece"]["high"]
            distributions = [row.probabilities[name] for row in rows]
            if spec.kind == "score":
                assert entry[side]["brier"] is None
                expected = crps([row.reference[name] for row in rows], closed_values(spec), distributions)
                assert entry[side]["crps"]["value"] == pytest.approx(expected)
            else:
                assert entry[side]["crps"] is None
                # flags are counted false, true here and true, false in the report's sheet: the same squares
                assert entry[side]["brier"]["value"] == pytest.approx(brier(own.truth, distributions))
        assert entry["after"]["ece"]["value"] < entry["before"]["ece"]["value"] / 2
        assert entry["verdict"] == "ok" and entry["method"] in ("temperature", "beta", "isotonic") and entry["n"] == 1000
    json.dumps(found, allow_nan=False)


def test_the_bins_are_the_rows_by_how_sure_they_are(told):
    before, _, found = told
    entry = found["calibration"]["fields"]["kind"]["before"]["bins"]
    assert sum(one["n"] for one in entry) == 600
    inside = [row for row in before if 0.9 < row.confidence["kind"] <= 1.0]
    last = entry[-1]
    assert last["n"] == len(inside) and last["confidence"] == pytest.approx(np.mean([row.confidence["kind"] for row in inside]))
    hits = sum(row.answer["kind"] == row.reference["kind"] for row in inside)
    assert last["accuracy"] == hits / len(inside) and last["interval"] == list(exact(hits, len(inside)))


def test_intervals_that_a_calibrated_score_predicts_hold_what_they_say(told):
    _, _, found = told
    for name in ("risk", "reach"):
        before, after = (found["calibration"]["fields"][name][side]["coverage"] for side in ("before", "after"))
        assert [entry["level"] for entry in after] == [0.5, 0.8, 0.9]
        for entry in after:
            assert entry["says"] >= entry["level"] - 1e-9
            assert entry["held"]["low"] - 0.02 <= entry["says"] <= entry["held"]["high"] + 0.02
        assert before[2]["held"]["high"] < before[2]["says"]  # it was too sure of itself


def test_a_central_interval_is_the_one_worked_out_by_hand():
    shares = np.array([[0.1, 0.2, 0.4, 0.2, 0.1], [0.96, 0.01, 0.01, 0.01, 0.01]])
    entry = calibration.central(shares, np.array([0, 0]), 0.8)  # 0 to 3 of the first, 0 alone of the second
    assert entry["says"] == pytest.approx((0.9 + 0.96) / 2) and entry["held"]["value"] == 1.0
    entry = calibration.central(shares, np.array([0, 1]), 0.5)
    assert entry["says"] == pytest.approx((0.8 + 0.96) / 2) and entry["held"]["value"] == 0.0


def test_only_a_target_of_the_recipe_makes_a_field_fail():
    before = doubts.rows(400, 11)
    recipe = doubts.recipe(calibrate="none")
    confidence = learn(recipe, [], [])
    found = calibration.document(TASK, confidence, before, before, bootstrap=100, seed=0, most={"kind": 0.15})
    assert found["fields"]["kind"]["verdict"] == "fail" and found["fields"]["kind"]["limit"] == 0.15
    assert found["fields"]["risk"]["verdict"] == "warn" and found["fields"]["kind"]["method"] == "none"


def test_a_task_without_closed_fields_has_nothing_to_tell():
    from mlx_distill.recipe.schema import FieldSpec

    task = TaskSpec(input="{text}", fields={"why": FieldSpec(kind="text")})
    rows = [Judged(id="a", split="test", reference={"why": "x"}, answer={"why": "x"}, confidence={"why": 0.5})]
    confidence = learn(doubts.recipe(task=task), rows, [])
    assert documents(doubts.recipe(task=task), confidence, rows, rows) == {"calibration": None, "deferral": None, "conformal": None}


def test_a_share_has_clopper_and_pearsons_interval():
    from scipy.stats import binomtest

    for hits, n in ((0, 7), (3, 10), (10, 10), (45, 400)):
        reference = binomtest(hits, n).proportion_ci(0.95, method="exact")
        assert exact(hits, n) == pytest.approx((reference.low, reference.high))
    assert share(0, 0) == {"value": None, "low": None, "high": None, "n": 0}
