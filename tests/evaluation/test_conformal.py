"""Sets and intervals hold the judge's answer as often as was promised: quantiles by hand, coverage over many splits."""

import numpy as np
import pytest
from scipy.stats import binom

from mlx_distill.evaluation.trust import conformal
from mlx_distill.evaluation.trust.assurance import documents, judged, learn
from mlx_distill.evaluation.trust.conformal import find, quantile
from mlx_distill.task.sets import OF_NAMES, OF_SCORES
from tests.evaluation import doubts
from tests.evaluation.doubts import FIELDS, TASK


def test_the_quantile_is_the_one_of_split_conformal_prediction():
    """ceil((n + 1) coverage)-th smallest of n: of 19 rows at 0.9 the 18th, of 9 the 9th, of 8 none."""
    assert quantile([float(i) for i in range(19, 0, -1)], 0.9) == 18.0
    assert quantile([float(i) for i in range(1, 10)], 0.9) == 9.0
    assert quantile([float(i) for i in range(1, 9)], 0.9) is None
    assert quantile([1.0] * 8 + [float("inf")], 0.9) is None
    assert conformal.needed(0.9) == 9


@pytest.mark.parametrize("n", [6, 60])
def test_sets_hold_what_was_promised_on_average_over_splits(n):
    """Over 60 splits coverage is at least what was promised, for every field; a quantile without the + 1 would miss it at n = 6."""
    fit = doubts.rows(40, 1, prefix="v")
    pool = doubts.rows(1500, 2)
    random = np.random.default_rng(3)
    held = dict.fromkeys(FIELDS, 0)
    for _ in range(60):
        chosen = random.choice(len(pool), n + 50, replace=False)
        rules, _ = find(TASK, 0.8, fit, [pool[i] for i in chosen[:n]])
        for name, rule in rules.items():
            rows = [pool[i] for i in chosen[n:]]
            members = [conformal._members(rule, name, FIELDS[name], row) for row in rows]
            held[name] += sum(conformal.holds(FIELDS[name], own, row.reference[name]) for own, row in zip(members, rows, strict=True))
    for name, hits in held.items():
        assert hits / 3000 >= 0.8 - 0.03, name


@pytest.fixture(scope="module")
def told():
    recipe = doubts.recipe(coverage=0.9)
    confidence = learn(recipe, doubts.rows(400, 1, prefix="v"), doubts.rows(600, 2, prefix="c"))
    before = doubts.rows(800, 3)
    after = [judged(row, confidence, TASK) for row in before]
    return confidence, after, documents(recipe, confidence, before, after)["conformal"]


def test_the_report_says_how_often_sets_hold_and_how_large_they_are(told):
    confidence, after, found = told
    assert found["coverage"] == 0.9 and found["split"] == "calibrate" and set(found["fields"]) == set(FIELDS)
    for name, entry in found["fields"].items():
        assert entry["n"] == 600 and not entry["every"]
        sets = [row.sets[name] for row in after]
        if FIELDS[name].kind == "score":
            hits = sum(low <= row.reference[name] <= high for (low, high), row in zip(sets, after, strict=True))
            assert entry["size"] == pytest.approx(np.mean([high - low for low, high in sets])) and entry["counts"] is None
            assert confidence.sets[name].method in OF_SCORES
        else:
            hits = sum(row.reference[name] in own for own, row in zip(sets, after, strict=True))
            assert entry["size"] == pytest.approx(np.mean([len(own) for own in sets]))
            assert sum(n for _, n in entry["counts"]) == 800 and confidence.sets[name].method in OF_NAMES
        assert entry["coverage"]["value"] == hits / 800 and entry["coverage"]["n"] == 800
        assert binom.cdf(hits, 800, 0.87) > 1e-3  # 600 rows leave the true coverage within a few points of what was promised


def test_sets_always_hold_the_students_own_answer(told):
    _, after, _ = told
    for row in after:
        for name, own in row.sets.items():
            assert conformal.holds(FIELDS[name], own, row.answer[name])


def test_the_measure_with_the_smallest_sets_is_taken():
    _, facts = find(TASK, 0.9, doubts.rows(400, 1), doubts.rows(400, 2, prefix="c"))
    for name, entry in facts.items():
        assert entry["sizes"][entry["method"]] == min(entry["sizes"].values()), name
    assert set(facts["kind"]["sizes"]) == set(OF_NAMES) and set(facts["risk"]["sizes"]) == set(OF_SCORES)


def test_too_few_rows_leave_every_value_open_and_say_so():
    recipe = doubts.recipe(coverage=0.9)
    confidence = learn(recipe, doubts.rows(100, 1, prefix="v"), doubts.rows(8, 2, prefix="c"))
    rows = [judged(row, confidence, TASK) for row in doubts.rows(20, 3)]
    assert all(row.sets["kind"] == list(FIELDS["kind"].choices) and row.sets["risk"] == [0, 5] for row in rows)
    found = documents(recipe, confidence, rows, rows)["conformal"]["fields"]
    assert all(entry["every"] and entry["coverage"]["value"] == 1.0 and entry["needed"] == 9 for entry in found.values())


def test_without_distributions_scores_have_intervals_of_one_width_and_choices_every_value():
    import dataclasses

    def bare(n, seed):
        return [dataclasses.replace(row, probabilities={}) for row in doubts.rows(n, seed)]

    rules, facts = find(TASK, 0.8, bare(50, 1), bare(50, 2))
    assert rules["risk"].method == "distance" and rules["risk"].quantile is not None
    assert rules["kind"].quantile is None and facts["kind"]["whole"] is False


def test_the_order_of_the_rows_does_not_matter():
    fit, guarantee = doubts.rows(100, 1), doubts.rows(100, 2)
    one, other = find(TASK, 0.9, fit, guarantee)[0], find(TASK, 0.9, fit[::-1], guarantee[::-1])[0]
    assert one == other


def test_who_asks_for_no_coverage_gets_no_sets():
    confidence = learn(doubts.recipe(), doubts.rows(50, 1), doubts.rows(50, 2))
    assert confidence.sets == {} and confidence.coverage is None
    assert conformal.document(TASK, confidence, doubts.rows(5, 3)) is None
