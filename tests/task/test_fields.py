"""Labels as records have them, legal values, and an answer's JSON and its schema."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_distill.recipe.schema import FieldSpec
from mlx_distill.records import Value
from mlx_distill.task.fields import ABSENT, answer_schema, closed_values, follow, json_text, labels, lookup, nearest_value

SCORE, HALF = FieldSpec(kind="score"), FieldSpec(kind="score", step=0.5)
FLAG, TEXT, LIST = FieldSpec(kind="flag"), FieldSpec(kind="text"), FieldSpec(kind="list")
LEVEL = FieldSpec(kind="choice", choices=("HIGH", "MEDIUM", "LOW"))


def label(spec: FieldSpec, raw: Any, missing: tuple[str, ...] = ()) -> Value | None:
    """The label of a field whose column holds `raw`; None where it is no label."""
    return labels({"field": spec}, {"field": raw}, missing).get("field")


def refusal(spec: FieldSpec, raw: Any) -> str:
    with pytest.raises(ValueError) as caught:
        label(spec, raw)
    return str(caught.value)


# where a label stands


@pytest.mark.parametrize(
    "record",
    [
        {"agency": 7},
        {"agency": "7"},
        {"agency": 7.0},
        {"agency": " 7.0 "},
        {"agency": {"score": 7, "reasoning": "people act"}},
        {"agency": {"score": "7.0"}},
        {"labels": {"agency": 7}},
        {"labels": {"agency": {"score": 7, "reasoning": "people act"}}},
    ],
)
def test_a_score_may_be_flat_or_nested_an_integer_or_an_integral_float(record: dict[str, Any]) -> None:
    found = labels({"agency": SCORE}, record)
    assert found == {"agency": 7}
    assert type(found["agency"]) is int


def test_an_oracle_answer_under_its_filter_is_reached_by_dotted_paths() -> None:
    record = {"id": "a1", "uplifting_analysis": {"agency": {"score": 6, "reasoning": "they built it"}, "content_type": "solutions_story"}}
    fields = {
        "agency": FieldSpec(kind="score", source="uplifting_analysis.agency"),
        "why": FieldSpec(kind="text", source="uplifting_analysis.agency.reasoning"),
        "content_type": FieldSpec(kind="choice", choices=("solutions_story", "other"), source="uplifting_analysis.content_type"),
    }
    assert labels(fields, record) == {"agency": 6, "why": "they built it", "content_type": "solutions_story"}


def test_a_column_whose_name_has_a_dot_is_meant_before_a_path() -> None:
    assert follow({"a.b": 1, "a": {"b": 2}}, "a.b") == 1
    assert follow({"a": {"b": 2}}, "a.b") == 2
    assert follow({"a": {"b.c": 3}}, "a.b.c") == 3
    assert follow({"a": 1}, "a.b") is ABSENT


def test_the_column_of_its_own_name_comes_before_the_nested_labels_and_from_before_both() -> None:
    record = {"level": "HIGH", "labels": {"level": "LOW"}, "other": "MEDIUM"}
    assert lookup("level", LEVEL, record) == "HIGH"
    assert lookup("level", FieldSpec(kind="choice", choices=LEVEL.choices, source="other"), record) == "MEDIUM"
    assert lookup("level", LEVEL, {"labels": {"level": "LOW"}}) == "LOW"
    assert lookup("level", FieldSpec(kind="choice", choices=LEVEL.choices, source="gone"), record) is ABSENT


# what is no label


@pytest.mark.parametrize("raw", [None, "", "  ", float("nan"), "Not labeled", " Not labeled ", -1, -1.0, "-1"])
@pytest.mark.parametrize("spec", [SCORE, LEVEL, FLAG, TEXT, LIST])
def test_an_empty_value_and_one_of_data_missing_are_no_labels(spec: FieldSpec, raw: Any) -> None:
    assert label(spec, raw, missing=("Not labeled", "-1")) is None


def test_a_nested_score_can_be_empty_too() -> None:
    assert label(SCORE, {"score": None, "reasoning": "cannot tell"}) is None
    assert label(SCORE, {"score": "n/a"}, missing=("n/a",)) is None


def test_a_field_without_a_label_leaves_the_others_alone() -> None:
    assert labels({"a": SCORE, "b": FLAG, "c": LEVEL}, {"a": 3, "c": "LOW"}) == {"a": 3, "c": "LOW"}


def test_no_score_is_mistaken_for_a_missing_one() -> None:
    assert label(SCORE, 0) == 0
    assert label(FLAG, False) is False
    assert label(LIST, []) == []


# scores


def test_a_score_between_two_steps_is_a_label_as_it_stands_and_is_taught_as_the_nearest() -> None:
    assert label(SCORE, 6.4) == 6.4
    assert [nearest_value(SCORE, value) for value in (6.4, 6.5, 6.6, 0, 10, 9.99)] == [6, 7, 7, 0, 10, 10]
    assert [nearest_value(HALF, value) for value in (6.2, 6.25, 6.74, 6.75, 10)] == [6.0, 6.5, 6.5, 7.0, 10.0]


def test_a_middle_that_floating_point_puts_below_goes_up_all_the_same() -> None:
    tenth = FieldSpec(kind="score", min=0, max=1, step=0.1)
    assert 0.15 / 0.1 < 1.5, "the trap"
    assert nearest_value(tenth, 0.15) == 0.2
    assert nearest_value(tenth, 0.3) == 0.3
    assert closed_values(tenth) == [0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]


@pytest.mark.parametrize("raw", [11, -1, 10.01, "10.5", {"score": 42}])
def test_a_score_outside_its_limits_is_refused_with_the_limits(raw: Any) -> None:
    shown = raw["score"] if isinstance(raw, dict) else raw
    assert refusal(SCORE, raw) == f"field: {shown} is outside 0 to 10"


@pytest.mark.parametrize("raw", ["high", True, [7], {"points": 7}, "inf", float("inf"), pytest.param(10**400, id="huge")])
def test_what_is_no_number_is_no_score(raw: Any) -> None:
    assert refusal(SCORE, raw) == f"field: {raw!r} is no number"


def test_a_scores_values_are_integers_where_its_steps_are() -> None:
    assert closed_values(SCORE) == list(range(11))
    assert all(type(value) is int for value in closed_values(SCORE) or ())
    assert closed_values(FieldSpec(kind="score", min=-2, max=2, step=2)) == [-2, 0, 2]
    assert closed_values(FieldSpec(kind="score", min=0.5, max=2.5)) == [0.5, 1.5, 2.5]


def test_a_score_is_written_with_the_decimals_of_its_step() -> None:
    assert [json_text(HALF, value) for value in (0, 6.5, 10, 6.3)] == ["0.0", "6.5", "10.0", "6.5"]
    assert [json_text(SCORE, value) for value in (0, 6.5, 10.0)] == ["0", "7", "10"]
    assert json_text(FieldSpec(kind="score", min=0, max=1, step=0.25), 0.5) == "0.50"


# choices, flags, texts, lists


def test_a_typo_in_a_choice_is_answered_with_the_nearest() -> None:
    assert refusal(LEVEL, "MEDUIM") == "field: 'MEDUIM' is none of its choices; did you mean MEDIUM?"
    assert refusal(LEVEL, "high") == "field: 'high' is none of its choices; did you mean HIGH?"
    assert refusal(LEVEL, "xyz") == "field: 'xyz' is none of its choices; there is HIGH, MEDIUM, LOW"


def test_a_choice_may_stand_there_as_number_or_truth_value() -> None:
    grades = FieldSpec(kind="choice", choices=("1", "2", "1.5", "true", "false"))
    assert [label(grades, raw) for raw in (1, 2.0, 1.5, True, False, " 2 ")] == ["1", "2", "1.5", "true", "false", "2"]
    for raw in (3.7, float("inf"), float("-inf")):
        assert "is none of its choices" in refusal(grades, raw)


@pytest.mark.parametrize(
    ("raw", "meaning"),
    [(True, True), (False, False), (1, True), (0, False), (1.0, True), (0.0, False)]
    + [(spelling, True) for spelling in ("true", "True", "TRUE", "yes", "Yes", "YES", "1", "1.0", " true ")]
    + [(spelling, False) for spelling in ("false", "False", "FALSE", "no", "No", "NO", "0", "0.0", "\tno\n")],
)
def test_a_flag_is_read_in_every_spelling(raw: Any, meaning: bool) -> None:
    assert label(FLAG, raw) is meaning


@pytest.mark.parametrize("raw", ["maybe", 2, 0.5, "yes and no", ["true"]])
def test_another_word_is_no_flag(raw: Any) -> None:
    assert refusal(FLAG, raw) == f"field: {raw!r} is no flag; it takes true or false, yes or no, 1 or 0"


def test_a_long_text_ends_at_the_last_word_that_fits_with_an_ellipsis() -> None:
    spec = FieldSpec(kind="text", max_chars=20)
    assert label(spec, "twenty characters fit") == "twenty characters…"
    assert label(spec, "exactly twenty chars") == "exactly twenty chars"
    assert label(spec, "one twoandthreeandfourandfive") == "one twoandthreeandf…", "a word that begins in the first half is cut"
    assert label(spec, "x" * 50) == "x" * 19 + "…"
    assert label(TEXT, "é" * 500) == "é" * 399 + "…"


@given(st.text(max_size=60), st.integers(1, 30))
def test_a_text_never_exceeds_its_limit_and_is_a_beginning(text: str, most: int) -> None:
    found = label(FieldSpec(kind="text", max_chars=most), text)
    assert found is None if not text.strip() else isinstance(found, str) and len(found) <= most and text.startswith(found.removesuffix("…"))


def test_half_of_a_surrogate_pair_becomes_the_replacement_character() -> None:
    """`json.loads` brings it where a judge's text was cut within an emoji; no encoding could write it."""
    assert label(TEXT, json.loads(r'"cut \ud83d"')) == "cut \ufffd"
    assert label(LIST, ["\udd25", "whole 🔥"]) == ["\ufffd", "whole 🔥"]


def test_a_text_takes_numbers_and_no_containers() -> None:
    assert label(TEXT, 12.5) == "12.5"
    assert refusal(TEXT, ["a"]) == "field: a list is no text"
    assert refusal(TEXT, {"text": "a"}) == "field: a dict is no text"


@pytest.mark.parametrize("raw", [["a", " b ", ""], "a; b", "a;b;", '["a", "b"]', ' ["a","b"]'])
def test_a_list_is_a_list_or_its_json_or_its_items_between_semicolons(raw: Any) -> None:
    assert label(LIST, raw) == ["a", "b"]


def test_a_list_keeps_its_limits() -> None:
    assert label(FieldSpec(kind="list", max_items=2, max_chars=3), ["long enough", "b", "c"]) == ["lo…", "b"]
    assert label(LIST, [str(i) for i in range(20)]) == [str(i) for i in range(8)]


def test_items_of_a_closed_list_are_never_shortened() -> None:
    name = "a very long name of a law " * 5
    assert label(FieldSpec(kind="list", choices=(name.strip(), "GDPR")), [name, "GDPR"]) == [name.strip(), "GDPR"]
    assert "'GPDR' is none of its choices; did you mean GDPR?" in refusal(FieldSpec(kind="list", choices=("GDPR", "DSA")), ["GPDR"])


@pytest.mark.parametrize("raw", ['["a"', {"a": 1}, 7, [["a"]], [None]])
def test_what_is_no_list_is_refused(raw: Any) -> None:
    assert refusal(LIST, raw) == f"field: {raw!r} is no list of texts"


# the answer's JSON and its schema

CHOICES = st.sampled_from(["solar", "solar thermal", 'say "hi"', "back\\slash", "🔥", "ηλιακή", "a\nb", "\x00", "\x7f", " ", "true", "1"])
SPECS = st.one_of(
    st.sampled_from([SCORE, HALF, FieldSpec(kind="score", min=-5, max=5), FieldSpec(kind="score", min=0, max=1, step=0.1), FLAG, TEXT]),
    st.lists(CHOICES, min_size=2, max_size=6, unique=True).map(lambda choices: FieldSpec(kind="choice", choices=tuple(choices))),
    st.sampled_from([LIST, FieldSpec(kind="list", choices=("a", 'b"'), max_items=3), FieldSpec(kind="text", max_chars=5)]),
)
NAMES = st.sampled_from(["tech", "a b", 'q"uote', "βαθμός", "score", "id", "{x}"])


@st.composite
def answers(draw: st.DrawFn) -> tuple[dict[str, FieldSpec], dict[str, Value]]:
    """Fields, and one legal value for each."""
    fields = draw(st.dictionaries(NAMES, SPECS, min_size=1, max_size=4))
    return fields, {name: draw(value_of(spec)) for name, spec in fields.items()}


def value_of(spec: FieldSpec) -> st.SearchStrategy[Value]:
    if (closed := closed_values(spec)) is not None:
        return st.sampled_from(closed)
    if spec.kind == "text":
        return st.text(max_size=spec.max_chars or 30)
    return st.lists(st.sampled_from(spec.choices) if spec.choices else st.text(max_size=12), max_size=spec.max_items or 8)


def valid(schema: dict[str, Any], value: Any) -> bool:
    """The part of JSON Schema that an answer's schema uses."""
    if "enum" in schema:
        return any(type(one) is type(value) and one == value for one in schema["enum"])
    if schema["type"] == "boolean":
        return isinstance(value, bool)
    if schema["type"] == "number":
        return type(value) in (int, float) and schema["minimum"] <= value <= schema["maximum"]
    if schema["type"] == "string":
        return isinstance(value, str) and len(value) <= schema["maxLength"]
    if schema["type"] == "array":
        return isinstance(value, list) and len(value) <= schema["maxItems"] and all(valid(schema["items"], item) for item in value)
    assert schema["type"] == "object" and schema["additionalProperties"] is False and schema["required"] == list(schema["properties"])
    return list(value) == schema["required"] and all(valid(schema["properties"][name], one) for name, one in value.items())


@settings(deadline=None, max_examples=150, derandomize=True)
@given(answers())
def test_every_legal_value_is_json_that_reads_as_itself_and_fits_the_schema(answer: tuple[dict[str, FieldSpec], dict[str, Value]]) -> None:
    fields, values = answer
    text = "{" + ",".join(f"{json.dumps(name)}:{json_text(spec, values[name])}" for name, spec in fields.items()) + "}"
    assert json.loads(text) == values
    assert valid(answer_schema(fields), json.loads(text))


@pytest.mark.parametrize("wrong", [{"f": 11}, {"f": 6.5}, {"f": True}, {}, {"f": 1, "g": 2}])
def test_the_schema_refuses_what_is_not_legal(wrong: dict[str, Any]) -> None:
    assert valid(answer_schema({"f": SCORE}), {"f": 10})
    assert not valid(answer_schema({"f": SCORE}), wrong)


@pytest.mark.parametrize(("value", "legal"), [(6.37, True), (0, True), (10.0, True), (10.01, False), (-0.5, False), (True, False)])
def test_a_score_whose_estimate_is_the_mean_may_lie_between_two_steps(value: Any, legal: bool) -> None:
    assert valid(answer_schema({"f": FieldSpec(kind="score", estimate="mean")}), {"f": value}) is legal
    assert valid(answer_schema({"f": FieldSpec(kind="score", estimate="median")}), {"f": 6})
    assert not valid(answer_schema({"f": FieldSpec(kind="score", estimate="median")}), {"f": 6.37})


@settings(deadline=None, max_examples=150, derandomize=True)
@given(st.text(max_size=20), st.lists(st.text(max_size=5), max_size=3))
def test_the_grammar_library_takes_every_open_value_as_it_is_written(text: str, items: list[str]) -> None:
    """An independent reader of JSON schemas: what is taught can be generated."""
    from llguidance import LLMatcher, LLTokenizer

    fields, values = {"why": TEXT, "marks": LIST}, {"why": text, "marks": items}
    grammar = LLMatcher.grammar_from_json_schema(answer_schema(fields), overrides={"whitespace_flexible": False})
    matcher = LLMatcher(LLTokenizer("byte"), grammar)
    written = "{" + ",".join(f'"{name}":{json_text(fields[name], value)}' for name, value in values.items()) + "}"
    assert matcher.consume_tokens(list(written.encode())) and matcher.is_accepting(), written
