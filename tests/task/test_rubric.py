"""Overall and tier of the two filters that are in use, worked out by hand."""

from __future__ import annotations

from typing import Any

import pytest

from mlx_distill.recipe.schema import CapSpec, FieldSpec, GateSpec, TaskSpec
from mlx_distill.task.rubric import assess, tier

WEIGHTS = {
    "deployment_maturity": 0.20, "technology_performance": 0.15, "cost_trajectory": 0.15, "scale_of_deployment": 0.15,
    "market_penetration": 0.15, "technology_readiness": 0.10, "supply_chain_maturity": 0.05, "proof_of_impact": 0.05,
}  # fmt: skip
GATES = {"deployment_maturity": GateSpec(below=5, cap=4.9), "proof_of_impact": GateSpec(below=4, cap=3.9)}
TECH = TaskSpec(
    input="{title}",
    fields={name: FieldSpec(kind="score", weight=weight, gate=GATES.get(name)) for name, weight in WEIGHTS.items()},
    tiers={"mass_deployment": 8.0, "commercial_proven": 6.5, "early_commercial": 5.0, "pilot_stage": 3.0, "vaporware": 0},
)
UPLIFTING_WEIGHTS = {
    "agency": 0.14, "progress": 0.19, "collective_benefit": 0.38, "connection": 0.10, "innovation": 0.08, "justice": 0.04,
    "resilience": 0.02, "wonder": 0.05,
}  # fmt: skip
UPLIFTING = TaskSpec(
    input="{title}",
    fields={name: FieldSpec(kind="score", weight=weight) for name, weight in UPLIFTING_WEIGHTS.items()}
    | {"content_type": FieldSpec(kind="choice", choices=("corporate_finance", "military_security", "business_news", "solutions_story"))},
    tiers={"impact": 7, "connection": 4, "not_uplifting": 0},
    caps=(
        CapSpec(when={"content_type": "corporate_finance"}, cap=2),
        CapSpec(when={"content_type": "military_security"}, cap=4),
        CapSpec(when={"content_type": "business_news", "collective_benefit": {"below": 6}}, cap=4),
    ),
)


def tech(*scores: float) -> dict[str, Any]:
    return dict(zip(WEIGHTS, scores, strict=True))


@pytest.mark.parametrize(
    ("scores", "overall", "name"),
    [
        # 8 x 1; 7 x 1; 6.4 x 1
        ((8,) * 8, 8.0, "mass_deployment"),
        ((7,) * 8, 7.0, "commercial_proven"),
        ((6.4,) * 8, 6.4, "early_commercial"),
        # 1.4 + 0.9 + 1.05 + 0.9 + 1.05 + 0.6 + 0.3 + 0.3
        ((7, 6, 7, 6, 7, 6, 6, 6), 6.5, "commercial_proven"),
        # 1.2 + 0.75 + 0.6 + 0.75 + 0.6 + 0.6 + 0.25 + 0.25
        ((6, 5, 4, 5, 4, 6, 5, 5), 5.0, "early_commercial"),
        # 1.0 + 0.3 + 0.3 + 0.3 + 0.3 + 0.3 + 0.1 + 0.2
        ((5, 2, 2, 2, 2, 3, 2, 4), 2.8, "vaporware"),
        ((0,) * 8, 0.0, "vaporware"),
        ((10,) * 8, 10.0, "mass_deployment"),
    ],
)
def test_the_overall_is_the_weighted_sum_and_the_tier_the_first_it_reaches(scores: tuple[float, ...], overall: float, name: str) -> None:
    assert assess(TECH, tech(*scores)) == (overall, name)


@pytest.mark.parametrize(
    ("scores", "overall", "name"),
    [
        ((5, 5, 6, 8, 8, 8, 6, 7), 6.5, "commercial_proven"),
        ((5, 5, 7, 7, 8, 8, 6, 7), 6.5, "commercial_proven"),
        ((7, 7, 9, 9, 9, 7, 7, 9), 8.0, "mass_deployment"),
        ((7, 7, 9, 9, 9, 8, 7, 7), 8.0, "mass_deployment"),
    ],
)
def test_a_threshold_that_is_met_exactly_is_not_missed_by_a_floating_point_bit(scores: tuple[int, ...], overall: float, name: str) -> None:
    assert sum(WEIGHTS[key] * score for key, score in tech(*scores).items()) < overall, "the trap"
    assert assess(TECH, tech(*scores)) == (overall, name)


def test_the_tier_is_chosen_before_the_overall_is_rounded() -> None:
    scores = tech(6.5, 6.5, 6.5, 6.5, 6.5, 6.5, 6.5, 6.49)  # 6.5 - 0.05 x 0.01 = 6.4995
    assert assess(TECH, scores) == (6.5, "early_commercial")


@pytest.mark.parametrize(
    ("scores", "overall", "name"),
    [
        ((4, 9, 9, 9, 9, 9, 9, 9), 4.9, "pilot_stage"),  # 0.8 + 7.2 = 8.0, capped
        ((4.9, 9, 9, 9, 9, 9, 9, 9), 4.9, "pilot_stage"),
        ((5, 9, 9, 9, 9, 9, 9, 9), 8.2, "mass_deployment"),  # at the threshold the gate is open
        ((9, 9, 9, 9, 9, 9, 9, 3), 3.9, "pilot_stage"),  # 8.55 + 0.15 = 8.7, capped
        ((9, 9, 9, 9, 9, 9, 9, 4), 8.75, "mass_deployment"),
        ((4, 9, 9, 9, 9, 9, 9, 3), 3.9, "pilot_stage"),  # both: the lower
        ((2, 2, 2, 2, 2, 2, 2, 2), 2.0, "vaporware"),  # a cap never raises
    ],
)
def test_a_score_below_its_gate_caps_the_overall(scores: tuple[float, ...], overall: float, name: str) -> None:
    assert assess(TECH, tech(*scores)) == (overall, name)


@pytest.mark.parametrize("gone", WEIGHTS)
def test_without_one_dimension_there_is_no_overall(gone: str) -> None:
    scores = tech(*(8,) * 8)
    del scores[gone]
    assert assess(TECH, scores) == (None, None)


def test_a_gate_on_a_score_without_weight_needs_that_score_too() -> None:
    fields = {"a": FieldSpec(kind="score", weight=1.0), "sure": FieldSpec(kind="score", gate=GateSpec(below=5, cap=1))}
    task = TaskSpec(input="{t}", fields=fields, tiers={"high": 5, "low": 0})
    assert assess(task, {"a": 8, "sure": 4}) == (1.0, "low")
    assert assess(task, {"a": 8, "sure": 5}) == (8.0, "high")
    assert assess(task, {"a": 8}) == (None, None), "whether it is capped is not known"


STORY = {
    "agency": 8, "progress": 7, "collective_benefit": 8, "connection": 6, "innovation": 5, "justice": 4, "resilience": 3, "wonder": 2,
}  # fmt: skip


@pytest.mark.parametrize(
    ("content_type", "changed", "overall", "name"),
    [
        # 1.12 + 1.33 + 3.04 + 0.6 + 0.4 + 0.16 + 0.06 + 0.1
        ("solutions_story", {}, 6.81, "connection"),
        ("corporate_finance", {}, 2.0, "not_uplifting"),
        ("military_security", {}, 4.0, "connection"),
        ("business_news", {}, 6.81, "connection"),
        # collective benefit 5: 1.9 in place of 3.04 gives 5.67
        ("solutions_story", {"collective_benefit": 5}, 5.67, "connection"),
        ("business_news", {"collective_benefit": 5}, 4.0, "connection"),
        # at 6 the condition does not hold: 2.28 in place of 3.04 gives 6.05
        ("business_news", {"collective_benefit": 6}, 6.05, "connection"),
        # 0.14 + 0.19 + 0.38 + 0.10 + 0.08 + 0.04 + 0.02 + 0.05 = 1, so all 7 give 7
        ("solutions_story", dict.fromkeys(STORY, 7), 7.0, "impact"),
        ("corporate_finance", dict.fromkeys(STORY, 1), 1.0, "not_uplifting"),
    ],
)
def test_caps_follow_the_content_type(content_type: str, changed: dict[str, int], overall: float, name: str) -> None:
    assert assess(UPLIFTING, STORY | changed | {"content_type": content_type}) == (overall, name)


def test_a_cap_whose_field_is_missing_does_not_hold() -> None:
    assert assess(UPLIFTING, STORY) == (6.81, "connection")
    columns = {"content_type": "corporate_finance"}
    assert assess(UPLIFTING, STORY, columns) == (6.81, "connection"), "the record's column is the judge's answer, not this one's"


def capped(when: dict[str, Any], record: dict[str, Any]) -> bool:
    task = TaskSpec(input="{t}", fields={"a": FieldSpec(kind="score", weight=1.0)}, caps=(CapSpec(when=when, cap=1),))
    return assess(task, {"a": 8}, record) == (1.0, None)


@pytest.mark.parametrize(
    ("when", "record", "holds"),
    [
        ({"source": "wire"}, {"source": "wire"}, True),
        ({"source": ["wire", "blog"]}, {"source": "blog"}, True),
        ({"source": ["wire", "blog"]}, {"source": "paper"}, False),
        ({"source": "wire"}, {}, False),
        ({"source": "wire"}, {"source": None}, False),
        ({"metadata.source": "wire"}, {"metadata": {"source": "wire"}}, True),
        ({"words": {"below": 100}}, {"words": 99}, True),
        ({"words": {"below": 100}}, {"words": "99"}, True),
        ({"words": {"below": 100}}, {"words": 100}, False),
        ({"words": {"at_least": 100}}, {"words": "100"}, True),
        ({"words": {"at_least": 10, "below": 100}}, {"words": 50}, True),
        ({"words": {"at_least": 10, "below": 100}}, {"words": 5}, False),
        ({"words": {"below": 100}}, {"words": "n/a"}, False),
        ({"words": {"below": 100}}, {"words": ""}, False),
        ({"words": {"at_least": 100}}, {"words": [1]}, False),
        ({"year": 2020}, {"year": "2020"}, True),
        ({"year": 2020}, {"year": 2020}, True),
        ({"year": 2020}, {"year": "soon"}, False),
        ({"sponsored": True}, {"sponsored": "True"}, True),
        ({"sponsored": False}, {"sponsored": "true"}, False),
        ({"sponsored": True, "words": {"below": 10}}, {"sponsored": True, "words": 9}, True),
        ({"sponsored": True, "words": {"below": 10}}, {"sponsored": True, "words": 11}, False),
    ],
)
def test_a_condition_may_be_on_a_column_of_the_record(when: dict[str, Any], record: dict[str, Any], holds: bool) -> None:
    assert capped(when, record) is holds


def test_a_task_without_weights_has_no_overall() -> None:
    assert assess(TaskSpec(input="{t}", fields={"a": FieldSpec(kind="score")}), {"a": 8}) == (None, None)


def test_an_overall_below_the_lowest_tier_has_none() -> None:
    task = TaskSpec(input="{t}", fields={}, tiers={"high": 5, "low": 1})
    assert [tier(task, overall) for overall in (0.99, 1, 4.99, 5)] == [None, "low", "low", "high"]


def test_the_order_in_which_tiers_are_written_does_not_matter() -> None:
    turned = TaskSpec(input="{t}", fields=TECH.fields, tiers=dict(reversed(TECH.tiers.items())))
    assert assess(turned, tech(*(7,) * 8)) == (7.0, "commercial_proven")


def test_tiers_are_named_from_the_lowest_to_the_highest_however_they_are_written() -> None:
    task = TaskSpec(input="{t}", fields={"risk": FieldSpec(kind="score", weight=1)}, tiers={"middle": 4, "high": 7.5, "low": 0, "none": -1})
    assert task.tiers_upwards == ["none", "low", "middle", "high"]
    assert [tier(task, overall) for overall in (-2, -1, 3.99, 4, 7.5, 10)] == [None, "none", "low", "middle", "high", "high"]
    assert TaskSpec(input="{t}", fields={}).tiers_upwards == []
