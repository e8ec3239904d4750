"""Slices, tables and the verdict."""

import dataclasses

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from mlx_distill.errors import RecipeError
from mlx_distill.evaluation import judge as judging
from mlx_distill.evaluation.judge import Judged, against, answered_by, judge, metric_names, verdict
from mlx_distill.evaluation.metrics.ece_mass import ece_mass
from mlx_distill.recipe.schema import FieldSpec

KINDS = ("flood", "fire", "storm")
FIELDS = {"kind": FieldSpec(kind="choice", choices=KINDS), "urgent": FieldSpec(kind="flag")}


def rows(n=120, seed=0, accuracy=0.7):
    random = np.random.default_rng(seed)
    made = []
    for i in range(n):
        truth = {"kind": str(random.choice(KINDS)), "urgent": bool(random.random() < 0.4)}
        answer = {name: value if random.random() < accuracy else judge_otherwise(name, value) for name, value in truth.items()}
        sure = {name: float(random.random()) for name in truth}
        event = "quake" if i < 20 else "flood" if i % 2 else "storm"
        made.append(Judged(id=f"r{i}", split="test", reference=truth, answer=answer, confidence=sure, slices={"event": event}))
    return made


def judge_otherwise(name, value):
    return (not value) if name == "urgent" else KINDS[(KINDS.index(value) + 1) % 3]


def test_slices_come_worst_first_and_small_ones_are_marked():
    entries = judge(rows(), FIELDS, bootstrap=100, slices=["event"])["slices"]["event"]
    values = [entry["metrics"]["accuracy"]["value"] for entry in entries]
    assert values == sorted(values)
    assert {entry["value"]: entry["small"] for entry in entries} == {"quake": True, "flood": False, "storm": False}
    assert sum(entry["n"] for entry in entries) == 120


def test_a_slice_has_the_figures_of_its_rows_alone():
    made = rows()
    entries = judge(made, FIELDS, bootstrap=100, slices=["event"])["slices"]["event"]
    for entry in entries:
        own = judge([row for row in made if row.slices["event"] == entry["value"]], FIELDS, bootstrap=100)
        assert entry["metrics"] == {name: pytest.approx(figure) for name, figure in own["metrics"].items()}


def test_the_order_of_the_rows_changes_nothing():
    made = rows()
    order = np.random.default_rng(1).permutation(len(made))
    one, other = (judge(part, FIELDS, bootstrap=100, slices=["event"]) for part in (made, [made[i] for i in order]))
    assert one == other
    perfect = answered_by(made, {row.id: row.reference for row in made})
    there = against(perfect, made, FIELDS, bootstrap=100)
    assert against([perfect[i] for i in order], [made[i] for i in order], FIELDS, bootstrap=100) == there


def test_slices_may_be_given_row_by_row_in_the_order_of_the_rows():
    made = rows()[::-1]
    values = ["yes" if row.reference["urgent"] else "no" for row in made]
    entries = judge(made, FIELDS, bootstrap=100, slices={"urgent": values})["slices"]["urgent"]
    assert {entry["value"]: entry["n"] for entry in entries} == {word: values.count(word) for word in ("yes", "no")}
    for entry in entries:
        own = [row for row, value in zip(made, values, strict=True) if value == entry["value"]]
        right = sum(row.answer["kind"] == row.reference["kind"] for row in own)
        assert entry["metrics"]["accuracy.kind"]["value"] == pytest.approx(right / len(own))


def test_a_slice_has_bins_of_its_own_rows_masses():
    made = [dataclasses.replace(row, confidence={"kind": 0.5 + 0.004 * i}) for i, row in enumerate(rows())]
    entries = judge(made, FIELDS, bootstrap=100, slices=["event"])["slices"]["event"]
    for entry in entries:
        own = [row for row in made if row.slices["event"] == entry["value"]]
        sure, right = [row.confidence["kind"] for row in own], [row.answer["kind"] == row.reference["kind"] for row in own]
        assert entry["metrics"]["ece_mass.kind"]["value"] == pytest.approx(ece_mass(sure, right))


def test_an_error_is_worst_where_it_is_largest():
    fields = {"risk": FieldSpec(kind="score")}
    made = [Judged(id=str(i), split="test", reference={"risk": 5}, answer={"risk": 5 + i}, slices={"i": str(i)}) for i in range(3)]
    found = judge(made, fields, bootstrap=100, slices=["i"])
    assert found["main"] == "dimension_mae"
    assert [entry["value"] for entry in found["slices"]["i"]] == ["2", "1", "0"]


def test_the_rarest_of_very_many_values_are_pooled(monkeypatch):
    monkeypatch.setattr(judging, "SLICES_AT_MOST", 2)
    made = [Judged(id=str(i), split="test", reference={}, answer={}, slices={"user": user}) for i, user in enumerate("aaabbcd")]
    entries = judge(made, FIELDS, bootstrap=100, slices=["user"])["slices"]["user"]
    assert {entry["value"]: entry["n"] for entry in entries} == {"a": 3, "b": 2, "2 rarer values": 2}


def test_confusion_and_per_label_figures_are_those_of_scikit_learn():
    made = rows()
    table = judge(made, FIELDS, bootstrap=100)["confusion"]["kind"]
    reference, answer = [row.reference["kind"] for row in made], [row.answer["kind"] for row in made]
    assert table["labels"] == list(KINDS)
    assert table["matrix"] == confusion_matrix(reference, answer, labels=KINDS).tolist()
    expected = precision_recall_fscore_support(reference, answer, labels=KINDS)
    for key, values in zip(("precision", "recall", "f1", "support"), expected, strict=True):
        assert table[key] == pytest.approx(values)


def test_a_row_without_an_answer_stands_beside_the_matrix_and_lowers_recall():
    made = [Judged(id=str(i), split="test", reference={"kind": "fire"}, answer=answer) for i, answer in enumerate([{"kind": "fire"}, None])]
    table = judge(made, FIELDS, bootstrap=100)["confusion"]["kind"]
    assert table["unanswered"] == [0, 1, 0]
    assert (table["precision"], table["recall"]) == ([None, 1.0, None], [None, 0.5, None])


def test_a_label_outside_the_recipes_choices_is_shown_and_not_hidden():
    made = [Judged(id="a", split="test", reference={"kind": "fire"}, answer={"kind": "volcano"})]
    assert judge(made, FIELDS, bootstrap=100)["confusion"]["kind"]["labels"] == [*KINDS, "volcano"]


def test_the_bias_of_a_score_is_student_minus_judge():
    pairs = [(2, 4), (6, 7)]
    made = [Judged(id=str(i), split="test", reference={"risk": a}, answer={"risk": b}) for i, (a, b) in enumerate(pairs)]
    found = judge(made, {"risk": FieldSpec(kind="score")}, bootstrap=100)["scores"]["risk"]
    assert found == {"n": 2, "reference_mean": 4.0, "student_mean": 5.5, "bias": 1.5}


def test_the_bins_of_reliability_hold_every_counted_row_once():
    bins = judge(rows(), FIELDS, bootstrap=100)["reliability"]["kind"]
    assert sum(entry["n"] for entry in bins) == 120
    assert all(entry["confidence"] is None or entry["low"] < entry["confidence"] <= entry["high"] for entry in bins)
    gap = sum(entry["n"] * abs(entry["confidence"] - entry["right"]) for entry in bins if entry["n"]) / 120
    assert judge(rows(), FIELDS, bootstrap=100)["metrics"]["ece.kind"]["value"] == pytest.approx(gap)


def test_targets_are_met_in_the_metrics_own_direction():
    metrics = {"accuracy": {"value": 0.88}, "ece.kind": {"value": 0.12}, "mae.risk": {"value": 0.7}}
    targets, word = verdict(metrics, {"accuracy": 0.88, "mae.risk": 0.8})
    assert word == "met"
    assert targets["accuracy"] == {"value": 0.88, "target": 0.88, "met": True}
    assert verdict(metrics, {"accuracy": 0.9, "mae.risk": 0.8})[1] == "missed"
    assert verdict(metrics, {"ece.kind": 0.1})[0]["ece.kind"]["met"] is False
    assert verdict(metrics, {}) == ({}, "none")


def test_a_target_that_is_no_metric_is_refused_with_the_nearest_name():
    metrics = judge(rows(), FIELDS, bootstrap=100)["metrics"]
    with pytest.raises(RecipeError) as error:
        verdict(metrics, {"acuracy.kind": 0.8})
    assert "acuracy.kind" in error.value.message
    assert error.value.hint == "did you mean accuracy.kind?"


def test_a_target_that_could_not_be_measured_is_not_met():
    made = [Judged(id="a", split="test", reference={"kind": "fire"}, answer={"kind": "fire"})]
    metrics = judge(made, FIELDS, bootstrap=100)["metrics"]
    targets, word = verdict(metrics, {"ece.kind": 0.1}, metric_names(FIELDS))
    assert (targets["ece.kind"], word) == ({"value": None, "target": 0.1, "met": False}, "missed")


def test_another_on_the_same_rows_is_compared_pair_by_pair():
    made = rows()
    perfect = answered_by(made, {row.id: row.reference for row in made})
    found = against(perfect, made, FIELDS, bootstrap=200)
    assert found["metrics"]["accuracy"] == pytest.approx(judge(made, FIELDS, bootstrap=200)["metrics"]["accuracy"])
    assert found["difference"]["accuracy"]["value"] == pytest.approx(1 - found["metrics"]["accuracy"]["value"])
    assert found["difference"]["accuracy"]["low"] > 0


def test_another_gets_its_overall_from_the_rubric_and_no_confidence():
    own = {"confidence": {"kind": 0.9}, "probabilities": {"kind": [0.9, 0.1, 0]}, "nll_fields": {"kind": (1.0, 2.0)}, "tokens": 9}
    made = [Judged(id="a", split="test", reference={}, answer={}, overall=1.0, tier="low", **own)]
    (swapped,) = answered_by(made, {"a": {"kind": "fire"}}, lambda row, answer: (7.5, f"{row} {answer['kind']}"))
    assert (swapped.overall, swapped.tier, swapped.confidence) == (7.5, "a fire", {})
    assert (swapped.probabilities, swapped.nll_fields, swapped.tokens) == ({}, {}, None)
    assert answered_by(made, {})[0].answer is None


def test_no_rows_are_judged_without_a_crash():
    found = judge([], FIELDS, bootstrap=100, slices=["event"])
    assert (found["metrics"], found["main"], found["slices"]) == ({}, None, {"event": []})
