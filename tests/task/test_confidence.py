"""A calibration as it is applied and kept: maps, the row's own confidence, deferral, sets, and the file that holds them."""

import dataclasses
import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_distill.errors import OutputError
from mlx_distill.recipe.schema import CapSpec, FieldSpec, GateSpec, TaskSpec
from mlx_distill.records import Prediction
from mlx_distill.task import rubric
from mlx_distill.task.confidence import FILE, Confidence, FieldMap, SetRule, Threshold, default_of, wrong
from mlx_distill.task.decision import decide, place
from mlx_distill.task.deferral import sure, tier_range
from mlx_distill.task.fields import closed_values
from mlx_distill.task.sets import OF_NAMES, OF_SCORES, measure, oddness

FIELDS = {
    "risk": FieldSpec(kind="score", max=4, weight=0.75),
    "reach": FieldSpec(kind="score", max=4, weight=0.25, estimate="mean"),
    "kind": FieldSpec(kind="choice", choices=("fire", "flood", "other")),
    "urgent": FieldSpec(kind="flag"),
    "why": FieldSpec(kind="text"),
}
TASK = TaskSpec(input="{text}", fields=FIELDS, tiers={"high": 3.0, "middle": 1.5, "low": 0.0})
MAPS = {
    "risk": FieldMap(temperature=2.0),
    "reach": FieldMap(temperature=0.5, beta=(0.7, 1.2, -0.3)),
    "kind": FieldMap(isotonic=((0.4, 0.6, 0.9), (0.3, 0.5, 0.8))),
    "urgent": FieldMap(beta=(2.0, 0.0, 1.0)),
}
THRESHOLD = Threshold(of="tier", within=1.0, max_error=0.05, level=0.9, value=0.6)


def predicted(distributions, task=TASK, **more):
    """What a student answers from its distributions."""
    values = {name: closed_values(task.fields[name]) for name in distributions}
    answer = {name: decide(task.fields[name], values[name], p) for name, p in distributions.items()}
    confidence = {name: p[place(task.fields[name], values[name], answer[name])] for name, p in distributions.items()}
    overall, tier = rubric.assess(task, answer)
    return Prediction("a", answer, confidence, distributions, overall, tier, **more)


def distribution(size):
    return st.lists(st.one_of(st.just(0.0), st.floats(1e-12, 1.0)), min_size=size, max_size=size).map(normal)


def normal(weights):
    total = sum(weights)
    return [weight / total for weight in weights] if total > 0 else [1.0] + [0.0] * (len(weights) - 1)


ANY = st.fixed_dictionaries({name: distribution(len(closed_values(spec))) for name, spec in FIELDS.items() if spec.kind != "text"})
MAP = st.builds(
    FieldMap,
    temperature=st.floats(0.05, 20),
    beta=st.none() | st.tuples(st.floats(0, 5), st.floats(0, 5), st.floats(-5, 5)),
)


# Maps


@given(ANY, MAP)
@settings(deadline=None)
def test_applying_keeps_the_answer_and_gives_distributions_that_sum_to_one(distributions, own):
    said = predicted(distributions)
    sets = {name: SetRule(method="cdf" if FIELDS[name].kind == "score" else "aps", quantile=0.3) for name in distributions}
    made = Confidence(fields=dict.fromkeys(distributions, own), threshold=THRESHOLD, sets=sets, coverage=0.9).apply(TASK, said)
    assert made.answer == said.answer and (made.overall, made.tier) == (said.overall, said.tier)
    assert made.raw == said.probabilities
    for name, shares in made.probabilities.items():
        at = place(FIELDS[name], closed_values(FIELDS[name]), said.answer[name])
        assert sum(shares) == pytest.approx(1, abs=1e-9) and min(shares) >= 0
        assert made.confidence[name] == shares[at]
    assert 0 <= made.sure <= 1 and made.defer == (made.sure < 0.6)
    assert said.answer["kind"] in made.sets["kind"] and made.sets["reach"][0] <= said.answer["reach"] <= made.sets["reach"][1]


def test_a_temperature_takes_the_root_of_each_probability():
    made = FieldMap(temperature=2.0).distribution([0.81, 0.16, 0.03], 0)
    roots = [0.9, 0.4, math.sqrt(0.03)]
    assert made == pytest.approx([root / sum(roots) for root in roots])


def test_beta_is_the_published_formula():
    """Kull et al. 2017: 1 / (1 + 1 / (e^c p^a / (1 - p)^b))."""
    a, b, c, p = 0.7, 1.4, 0.2, 0.8
    assert FieldMap(beta=(a, b, c)).right(p) == pytest.approx(1 / (1 + 1 / (math.exp(c) * p**a / (1 - p) ** b)))
    assert FieldMap(beta=(1.0, 1.0, 0.0)).right(0.37) == pytest.approx(0.37)


def test_isotonic_is_straight_between_knots_and_level_outside():
    own = FieldMap(isotonic=((0.4, 0.6, 0.9), (0.3, 0.5, 0.8)))
    assert [own.right(p) for p in (0.0, 0.4, 0.5, 0.9, 1.0)] == pytest.approx(list(np.interp([0, 0.4, 0.5, 0.9, 1], *own.isotonic)))


@given(MAP, st.floats(0, 1), st.floats(0, 1))
def test_who_was_surer_stays_surer(own, one, other):
    low, high = sorted((one, other))
    assert own.right(low) <= own.right(high) + 1e-12


def test_certainty_and_impossibility_are_finite():
    for own in (FieldMap(temperature=3.0), FieldMap(beta=(1.0, 2.0, 0.5)), FieldMap(temperature=0.05, beta=(0.0, 5.0, 5.0))):
        for at in (0, 1):
            made = own.distribution([1.0, 0.0, 0.0], at)
            assert sum(made) == pytest.approx(1) and all(0 <= p <= 1 for p in made)


def test_a_field_of_one_value_stays_certain():
    assert FieldMap(temperature=2.0, beta=(1.0, 1.0, -3.0)).distribution([1.0], 0) == [1.0]


def test_others_share_what_the_answer_leaves_in_their_old_proportions():
    made = FieldMap(isotonic=((0.5,), (0.2,))).distribution([0.6, 0.3, 0.1], 0)
    assert made == pytest.approx([0.2, 0.6, 0.2])


def test_a_mean_has_the_probability_of_its_nearest_value():
    said = predicted({"risk": [0.1, 0.2, 0.3, 0.2, 0.2], "reach": [0.0, 0.3, 0.3, 0.4, 0.0]})
    made = Confidence(fields=MAPS).apply(TASK, said)
    assert said.answer["reach"] == 2.1 and made.confidence["reach"] == made.probabilities["reach"][2]


def test_fields_that_were_not_answered_are_left_out_and_open_ones_left_alone():
    said = dataclasses.replace(predicted({"kind": [0.2, 0.7, 0.1]}), confidence={"kind": 0.7, "why": 0.4})
    said = dataclasses.replace(said, answer={**said.answer, "why": "smoke"})
    made = Confidence(fields=MAPS).apply(TASK, said)
    assert set(made.probabilities) == {"kind"} and made.confidence["why"] == 0.4 and made.sure is None and not made.defer


def test_without_distributions_a_map_of_confidence_is_applied_to_confidence():
    said = Prediction("a", {"kind": "fire", "urgent": True}, {"kind": 0.75, "urgent": 0.5})
    made = Confidence(fields={"kind": MAPS["kind"]}).apply(TASK, said)
    assert made.confidence == {"kind": pytest.approx(0.65), "urgent": 0.5} and made.probabilities == {} and made.raw == {}


@pytest.mark.parametrize(
    ("confidence", "whole"),
    [
        (Confidence(), False),
        (Confidence(fields={"kind": FieldMap(beta=(1.0, 1.0, 0.0))}), False),
        (Confidence(fields={"kind": FieldMap(temperature=1.1)}), True),
        (Confidence(threshold=dataclasses.replace(THRESHOLD, of="answer")), False),
        (Confidence(threshold=THRESHOLD), True),
        (Confidence(sets={"risk": SetRule(method="distance", quantile=1.0)}, coverage=0.9), False),
        (Confidence(sets={"risk": SetRule(method="cdf", quantile=0.3)}, coverage=0.9), True),
        (Confidence(sets={"risk": SetRule(method="cdf", quantile=None)}, coverage=0.9), False),
    ],
)
def test_it_says_whether_it_needs_whole_distributions(confidence, whole):
    assert confidence.whole is whole


def test_a_temperature_without_distributions_is_our_own_fault():
    with pytest.raises(AssertionError, match="whole distribution"):
        Confidence(fields={"kind": FieldMap(temperature=2.0)}).apply(TASK, Prediction("a", {"kind": "fire"}, {"kind": 0.9}))


# How sure a row is


def sure_of(said, of, task=TASK, within=1.0):
    given = {name: getattr(said, name) for name in ("answer", "confidence", "probabilities", "overall", "tier")}
    return sure(task, of, within, **given)


def test_an_answer_is_as_sure_as_all_its_closed_fields_together():
    said = predicted({"risk": [0, 0, 0, 0.5, 0.5], "reach": [0, 0, 1.0, 0, 0], "kind": [0.8, 0.1, 0.1], "urgent": [0.25, 0.75]})
    assert sure_of(said, "answer") == pytest.approx(0.5 * 1.0 * 0.8 * 0.75)
    assert sure_of(said, "kind") == 0.8
    assert sure_of(predicted({"kind": [0.8, 0.1, 0.1]}), "answer") is None


def test_a_score_is_sure_of_what_lies_within():
    said = predicted({"risk": [0.1, 0.15, 0.4, 0.05, 0.3]})
    assert sure_of(said, "risk") == pytest.approx(0.15 + 0.4 + 0.05)
    assert sure_of(said, "risk", within=0.0) == pytest.approx(0.4)
    between = predicted({"reach": [0.0, 0.25, 0.25, 0.5, 0.0]})
    assert between.answer == {"reach": 2.25} and sure_of(between, "reach") == pytest.approx(0.75)


def test_an_overall_is_sure_by_the_normal_distribution_of_the_weighted_sum():
    from scipy.stats import norm

    said = predicted({"risk": [0.1, 0.2, 0.4, 0.2, 0.1], "reach": [0.0, 0.0, 0.5, 0.5, 0.0]})
    mean, deviation = 0.75 * 2 + 0.25 * 2.5, math.sqrt(0.75**2 * 1.2 + 0.25**2 * 0.25)
    assert said.overall == pytest.approx(mean, abs=0.01) and said.tier == "middle"
    bounds = norm(mean, deviation)
    near = bounds.cdf(said.overall + 1.005) - bounds.cdf(said.overall - 1.005)  # an overall is rounded
    assert sure_of(said, "overall") == pytest.approx(near, abs=1e-9)
    assert sure_of(said, "tier") == pytest.approx(bounds.cdf(3.0) - bounds.cdf(1.5), abs=1e-9)


def test_a_certain_overall_is_sure():
    said = predicted({"risk": [0, 0, 0, 0, 1.0], "reach": [0, 0, 0, 0, 1.0]})
    assert said.tier == "high" and sure_of(said, "tier") == 1.0 and sure_of(said, "overall", within=0.0) == 1.0


def test_a_gate_that_has_surely_tripped_makes_its_tier_sure():
    fields = {"risk": dataclasses.replace(FIELDS["risk"], gate=GateSpec(below=2, cap=1.0)), "reach": FIELDS["reach"]}
    gated = TaskSpec(input="{text}", fields=fields, tiers=TASK.tiers)
    said = predicted({"risk": [0, 1.0, 0, 0, 0], "reach": [0, 0, 0, 0, 1.0]}, gated)
    assert (said.overall, said.tier) == (1.0, "low") and sure_of(said, "tier", gated) == 1.0
    half = predicted({"risk": [0, 0.5, 0.5, 0, 0], "reach": [0, 0, 0, 0, 1.0]}, gated)
    assert half.tier == "low" and sure_of(half, "tier", gated) == pytest.approx(0.5)  # the sum is 2.5 where the gate holds: middle


def test_the_measure_agrees_with_drawing_the_scores():
    """Against 200,000 draws of the rubric itself, gates and all: the normal distribution is no more than a few points off."""
    weights = dict(zip("abcde", (0.3, 0.25, 0.2, 0.15, 0.1), strict=True))
    gates = {"a": GateSpec(below=4, cap=4.9), "e": GateSpec(below=3, cap=2.9)}
    task = TaskSpec(
        input="{text}",
        fields={name: FieldSpec(kind="score", weight=weight, gate=gates.get(name)) for name, weight in weights.items()},
        tiers={"high": 6.5, "middle": 4.0, "low": 0.0},
    )
    random = np.random.default_rng(3)
    for _ in range(5):
        shares = {name: random.dirichlet(np.ones(11)) for name in weights}
        said = predicted({name: p.tolist() for name, p in shares.items()}, task)
        drawn = {name: random.choice(11, size=200_000, p=p) for name, p in shares.items()}
        total = sum(weights[name] * drawn[name] for name in weights)
        total = np.where(drawn["a"] < 4, np.minimum(total, 4.9), total)
        total = np.where(drawn["e"] < 3, np.minimum(total, 2.9), total)
        low, high = tier_range(task, said.tier)
        assert sure_of(said, "tier", task) == pytest.approx(((total >= low - 1e-9) & (total < high - 1e-9)).mean(), abs=0.05)


def test_a_row_without_what_its_measure_needs_is_deferred():
    made = Confidence(threshold=THRESHOLD).apply(TASK, Prediction("a", {"kind": "fire"}, {"kind": 1.0}))
    assert made.sure is None and made.defer


def test_without_an_honest_threshold_every_row_is_deferred():
    said = predicted({"risk": [0, 0, 0, 0, 1.0], "reach": [0, 0, 0, 0, 1.0]})
    made = Confidence(threshold=dataclasses.replace(THRESHOLD, value=None)).apply(TASK, said)
    assert made.sure == 1.0 and made.defer


def test_a_row_exactly_at_the_threshold_is_kept():
    said = predicted({"kind": [0.8, 0.1, 0.1]})
    at = Confidence(threshold=Threshold(of="kind", within=1.0, max_error=0.1, level=0.9, value=0.8))
    assert not at.apply(TASK, said).defer
    above = Confidence(threshold=dataclasses.replace(at.threshold, value=np.nextafter(0.8, 1)))
    assert above.apply(TASK, said).defer


# What is wrong


def test_a_row_is_judged_by_its_tier_where_there_are_tiers():
    assert default_of(TASK) == "tier"
    assert default_of(dataclasses.replace(TASK, tiers={})) == "overall"
    assert default_of(TaskSpec(input="{text}", fields={"urgent": FIELDS["urgent"]})) == "answer"


def test_wrong_follows_what_is_asked():
    reference = {"risk": 2.4, "reach": 1, "kind": "fire"}
    sides = {"reference": reference, "reference_overall": 2.05, "reference_tier": "middle"}
    said = {"answer": {"risk": 2, "reach": 1.2, "kind": "fire", "urgent": True}, "overall": 3.05, "tier": "high"}
    both = sides | said
    assert wrong(TASK, "tier", 1.0, **both) is True
    assert wrong(TASK, "overall", 1.0, **both) is False
    assert 8.3 - 7.3 > 1 and wrong(TASK, "overall", 1.0, reference={}, answer={}, reference_overall=7.3, overall=8.3) is False
    assert wrong(TASK, "overall", 0.9, **both) is True
    assert wrong(TASK, "answer", 1.0, **both) is False  # 2.4 is nearest to 2, and 1.2 to 1; the judge left urgent out
    assert wrong(TASK, "risk", 0.3, **both) is True and wrong(TASK, "risk", 0.4, **both) is False
    assert wrong(TASK, "kind", 1.0, **both) is False
    assert wrong(TASK, "urgent", 1.0, **both) is None


def test_no_answer_is_wrong_and_no_label_is_unknown():
    for of in ("tier", "overall", "answer", "risk", "kind"):
        labelled = {"reference": {"risk": 2, "kind": "fire"}, "reference_overall": 2.0, "reference_tier": "middle"}
        assert wrong(TASK, of, 1.0, answer=None, **labelled) is True
        assert wrong(TASK, of, 1.0, answer={"risk": 2, "kind": "fire"}, reference={}) is None


def test_below_every_tier_is_a_tier_of_its_own():
    task = dataclasses.replace(TASK, tiers={"high": 3.0, "middle": 1.5})
    assert tier_range(task, None) == (-math.inf, 1.5) and tier_range(task, "high") == (3.0, math.inf)
    same = {"reference": {}, "reference_overall": 0.5, "answer": {}, "overall": 0.7}
    assert wrong(task, "tier", 1.0, **same) is False
    assert wrong(task, "tier", 1.0, **(same | {"tier": "middle"})) is True


def test_condition_caps_do_not_stop_the_measure():
    task = dataclasses.replace(TASK, caps=(CapSpec(when={"kind": "other"}, cap=1.0),))
    said = predicted({"risk": [0, 0, 0, 0, 1.0], "reach": [0, 0, 0, 0, 1.0], "kind": [0.0, 0.0, 1.0]}, task)
    assert said.tier == "low" and sure_of(said, "tier", task) == 0.0


# Sets


def test_sets_are_those_worked_out_by_hand():
    spec, values, shares = FIELDS["kind"], ("fire", "flood", "other"), [0.2, 0.5, 0.3]
    assert SetRule(method="lac", quantile=0.75).members(spec, values, shares, "flood") == ["flood", "other"]
    assert SetRule(method="aps", quantile=0.85).members(spec, values, shares, "flood") == ["flood", "other"]
    assert SetRule(method="raps", quantile=1.05).members(spec, values, shares, "flood") == ["flood", "other"]  # fire: 1.0 + 0.1
    assert SetRule(method="lac", quantile=0.0).members(spec, values, shares, "flood") == ["flood"]
    assert SetRule(method="lac", quantile=None).members(spec, values, shares, "flood") == list(values)


def test_intervals_are_those_worked_out_by_hand():
    spec, values = FIELDS["risk"], (0, 1, 2, 3, 4)
    shares = [0.1, 0.2, 0.4, 0.2, 0.1]  # middles of the CDF: .05, .2, .5, .8, .95
    assert SetRule(method="cdf", quantile=0.3).members(spec, values, shares, 2) == [1, 3]
    assert SetRule(method="cdf", quantile=0.1).members(spec, values, shares, 3) == [2, 3]  # the answer is always inside
    assert SetRule(method="distance", quantile=1.5).members(spec, values, None, 3) == [1.5, 4.0]
    assert SetRule(method="cdf", quantile=None).members(spec, values, shares, 2) == [0, 4]


def test_equally_likely_values_are_in_or_out_together():
    assert oddness("aps", [0.4, 0.2, 0.2, 0.2], 0) == pytest.approx([0.0, 1.0, 1.0, 1.0])


@given(ANY, st.sampled_from(OF_NAMES), st.sampled_from(OF_SCORES), st.floats(0, 4), st.sampled_from(["fire", "flood", "other"]))
@settings(deadline=None)
def test_a_set_holds_a_value_exactly_where_its_measure_is_within_the_quantile(distributions, of_name, of_score, truth, choice):
    said = predicted(distributions)
    for name, method, value in (("kind", of_name, choice), ("risk", of_score, truth), ("reach", of_score, truth)):
        values = tuple(closed_values(FIELDS[name]))
        most = measure(method, FIELDS[name], values, distributions[name], said.answer[name], value)
        assert holds(name, values, method, most, said, value)
        if most > 1e-6:
            assert not holds(name, values, method, most * 0.999 - 1e-7, said, value)


def holds(name, values, method, quantile, said, value):
    members = SetRule(method=method, quantile=quantile).members(FIELDS[name], values, said.probabilities[name], said.answer[name])
    return members[0] - 1e-9 <= value <= members[1] + 1e-9 if FIELDS[name].kind == "score" else value in members


# The file


FOUND = Confidence(
    fields=MAPS,
    threshold=dataclasses.replace(THRESHOLD, value=0.1 + 0.2),
    sets={"risk": SetRule(method="cdf", quantile=1 / 3), "kind": SetRule(method="aps", quantile=None)},
    coverage=0.9,
    adapter_sha256="ab" * 32,
    facts={"calibration": {"split": "valid"}},
)


def test_what_is_written_is_read_to_the_last_bit(tmp_path):
    FOUND.write(tmp_path)
    assert Confidence.read(tmp_path) == FOUND
    assert [path.name for path in tmp_path.iterdir()] == [FILE]
    Confidence().write(tmp_path)
    assert Confidence.read(tmp_path) == Confidence()


def test_no_file_is_no_calibration(tmp_path):
    assert Confidence.read(tmp_path) is None


def test_the_file_can_be_read_by_a_person(tmp_path):
    FOUND.write(tmp_path)
    document = json.loads((tmp_path / FILE).read_text())
    assert document["version"] == 1 and "mlx-distill evaluate" in document["about"]
    assert document["fields"]["reach"] == {"temperature": 0.5, "beta": {"a": 0.7, "b": 1.2, "c": -0.3}}
    assert document["threshold"]["of"] == "tier" and document["sets"]["fields"]["kind"] == {"method": "aps", "quantile": None}


def damage(path, *keys, value=None):
    document = json.loads(path.read_text())
    inner = document
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = value
    path.write_text(json.dumps(document))


@pytest.mark.parametrize(
    ("keys", "value"),
    [
        (("version",), 2),
        (("fields",), None),
        (("fields", "risk", "temperature"), -1.0),
        (("fields", "risk", "temperature"), float("nan")),
        (("fields", "reach", "beta"), {"a": 1.0}),
        (("fields", "kind", "isotonic", "right"), [0.1]),
        (("fields", "kind", "isotonic", "confidence"), [0.9, 0.6, 0.4]),
        (("threshold", "value"), "high"),
        (("threshold", "value"), float("inf")),
        (("sets", "fields", "kind", "method"), "guess"),
        (("sets",), None),
    ],
)
def test_a_damaged_file_is_refused_with_the_way_out(tmp_path, keys, value):
    FOUND.write(tmp_path)
    damage(tmp_path / FILE, *keys, value=value)
    with pytest.raises(OutputError) as caught:
        Confidence.read(tmp_path)
    assert caught.value.file == str(tmp_path / FILE) and "evaluate the run again" in caught.value.hint


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "\udcff"])
def test_what_is_no_calibration_is_refused(tmp_path, text):
    (tmp_path / FILE).write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(OutputError, match="cannot be read"):
        Confidence.read(tmp_path)
