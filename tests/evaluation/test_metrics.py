"""Each metric against scikit-learn, or against values worked out by hand."""

import doctest
import math
from itertools import pairwise
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, f1_score, mean_absolute_error

from mlx_distill import catalog
from mlx_distill.errors import DistillError
from mlx_distill.evaluation.judge import (
    KIND,
    Judged,
    best_at_zero,
    is_alias,
    lay_out,
    lower_is_better,
    measure,
    metric,
    metric_names,
    parts,
)
from mlx_distill.evaluation.metrics.accuracy import accuracy
from mlx_distill.evaluation.metrics.ece import bin_of, ece
from mlx_distill.evaluation.metrics.list_f1 import list_f1
from mlx_distill.evaluation.metrics.macro_f1 import macro_f1
from mlx_distill.evaluation.metrics.mae import mae
from mlx_distill.recipe.schema import FieldSpec

ANIMALS = {"animal": FieldSpec(kind="choice", choices=("cat", "dog", "owl", "yak"))}
TIERS = ("low", "mid", "high")
SCORES = {"risk": FieldSpec(kind="score", weight=0.5), "joy": FieldSpec(kind="score", min=0, max=5, step=0.5, weight=0.5)}


def row(reference, answer, **more):
    return Judged(id=more.pop("id", "r"), split="test", reference=reference, answer=answer, **more)


def totals(rows, fields):
    return {name: (tally.total(), tally.n) for name, tally in measure(lay_out(rows, fields)).items()}


@pytest.mark.parametrize("name", catalog.names(KIND))
def test_every_metric_has_an_example_that_was_worked_out(name):
    module = catalog.find(KIND, name)
    own = getattr(module, name).__module__ == module.__name__  # overall_mae is mae, which has the example
    assert doctest.testmod(module).attempted >= own
    assert doctest.testmod(module).failed == 0
    assert module.BETTER in ("higher", "lower", "zero", "limit")
    assert getattr(module, "NEEDS", None) in (None, "overall", "tiers")
    assert module.UNIT
    assert module.TITLE
    assert callable(getattr(module, name))


labels = st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from("abcd")), min_size=1, max_size=40)


@given(labels)
def test_accuracy_and_macro_f1_are_those_of_scikit_learn(pairs):
    reference, answer = zip(*pairs, strict=True)
    assert accuracy(reference, answer) == pytest.approx(accuracy_score(reference, answer))
    assert macro_f1(reference, answer) == pytest.approx(f1_score(reference, answer, average="macro", zero_division=0))


@given(labels, st.randoms(use_true_random=False))
def test_macro_f1_of_unanswered_rows_is_a_miss_of_their_label_and_no_label_of_its_own(pairs, random):
    reference, answer = zip(*pairs, strict=True)
    answer = [value if random.random() < 0.7 else None for value in answer]
    real = sorted({*reference, *answer} - {None})
    expected = f1_score(reference, [value or "none" for value in answer], labels=real, average="macro", zero_division=0)
    assert macro_f1(reference, answer) == pytest.approx(expected)


@given(st.lists(st.tuples(st.floats(0, 10), st.floats(0, 10)), min_size=1, max_size=30))
def test_mae_is_that_of_scikit_learn(pairs):
    reference, answer = zip(*pairs, strict=True)
    assert mae(reference, answer) == pytest.approx(mean_absolute_error(reference, answer), abs=1e-9)


def test_ece_by_hand():
    # bin (0.6, 0.7]: 0.65 right, 0.70 wrong: |1.35 - 1| = 0.35; bin (0.9, 1]: 1.0 right, 0.95 wrong, 0.91 right: |2.86 - 2| = 0.86
    assert ece([0.65, 0.70, 1.0, 0.95, 0.91], [True, False, True, False, True]) == pytest.approx((0.35 + 0.86) / 5)


def test_a_confidence_on_an_edge_belongs_to_the_bin_below_it():
    assert bin_of(np.array([i / 10 for i in range(11)])).tolist() == [0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9]
    assert bin_of(np.array([0.7, math.nextafter(0.7, 1)])).tolist() == [6, 7]


def test_over_and_under_confidence_in_one_bin_cancel_as_the_definition_says():
    assert ece([0.55, 0.55], [True, False]) == pytest.approx(0.05)


def test_rows_without_a_label_do_not_count_and_rows_without_an_answer_are_wrong():
    rows = [row({"animal": "cat"}, {"animal": "cat"}), row({}, {"animal": "dog"}), row({"animal": "owl"}, None)]
    found = totals(rows, ANIMALS)
    assert found["accuracy.animal"] == (0.5, 2)
    assert found["exact_match"] == (0.5, 2)
    assert found["valid_json"] == (pytest.approx(2 / 3), 3)
    assert found["macro_f1.animal"] == (0.5, 2)  # cat 1, owl 0; dog was answered only where there is no label


def test_mean_errors_leave_out_rows_without_an_answer():
    rows = [row({"risk": 4, "joy": 1.5}, {"risk": 6, "joy": 1.0}), row({"risk": 4}, None), row({"joy": 2.0}, {"risk": 0, "joy": 5.0})]
    found = totals(rows, SCORES)
    assert found["mae.risk"] == (2.0, 1)
    assert found["mae.joy"] == (pytest.approx((0.5 + 3.0) / 2), 2)
    assert found["dimension_mae"] == (pytest.approx((2.0 + 1.75) / 2), 2)


def test_a_score_between_two_steps_matches_its_nearest_step_and_its_error_uses_the_original():
    rows = [row({"risk": 4.4}, {"risk": 4}), row({"risk": 4.5}, {"risk": 5}), row({"risk": 4.6}, {"risk": 4})]
    found = totals(rows, SCORES)
    assert found["exact_match"] == (pytest.approx(2 / 3), 3)
    assert found["mae.risk"] == (pytest.approx((0.4 + 0.5 + 0.6) / 3), 3)


def test_exact_match_counts_the_closed_fields_that_have_a_label():
    fields = {**ANIMALS, "urgent": FieldSpec(kind="flag"), "why": FieldSpec(kind="text")}
    rows = [
        row({"animal": "cat", "urgent": True, "why": "a"}, {"animal": "cat", "urgent": True, "why": "b"}),
        row({"urgent": False}, {"animal": "cat", "urgent": False}),
        row({"animal": "cat", "urgent": True}, {"animal": "cat", "urgent": False}),
        row({"why": "only a text"}, {"animal": "cat", "urgent": False}),
    ]
    assert totals(rows, fields)["exact_match"] == (pytest.approx(2 / 3), 3)


def test_accuracy_without_a_field_is_the_mean_over_choices_and_flags():
    fields = {**ANIMALS, "urgent": FieldSpec(kind="flag"), **SCORES}
    rows = [row({"animal": "cat", "urgent": True}, {"animal": "cat", "urgent": False}), row({"urgent": True}, {"urgent": True})]
    assert totals(rows, fields)["accuracy"] == (0.75, 2)  # animal 1 of 1, urgent 1 of 2


def test_accuracy_of_scores_alone_is_the_share_within_one_point_of_the_overall():
    rows = [row({}, {}, reference_overall=6.4, overall=overall) for overall in (5.4, 7.4, 7.41, None)]
    assert totals(rows, SCORES)["accuracy"] == (0.5, 4)
    assert "accuracy" not in totals([row({"risk": 1}, {"risk": 1})], SCORES)


def test_overall_error_goes_by_two_names_and_tiers_are_compared_as_they_stand():
    rows = [
        row({}, {}, reference_overall=6.0, overall=7.0, reference_tier="high", tier="high"),
        row({}, {}, reference_overall=3.0, overall=2.5, reference_tier="mid", tier="low"),
        row({}, None, reference_overall=3.0, reference_tier="mid"),
    ]
    found = totals(rows, SCORES)
    assert found["overall_mae"] == found["score_mae"] == (0.75, 2)
    assert found["tier_agreement"] == (pytest.approx(1 / 3), 3)


def test_list_f1_compares_sets():
    assert list_f1([["a", "b", "b"]], [["b", "a"]]) == 1.0
    assert list_f1([["a"]], [[]]) == 0.0


def test_perplexity_is_weighted_by_tokens():
    rows = [row({}, {}, nll=4.0, nll_tokens=1), row({}, {}, nll=2.0, nll_tokens=3), row({}, {})]
    found = totals(rows, ANIMALS)
    assert found["nll"] == (1.5, 2)
    assert found["perplexity"] == (pytest.approx(math.e**1.5), 2)


def test_ece_counts_rows_with_a_label_an_answer_and_a_confidence():
    sure = {"animal": 0.95}
    rows = [
        row({"animal": "cat"}, {"animal": "cat"}, confidence=sure),
        row({}, {"animal": "cat"}, confidence=sure),
        row({"animal": "cat"}, None, confidence=sure),
        row({"animal": "cat"}, {"animal": "dog"}),
    ]
    assert totals(rows, ANIMALS)["ece.animal"] == (pytest.approx(0.05), 1)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_a_slice_of_a_tally_is_the_tally_of_the_slice(seed):
    random = np.random.default_rng(seed)
    rows = [
        row(
            {"animal": str(random.choice(["cat", "dog", "owl"])), "risk": int(random.integers(0, 11))},
            {"animal": str(random.choice(["cat", "dog", "owl"])), "risk": int(random.integers(0, 11))} if random.random() < 0.9 else None,
            confidence={"animal": float(random.random())},
            probabilities={"risk": random.dirichlet(np.ones(11)).tolist(), "animal": random.dirichlet(np.ones(4)).tolist()},
            nll_fields={"risk": (float(random.random()), 2.0)},
            reference_overall=float(random.integers(0, 11)),
            overall=float(random.integers(0, 11)),
            reference_tier=str(random.choice(["low", "mid", "high"])),
            tier=str(random.choice(["low", "mid", "high"])),
        )
        for _ in range(20)
    ]
    fields = {**ANIMALS, **SCORES}
    chosen = np.flatnonzero(random.random(20) < 0.5)
    whole = measure(lay_out(rows, fields, TIERS))
    part = measure(lay_out([rows[i] for i in chosen], fields, TIERS))
    assert {name.partition(".")[0] for name in part} >= {"spearman", "kappa", "crps", "ece_mass", "tier_kappa"} or len(chosen) < 5
    for name, tally in part.items():
        taken = whole[name].take(chosen)
        assert (taken.total(), taken.n) == (pytest.approx(tally.total(), nan_ok=True), tally.n), name


def test_the_names_of_a_tasks_metrics_are_known_before_any_row_is():
    assert "accuracy.animal" in metric_names(ANIMALS)
    assert {"overall_mae", "score_mae", "tier_agreement", "accuracy"}.isdisjoint(
        set(metric_names(SCORES, tiers=False)) - set(metric_names(SCORES))
    )
    assert {"overall_mae", "score_mae", "tier_agreement", "accuracy", "dimension_mae", "mae.joy"} <= set(metric_names(SCORES))
    assert {"overall_mae", "tier_agreement", "dimension_mae"}.isdisjoint(metric_names(ANIMALS))
    assert {"tier_agreement", "tier_adjacent", "tier_kappa"} <= set(metric_names(SCORES))
    assert {"tier_agreement", "tier_adjacent", "tier_kappa"}.isdisjoint(metric_names(SCORES, tiers=False))
    assert {"overall_within_0.5", "overall_rmse", "overall_bias", "overall_spearman"} <= set(metric_names(SCORES, tiers=False))
    assert not any(name.startswith("overall") for name in metric_names({"risk": FieldSpec(kind="score")}))


def test_every_public_name_leads_to_its_file():
    for name in metric_names({**ANIMALS, **SCORES}):
        assert isinstance(metric(name), ModuleType)
        assert parts(name)[1] in (None, *ANIMALS, *SCORES)
    assert metric("score_mae") is metric("overall_mae")
    assert is_alias("score_mae") and not is_alias("overall_mae")


def test_a_point_in_a_name_parts_the_field_but_not_a_number():
    assert parts("overall_within_0.5") == ("overall_within_0.5", None)
    assert metric("overall_within_1.0").__name__.endswith(".overall_within")
    assert parts("macro_f1.a.b") == ("macro_f1", "a.b")
    assert parts("mae.overall_within_0.5") == ("mae", "overall_within_0.5")
    with pytest.raises(DistillError) as error:
        metric("overall_withn_0.5")
    assert "overall_within" in (error.value.hint or "")


def test_which_way_is_better_is_known_of_every_name():
    assert [lower_is_better(name) for name in ("mae.risk", "kappa.risk", "bias.risk", "length.why", "brier.animal")] == [1, 0, 1, 1, 1]
    assert [best_at_zero(name) for name in ("bias.risk", "overall_bias", "mae.risk")] == [True, True, False]


def test_names_are_listed_in_a_stable_order():
    assert all(a < b for a, b in pairwise(metric_names({**ANIMALS, **SCORES})))
