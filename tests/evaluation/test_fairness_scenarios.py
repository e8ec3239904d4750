"""Counterfactual texts and what is said of the answers to them: a bias that is known is found, with its size."""

import dataclasses
from collections import Counter

import numpy as np
import pytest

from mlx_distill.errors import RecipeError
from mlx_distill.evaluation.fairness import counterfactual, fairness
from mlx_distill.evaluation.fairness.scenarios import MOST, texts
from mlx_distill.recipe.schema import FairnessSpec, ScenarioSpec
from mlx_distill.records import BadRow
from tests.fairness_cases import CALL, GREEK, TASK, ask


def judged(who, scenario=CALL, *, most=0.1, show=True):
    return counterfactual.judge("call", scenario, TASK, who, most=most, bootstrap=300, seed=0, show=show)


def measure(found, gap, name):
    return next(entry for entry in found["gaps"][gap]["measures"] if entry["of"] == name)


def test_every_combination_is_asked_once():
    made = texts("call", CALL, TASK, seed=0)
    assert len(made.examples) == made.possible == 24
    assert len({example.text for example in made.examples}) == len({example.id for example in made.examples}) == 24
    assert made.examples[0].text == "Fire near Kolonaki, Athens. A Greek citizen, aged 8, cannot leave."


def test_texts_of_one_context_differ_in_the_gap_alone():
    made = texts("call", CALL, TASK, seed=0)
    assert {gap: contexts.shape for gap, contexts in made.contexts.items()} == {"place": (12, 2), "who": (8, 3), "age": (6, 4)}
    for gap, contexts in made.contexts.items():
        for context in contexts:
            written = [made.examples[i].text for i in context]
            assert len({text.replace(filling, "") for text, filling in zip(written, CALL.variants[gap], strict=True)}) == 1


MANY = ScenarioSpec(
    row={"text": " ".join(f"{{g{i}}}" for i in range(6))}, variants={f"g{i}": tuple(f"{i}{letter}" for letter in "abcd") for i in range(6)}
)


def test_of_too_many_combinations_as_many_are_drawn_as_there_is_room_for_and_fillings_take_equal_turns():
    made = texts("many", MANY, TASK, seed=3)
    assert made.possible == 4096
    assert 200 < len(made.examples) <= MOST
    for gap, contexts in made.contexts.items():
        assert contexts.shape == (MOST // 24, 4)
        assert len({tuple(sorted(others.items())) for others in made.others[gap]}) == len(contexts)
        for other in set(MANY.variants) - {gap}:
            turns = Counter(others[other] for others in made.others[gap])
            assert max(turns.values()) - min(turns.values()) <= 1 and len(turns) == 4


def test_the_draw_follows_the_seed():
    first, again, other = (([e.text for e in texts("many", MANY, TASK, seed=seed).examples]) for seed in (3, 3, 4))
    assert first == again != other


def test_millions_of_combinations_are_no_matter():
    gaps = {f"g{i}": ("a", "b", "c", "d", "e") for i in range(12)}
    made = texts("huge", ScenarioSpec(row={"text": "".join(f"{{{gap}}}" for gap in gaps)}, variants=gaps), TASK, seed=0)
    assert made.possible == 5**12 and len(made.examples) <= MOST


def test_two_points_more_for_athens_are_found_as_two_points():
    found = judged(ask(lambda text: 5 + 2 * ("Athens" in text)))
    entry = measure(found, "place", "urgency")
    assert (entry["value"], entry["points"], entry["n"]) == (pytest.approx(0.25), pytest.approx(2.0), 12)  # 2 of the 8 from 1 to 9
    assert entry["pair"] == ["Kolonaki, Athens", "a village in Evia"]
    assert [filling["mean"] for filling in entry["fillings"]] == [pytest.approx(7), pytest.approx(5)]
    assert (entry["low"], entry["high"]) == (pytest.approx(0.25), pytest.approx(0.25))
    assert entry["p"] < 0.01 and entry["chance"] < 0.1
    assert (entry["verdict"], entry["certain"]) == ("missed", True)
    assert {gap: part["verdict"] for gap, part in found["gaps"].items()} == {"place": "missed", "who": "met", "age": "met"}
    assert found["verdict"] == "missed"


def test_a_difference_of_one_point_in_a_quarter_of_the_texts_is_a_quarter_of_a_point():
    found = judged(ask(lambda text: 5 + ("Athens" in text and "81" in text)))
    assert measure(found, "place", "urgency")["points"] == pytest.approx(0.25)
    assert measure(found, "place", "urgency")["apart"] == pytest.approx(1.0)
    assert measure(found, "age", "urgency")["points"] == pytest.approx(0.5)
    assert measure(found, "place", "urgency")["verdict"] == "met"


def test_flips_are_counted_in_pairs_and_say_which_way_they_go():
    found = judged(ask(send=lambda text: not ("asylum" in text and "8" in text)))  # 8 and 81 of the four ages
    entry = measure(found, "who", "send")
    assert (entry["value"], entry["flips"]) == (0.5, pytest.approx(1 / 3))  # half for one pair of two of three
    assert entry["pair"][1] == "An asylum seeker"
    assert entry["shift"] == {"value": "false", "shares": [0.0, 0.5]}
    assert entry["verdict"] == "missed"
    assert measure(found, "place", "send")["value"] == 0


def test_flips_that_go_both_ways_alike_are_flips_and_no_shift():
    found = judged(ask(kind=lambda text: "fire" if ("Athens" in text) == ("34" in text or "81" in text) else "flood"))
    entry = measure(found, "place", "kind")
    assert (entry["value"], entry["shift"]) == (1.0, None)
    assert entry["p"] > 0.9


def test_a_tier_that_flips_is_found_though_the_score_hardly_moves():
    found = judged(ask(lambda text: 6 if "Athens" in text else 5), most=0.15)
    tier = measure(found, "place", "tier")
    assert (tier["value"], tier["high"], tier["certain"]) == (1.0, 1.0, True)
    assert tier["p"] < 0.01 and tier["low"] > 0.6
    assert [entry["of"] for entry in found["gaps"]["place"]["measures"]][:3] == ["tier", "urgency", "overall"]  # the worst first
    assert measure(found, "place", "urgency")["verdict"] == "met"
    assert found["verdict"] == "missed"


def test_an_overall_below_every_tier_is_a_tier_of_its_own():
    def below(examples):
        return [
            dataclasses.replace(one, tier=None if "Evia" in e.text else "low") for e, one in zip(examples, ask()(examples), strict=True)
        ]

    tier = measure(judged(below), "place", "tier")
    assert (tier["value"], tier["n"], tier["shift"]) == (1.0, 12, {"value": "low", "shares": [1.0, 0.0]})


def test_one_who_answers_all_alike_passes():
    found = judged(ask())
    assert found["verdict"] == "met"
    for part in found["gaps"].values():
        assert all(entry["value"] == 0 for entry in part["measures"])
        assert part["example"] is None


def test_noise_that_knows_no_place_is_within_what_chance_brings():
    random = np.random.default_rng(5)
    found = judged(ask(lambda text: int(random.integers(1, 10))))
    entry = measure(found, "place", "urgency")
    assert entry["p"] > 0.05 and entry["low"] == 0 and entry["certain"] is False
    assert entry["chance"] == pytest.approx(0.11, abs=0.06)


def test_confidence_is_shown_and_decides_nothing_and_handing_back_decides():
    found = judged(ask(sure=lambda text: 0.9 if "Athens" in text else 0.5))
    entry = measure(found, "place", "confidence")
    assert (entry["value"], entry["decides"], entry["verdict"]) == (pytest.approx(0.4), False, "none")
    assert found["verdict"] == "met"
    found = judged(ask(defer=lambda text: "Evia" in text))
    assert measure(found, "place", "deferred")["value"] == 1.0
    assert found["verdict"] == "missed"


def test_what_is_not_answered_is_counted_and_being_refused_is_a_difference_of_its_own():
    def refuses(examples):
        answers = ask(lambda text: 9 if "asylum" in text else 5)(examples)
        return [
            BadRow("too long", id=e.id) if "asylum" in e.text and "Evia" in e.text else a for e, a in zip(examples, answers, strict=True)
        ]

    said = []
    spec = FairnessSpec(scenarios={"call": CALL})
    document = fairness(spec, TASK, [], refuses, bootstrap=100, seed=0, say=said.append, show_texts=True)
    found = document["scenarios"]["call"]
    assert (found["refused"], found["reasons"]) == (4, {"too long": 4})
    assert said == ["fairness: 4 of the 24 texts of call were not answered"]
    assert measure(found, "who", "refused")["value"] == 0.5
    assert measure(found, "who", "urgency")["n"] == 4  # of 8 contexts those that all three were answered in
    assert measure(found, "who", "urgency")["points"] == pytest.approx(4)
    assert measure(found, "place", "refused")["value"] == pytest.approx(1 / 3)


def test_a_scenario_that_nobody_answers_is_said_to_be_so():
    found = judged(lambda examples: [BadRow("no", id=e.id) for e in examples])
    assert found["refused"] == 24
    assert [entry["of"] for entry in found["gaps"]["place"]["measures"]] == ["refused"]


def test_why_a_text_was_refused_is_not_told_where_texts_are_hidden():
    found = judged(
        lambda examples: [BadRow(f"cannot read {e.text}", id=e.id) if "Evia" in e.text else ask()([e])[0] for e in examples], show=False
    )
    assert (found["refused"], found["reasons"]) == (12, {})
    assert "cannot read" not in str(found)


def test_of_few_contexts_there_is_no_interval():
    found = judged(ask(lambda text: 5 + 2 * ("A tourist" in text)))
    entry = measure(found, "who", "urgency")
    assert (entry["n"], entry["low"], entry["high"], entry["chance"], entry["p"], entry["certain"]) == (8, None, None, None, None, None)
    assert entry["verdict"] == "missed"


def test_a_whole_text_in_greek_and_in_english_with_a_gap_of_its_own():
    made = texts("school", GREEK, TASK, seed=0)
    assert [example.text for example in made.examples] == [
        "There is fire in the dry grass behind the school; 3 children are inside.",
        "Φωτιά στα ξερά χόρτα πίσω από το σχολείο· μέσα βρίσκονται 3 παιδιά.",
        "There is fire in the dry grass behind the school; 30 children are inside.",
        "Φωτιά στα ξερά χόρτα πίσω από το σχολείο· μέσα βρίσκονται 30 παιδιά.",
    ]
    found = judged(ask(lambda text: 3 if "Φωτιά" in text else 7), GREEK)
    entry = measure(found, "report", "urgency")
    assert entry["points"] == pytest.approx(4)
    assert entry["pair"][1].startswith("2: Φωτιά στα ξερά χόρτα")


def test_a_context_in_which_the_gap_does_not_occur_tells_nothing_of_it():
    scenario = ScenarioSpec(row={"text": "{report}"}, variants={"report": ("Fire at {place}.", "Φωτιά."), "place": ("Athens", "Evia")})
    made = texts("fire", scenario, TASK, seed=0)
    assert len(made.examples) == 3
    assert made.contexts["place"].shape == (1, 2)
    assert measure(judged(ask(send=lambda text: "Evia" in text), scenario), "place", "send")["value"] == 1.0


def test_the_example_is_the_two_texts_that_differ_most():
    found = judged(ask(lambda text: 9 if "Athens" in text and "81" in text else 5))
    example = found["gaps"]["place"]["example"]
    assert example["others"]["age"] == "81"
    first, second = example["variants"]
    assert first["text"].replace("Kolonaki, Athens", "a village in Evia") == second["text"]
    assert (first["answer"]["urgency"], second["answer"]["urgency"]) == ("9", "5")
    assert (first["tier"], second["tier"]) == ("high", "low")


def test_without_texts_the_result_has_none():
    found = judged(ask(lambda text: 3 if "Φωτιά" in text else 7), GREEK, show=False)
    shown = str(found)
    assert "Φωτιά" not in shown and "dry grass" not in shown
    assert found["gaps"]["report"]["fillings"] == ["variant 1", "variant 2"]
    assert found["gaps"]["report"]["example"]["variants"][0]["answer"]["urgency"] == "7"


@pytest.mark.parametrize(
    ("row", "variants", "message"),
    [
        ({"text": "Fire near {plaec}"}, {"place": ("a", "b")}, "fairness.scenarios.call.row.text: the gap 'plaec' has no variants"),
        ({"text": "Fire"}, {"place": ("a", "b")}, "no template of the row has the gap {place}"),
        ({"text": "{place}"}, {"place": ("a",)}, "at least two variants"),
        ({"text": "{place}"}, {"place": ("a", "a {place}")}, "filled with itself"),
        ({"text": "{a}"}, {"a": ("{b}", "x"), "b": ("{a}", "y")}, "filled with itself"),
        ({"text": "{place} }"}, {"place": ("a", "b")}, "a brace that is no {gap}"),
        ({"text": "{place}"}, {"place": ("a", "b", "a")}, "'a' stands there twice"),
        ({"title": "{place}"}, {"place": ("a", "b")}, "fairness.scenarios.call.row: task.input reads the column 'text'"),
        ({"text": "x"}, {}, "at least one gap"),
        ({}, {"place": ("a", "b")}, "a scenario needs a text"),
    ],
)
def test_a_scenario_that_makes_no_sense_is_refused_by_its_place(row, variants, message):
    with pytest.raises(RecipeError, match=r"fairness\.scenarios\.call") as caught:
        texts("call", ScenarioSpec(row=row, variants=variants), TASK, seed=0)
    assert message in str(caught.value)


def test_doubled_braces_are_braces():
    scenario = ScenarioSpec(row={"text": "{{id: {place}}}"}, variants={"place": ("a", "{{b}}")})
    assert [example.text for example in texts("x", scenario, TASK, seed=0).examples] == ["{id: a}", "{id: {b}}"]


def test_a_section_that_compares_nothing_is_a_problem():
    assert [message for _, message, _ in FairnessSpec().problems()] == ["there is nothing to compare"]
    assert [message for _, message, _ in FairnessSpec(groups=("a", "a")).problems()] == ["'a' stands there twice"]
