"""Rates by group and the gaps between groups: worked by hand, and as fairlearn 0.15 has them (its figures stand here as numbers)."""

import numpy as np
import pytest

from mlx_distill.evaluation.fairness import fairness, gaps, rates
from mlx_distill.evaluation.fairness.groups import judge
from mlx_distill.evaluation.fairness.members import mixed
from mlx_distill.evaluation.judge import Judged
from mlx_distill.recipe.schema import FairnessSpec, FieldSpec, TaskSpec
from tests.fairness_cases import BY_LANGUAGE, row, rows_of

FLAG = TaskSpec(input="{text}", fields={"urgent": FieldSpec(kind="flag")})
KINDS = TaskSpec(input="{text}", fields={"kind": FieldSpec(kind="choice", choices=("fire", "flood", "storm"))})
SCORE = TaskSpec(input="{text}", fields={"risk": FieldSpec(kind="score", min=0, max=5)})
BY_REGION = {"north": [[30, 4, 6], [3, 40, 2], [5, 5, 20]], "south": [[20, 10, 5], [6, 30, 9], [2, 3, 15]]}


def judged(task, rows, column="group", *, most=0.1, bootstrap=400, seed=0):
    return judge(column, task, rows, most=most, bootstrap=bootstrap, seed=seed)


def gap(found, field, name):
    return next(entry for entry in found["fields"][field]["gaps"] if entry["name"] == name)


def test_rates_and_gaps_of_a_flag_are_those_of_fairlearn():
    found = judged(FLAG, rows_of("urgent", BY_LANGUAGE, (False, True)))
    assert gap(found, "urgent", "equalized_odds")["value"] == pytest.approx(0.14383989993746082)
    assert gap(found, "urgent", "equal_opportunity")["value"] == pytest.approx(0.14383989993746082)
    assert gap(found, "urgent", "demographic_parity")["value"] == pytest.approx(0.12139961595903559)
    greek = next(group for group in found["fields"]["urgent"]["groups"] if group["value"] == "el")
    shares = {rate: figure["value"] for rate, figure in greek["labels"]["true"].items()}
    assert shares == pytest.approx(
        {"selection": 42 / 86, "reference": 41 / 86, "tpr": 33 / 41, "fnr": 8 / 41, "fpr": 9 / 45, "precision": 33 / 42}
    )
    assert greek["accuracy"]["value"] == pytest.approx(69 / 86) and greek["labels"]["true"]["tpr"]["n"] == 41


def test_of_a_choice_each_label_is_held_against_the_rest_and_the_worst_is_named():
    found = judged(KINDS, rows_of("kind", BY_REGION, ("fire", "flood", "storm")))
    # fairlearn, label by label: equalised odds 0.17857, 0.22222, 0.08333; demographic parity 0.05043, 0.00391, 0.04652
    worst = gap(found, "kind", "equalized_odds")
    assert (worst["value"], worst["label"], worst["rate"]) == (pytest.approx(0.2222222), "flood", "tpr")
    assert worst["pair"] == ["north", "south"] and worst["values"] == pytest.approx([40 / 45, 30 / 45])
    parity = gap(found, "kind", "demographic_parity")
    assert (parity["value"], parity["label"]) == (pytest.approx(0.0504348), "fire")
    assert gap(found, "kind", "accuracy")["value"] == pytest.approx(90 / 115 - 65 / 100)


def test_false_alarms_of_one_group_are_found_where_nothing_is_overlooked():
    found = judged(FLAG, rows_of("urgent", {"a": [[50, 50], [0, 50]], "b": [[100, 0], [0, 50]]}, (False, True)))
    worst = gap(found, "urgent", "equalized_odds")
    assert (worst["rate"], worst["value"]) == ("fpr", 0.5)
    assert gap(found, "urgent", "equal_opportunity")["value"] == 0
    assert worst["verdict"] == found["verdict"] == "missed"


def test_a_row_without_an_answer_got_no_label():
    made = [row(i, "urgent", "a" if i < 40 else "b", True, True if i < 60 else None) for i in range(80)]
    found = judged(FLAG, made)
    silent = next(group for group in found["fields"]["urgent"]["groups"] if group["value"] == "b")
    assert (silent["unanswered"], silent["labels"]["true"]["tpr"]["value"], silent["accuracy"]["value"]) == (20, 0.5, 0.5)
    assert gap(found, "urgent", "equalized_odds")["value"] == 0.5


def test_groups_that_are_alike_are_met_where_rows_suffice_and_not_certain_where_they_do_not():
    alike = {"a": [[450, 50], [50, 450]], "b": [[450, 50], [50, 450]]}
    few = {group: [[count // 15 for count in line] for line in table] for group, table in alike.items()}
    assert judged(FLAG, rows_of("urgent", alike, (False, True)))["verdict"] == "met"
    uncertain = judged(FLAG, rows_of("urgent", few, (False, True)))
    assert uncertain["verdict"] == "not certain"
    assert gap(uncertain, "urgent", "accuracy")["low"] == 0 and gap(uncertain, "urgent", "accuracy")["p"] > 0.9


def test_a_group_of_few_rows_is_shown_and_takes_no_part():
    tables = {"a": [[40, 10], [10, 40]], "b": [[40, 10], [10, 40]], "tiny": [[0, 14], [15, 0]]}
    found = judged(FLAG, rows_of("urgent", tables, (False, True)))
    assert [(group["value"], group["small"]) for group in found["groups"]] == [("a", False), ("b", False), ("tiny", True)]
    accuracy = gap(found, "urgent", "accuracy")
    assert (accuracy["value"], accuracy["compared"]) == (0, 2)
    assert found["fields"]["urgent"]["groups"][2]["accuracy"]["value"] == 0


def test_a_rate_over_a_handful_of_rows_takes_no_part():
    tables = {"a": [[60, 0], [0, 40]], "b": [[60, 0], [9, 0]]}  # nine rows of b are urgent, none was found
    found = judged(FLAG, rows_of("urgent", tables, (False, True)))
    assert gap(found, "urgent", "equalized_odds")["rate"] == "fpr"
    assert not [entry for entry in found["fields"]["urgent"]["gaps"] if entry["name"] == "equal_opportunity"]


def test_demographic_parity_decides_nothing_where_the_judge_sees_the_groups_differently():
    found = judged(FLAG, rows_of("urgent", {"a": [[200, 0], [0, 800]], "b": [[800, 0], [0, 200]]}, (False, True)))
    parity = gap(found, "urgent", "demographic_parity")
    assert (parity["value"], parity["decides"], found["verdict"]) == (pytest.approx(0.6), False, "met")
    assert parity["chance"] == pytest.approx(0.6)  # a student that follows the judge alone shows the same


def test_the_gap_that_chance_brings_is_that_of_exchanged_groups():
    random = np.random.default_rng(2)
    made = [row(i, "urgent", f"g{i % 10}", True, bool(random.random() < 0.8)) for i in range(400)]
    found = gap(judged(FLAG, made), "urgent", "accuracy")
    assert found["p"] > 0.05
    # ten shares of 40 rows, 0.8 each: the range of ten normal figures is 3.08 standard deviations of 0.0632 (0.0633 without replacement)
    assert found["chance"] == pytest.approx(3.08 * 0.0632, rel=0.06)
    assert found["low"] == 0


def test_a_known_difference_stands_out_of_chance():
    random = np.random.default_rng(3)
    made = [row(i, "urgent", "el" if i % 2 else "en", True, bool(random.random() < (0.6 if i % 2 else 0.9))) for i in range(600)]
    found = gap(judged(FLAG, made), "urgent", "accuracy")
    assert found["low"] < 0.3 < found["high"] and found["low"] > 0.1
    assert found["p"] == pytest.approx(1 / 401) and found["verdict"] == "missed"


def test_scores_are_compared_by_error_and_by_direction_in_points_and_as_a_share_of_the_range():
    made = [row(i, "risk", "a" if i < 60 else "b", i % 3 + 1, i % 3 + 1 + (1 if i < 60 else -1 if i % 2 else 1)) for i in range(120)]
    found = judged(SCORE, made)
    bias, mae = gap(found, "risk", "bias"), gap(found, "risk", "mae")
    assert (bias["value"], bias["points"], bias["pair"]) == (pytest.approx(0.2), pytest.approx(1.0), ["a", "b"])
    assert bias["values"] == pytest.approx([1.0, 0.0])
    assert (mae["value"], mae["verdict"]) == (0, "met")
    assert bias["low"] < 0.2 < bias["high"] and bias["verdict"] == "missed"


def test_groups_of_one_size_and_the_same_errors_are_still_drawn_apart():
    made = [row(i, "risk", "ab"[i % 2], 2, 2 + (i // 2) % 3) for i in range(120)]
    found = gap(judged(SCORE, made), "risk", "mae")
    assert found["value"] == 0 and 0.01 < found["high"] < 0.2
    # by chance: 0.798 standard deviations of the difference of two means of 60 out of 120, errors of variance 2/3; of 5 points
    assert found["chance"] == pytest.approx(0.798 * (2 / 3 * 4 / 120) ** 0.5 / 5, rel=0.15)


def test_of_scores_too_a_group_of_few_rows_takes_no_part():
    made = [row(i, "risk", "a" if i < 40 else "b" if i < 80 else "tiny", 1, 1 if i < 80 else 5) for i in range(109)]
    found = judged(SCORE, made)
    assert (gap(found, "risk", "mae")["value"], gap(found, "risk", "mae")["compared"], found["verdict"]) == (0, 2, "met")
    assert found["fields"]["risk"]["groups"][2]["mae"]["value"] == 4


def test_overall_and_tier_are_compared_too():
    task = TaskSpec(input="{t}", fields={"risk": FieldSpec(kind="score", weight=1.0)}, tiers={"high": 5, "low": 0})
    made = [
        Judged(
            id=str(i),
            split="test",
            reference={"risk": 6},
            answer={"risk": 6 - 2 * (i % 2)},
            record={"g": "ab"[i % 2]},
            reference_overall=6.0,
            overall=6.0 - 2 * (i % 2),
            reference_tier="high",
            tier="low" if i % 2 else "high",
        )
        for i in range(80)
    ]
    found = judged(task, made, "g")
    assert gap(found, "overall", "mae")["points"] == pytest.approx(2)
    assert gap(found, "tier", "accuracy")["value"] == 1.0


def test_a_row_without_an_answer_has_no_tier_that_could_be_right():
    task = TaskSpec(input="{t}", fields={"risk": FieldSpec(kind="score", weight=1.0)}, tiers={"high": 5})
    made = [
        Judged(id=str(i), split="test", reference={"risk": 2}, answer=None, record={"g": "ab"[i % 2]}, reference_overall=2.0)
        for i in range(80)
    ]
    groups = judged(task, made, "g")["fields"]["tier"]["groups"]
    assert [(group["unanswered"], group["accuracy"]["value"]) for group in groups] == [(40, 0), (40, 0)]
    assert list(groups[0]["labels"]) == ["no tier"]


def test_one_column_that_misses_is_a_section_that_misses():
    made = rows_of("urgent", {"a": [[50, 50], [0, 50]], "b": [[100, 0], [0, 50]]}, (False, True))
    found = fairness(FairnessSpec(groups=("group",)), FLAG, made, list, bootstrap=100, seed=0, say=print, show_texts=True)
    assert found["verdict"] == "missed" and found["tested"] == 4


def test_a_row_without_the_column_or_without_a_label_does_not_count_and_nested_columns_are_found():
    made = rows_of("urgent", {"a": [[20, 20], [20, 20]], "b": [[20, 20], [20, 20]]}, (False, True))
    made = [Judged(id=one.id, split="test", reference=one.reference, answer=one.answer, record={"meta": one.record}) for one in made]
    made += [Judged(id="x", split="test", reference={"urgent": True}, answer=None, record={"meta": {"group": None}})]
    made += [Judged(id="y", split="test", reference={}, answer=None, record={"meta": {"group": "a"}})]
    found = judged(FLAG, made, "meta.group")
    assert (found["unknown"], found["fields"]["urgent"]["n"]) == (1, 160)
    assert {group["value"]: group["n"] for group in found["groups"]} == {"a": 81, "b": 80}


def test_the_rarest_of_very_many_groups_are_left_out_and_counted():
    made = [row(i, "urgent", f"g{i % 35}", True, True) for i in range(35 * 3)]
    found = judged(FLAG, made, bootstrap=100)
    assert (len(found["groups"]), found["left_out"]) == (30, 5)


@pytest.mark.parametrize(
    ("records", "words"),
    [
        ([{}] * 60, "no row has a value of it"),
        ([{"group": "el"}] * 60, "every row has the same, el"),
        ([{"group": "el"}] * 40 + [{"group": "en"}] * 20, "1 of its values has 30 rows"),
    ],
)
def test_a_column_that_compares_nothing_is_said_to_be_so_and_has_no_verdict(records, words):
    made = [Judged(id=str(i), split="test", reference={"urgent": True}, answer={"urgent": True}, record=r) for i, r in enumerate(records)]
    said = []
    found = fairness(FairnessSpec(groups=("group",)), FLAG, made, list, bootstrap=100, seed=0, say=said.append, show_texts=True)
    assert said == [f"fairness: group compares nothing: {words}"]
    assert found["verdict"] == found["groups"]["group"]["verdict"] == "none"


def test_the_same_seed_gives_the_same_document():
    made = rows_of("urgent", BY_LANGUAGE, (False, True))
    assert judged(FLAG, made) == judged(FLAG, made)
    assert judged(FLAG, made) != judged(FLAG, made, seed=1)


def test_mixing_keeps_the_size_of_groups_within_each_stratum():
    random = np.random.default_rng(0)
    groups, strata = random.integers(0, 3, 60), random.integers(0, 2, 60)
    before = groups.copy()
    drawn = list(mixed(groups, strata, 5, random))
    assert (groups == before).all() and any((one != groups).any() for one in drawn)
    for one in drawn:
        for stratum in (0, 1):
            assert np.bincount(one[strata == stratum]).tolist() == np.bincount(groups[strata == stratum]).tolist()


def test_resampled_rates_spread_as_shares_do():
    made = rows_of("urgent", {"a": [[40, 10], [10, 90]], "b": [[75, 25], [20, 80]]}, (False, True))
    found = judged(FLAG, made, bootstrap=4000)
    figure = found["fields"]["urgent"]["groups"][0]["accuracy"]  # b, the larger: 155 of 200
    assert (figure["low"], figure["high"]) == pytest.approx((0.775 - 1.96 * 0.0295, 0.775 + 1.96 * 0.0295), abs=0.008)


def test_the_interval_of_two_shares_is_that_of_agresti_and_caffo():
    """Their formula, 1.96 standard errors about the difference of (x + 1) / (n + 2): 9 of 10 and 3 of 10 give 0.5 ± 0.34."""
    values, trials = np.array([0.9, 0.3]), np.array([10.0, 10.0])
    still = np.repeat(values[None], 50, axis=0)
    found = gaps.largest([gaps.differences(values, still, trials)])
    assert (found["value"], found["low"], found["high"]) == (
        pytest.approx(0.6),
        pytest.approx(0.16, abs=1e-4),
        pytest.approx(0.84, abs=1e-4),
    )


def test_the_interval_of_the_largest_difference_holds_the_truth_as_often_as_it_says():
    random = np.random.default_rng(4)
    truth, size, held = np.array([0.75, 0.8, 0.85, 0.8, 0.8]), 80, 0
    for _ in range(200):
        values = random.binomial(size, truth) / size
        draws = random.binomial(size, values, size=(300, 5)) / size
        found = gaps.largest([gaps.differences(values, draws, np.full(5, float(size)))])
        held += found["low"] <= 0.1 <= found["high"]
    assert held >= 184


def test_many_groups_without_a_difference_hardly_ever_seem_to_have_one():
    random = np.random.default_rng(5)
    seeming = 0
    for _ in range(200):
        values = random.binomial(40, 0.8, size=20) / 40
        draws = random.binomial(40, values, size=(300, 20)) / 40
        seeming += gaps.largest([gaps.differences(values, draws, np.full(20, 40.0))])["low"] > 0
    assert seeming <= 20  # pair by pair nearly every one of them would


def test_a_table_counts_rows_by_group_and_both_labels():
    table = rates.tabulate(np.array([0, 0, 1]), np.array([1, 0, 1]), np.array([1, 2, 0]), 2, 2)
    assert table.tolist() == [[[0, 0, 1], [0, 1, 0]], [[0, 0, 0], [1, 0, 0]]]
