"""An answer in tokens: what is taught is the JSON that is rendered, whatever tokenizer cuts it."""

from __future__ import annotations

import json
from typing import Any
from unicodedata import normalize

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_distill.errors import CheckpointError
from mlx_distill.inference.trie import branches
from mlx_distill.recipe.schema import FieldSpec
from mlx_distill.records import Value
from mlx_distill.task.answer import AnswerPlan
from mlx_distill.task.fields import closed_values
from tests.small_tokenizers import KINDS, tokenizer

NASTY = ["solar", "solar thermal", "solar thermal power", 'say "hi"', "back\\", "back\\slash", "🔥", "πυρκαγιά", "a\nb", "<|im_end|>"]
NASTY += ["\x00", "true", "1", "10", "e\u0301", " lead", "tail ", "}", '",', "עברית", "<0x41>"]
HALF = FieldSpec(kind="score", step=0.5)
OPEN = [FieldSpec(kind="text", max_chars=30), FieldSpec(kind="list", max_items=3, max_chars=9)]
SCORES = [FieldSpec(kind="score"), HALF, FieldSpec(kind="score", min=-10, max=10), FieldSpec(kind="score", min=0, max=100, step=5)]
CLOSED = st.one_of(
    st.lists(st.sampled_from(NASTY), min_size=2, max_size=6, unique=True).map(lambda c: FieldSpec(kind="choice", choices=tuple(c))),
    st.sampled_from([*SCORES, FieldSpec(kind="flag")]),
)
NAMES = st.sampled_from(["tech", "deployment_maturity", 'q"uote', "βαθμός", "a b"])
letters = st.characters(exclude_categories=["Cs"], exclude_characters="▁")


@st.composite
def answers(draw: st.DrawFn, specs: st.SearchStrategy[FieldSpec]) -> tuple[dict[str, FieldSpec], dict[str, Value]]:
    fields = draw(st.dictionaries(NAMES, specs, min_size=1, max_size=4))
    return fields, {name: draw(value_of(spec)) for name, spec in fields.items()}


def value_of(spec: FieldSpec) -> st.SearchStrategy[Value]:
    if (closed := closed_values(spec)) is not None:
        return st.sampled_from(closed)
    if spec.kind == "text":
        return st.text(letters, max_size=spec.max_chars)
    return st.lists(st.text(letters, max_size=9), max_size=3)


def spelled(kind: str, tokens: Any) -> str:
    """What tokens say, accents and letters composed (which changes nothing to a reader of JSON)."""
    return normalize("NFC", tokenizer(kind).decode(list(tokens), skip_special_tokens=False).removeprefix(" "))


@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None, max_examples=60, derandomize=True)
@given(answers(st.one_of(CLOSED, st.sampled_from(OPEN))))
def test_a_targets_tokens_spell_exactly_the_json_that_is_rendered(kind: str, answer: tuple[dict[str, FieldSpec], dict[str, Value]]) -> None:
    fields, values = answer
    plan = AnswerPlan(fields, tokenizer(kind))
    text = plan.render(values)
    assert json.loads(text) == values
    assert list(json.loads(text)) == list(fields), "in the order of the fields"
    target = plan.target(values)
    assert target.tokens[-1] == plan.end
    assert spelled(kind, target.tokens[:-1]) == normalize("NFC", text)
    assert len(target.field) == len(target.tokens)


@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None, max_examples=60, derandomize=True)
@given(answers(CLOSED))
def test_what_is_taught_is_fixed_text_and_one_of_the_known_values(kind: str, answer: tuple[dict[str, FieldSpec], dict[str, Value]]) -> None:
    """The engine appends the fixed pieces and picks among the known values: it must meet what was taught, token by token."""
    fields, values = answer
    plan = AnswerPlan(fields, tokenizer(kind))
    walked: list[int] = []
    for slot in plan.slots:
        place = slot.values.index(values[slot.name])
        walked += [*slot.before, *slot.tokens[place][: slot.own[place]]]
    assert (*walked, *plan.close, plan.end) == plan.target(values).tokens
    assert len(walked) + len(plan.close) + 1 <= plan.room


@pytest.mark.parametrize("kind", KINDS)
def test_no_value_begins_another_so_that_each_can_be_told(kind: str) -> None:
    fields = {"tech": FieldSpec(kind="choice", choices=tuple(NASTY)), "score": FieldSpec(kind="score"), "half": HALF}
    for slot in AnswerPlan(fields, tokenizer(kind)).slots:
        for one in slot.tokens:
            assert [other for other in slot.tokens if other[: len(one)] == one] == [one]
        leaves = {child for branch in branches(slot.tokens) for way in branch.children for child in way if len(way) == 1}
        assert leaves == set(range(len(slot.values)))


@pytest.mark.parametrize("kind", ["bytes", "letters"])
def test_a_value_that_begins_another_carries_the_token_that_ends_it(kind: str) -> None:
    fields = {"tech": FieldSpec(kind="choice", choices=("solar", "solar thermal", "wind")), "score": FieldSpec(kind="score")}
    plan = AnswerPlan(fields, tokenizer(kind))
    tech, score = plan.slots
    solar, thermal, wind = tech.tokens
    assert solar == (*plan.encode("solar"), score.before[0]) and tech.own[0] == len(solar) - 1
    assert thermal == plan.encode("solar thermal") and wind == plan.encode("wind")
    assert (score.tokens[1] == (*plan.encode("1"), plan.close[0])) is (len(score.tokens[10]) == 2), "1 needs an end where 10 begins so"


def test_an_answer_by_hand() -> None:
    """One token a character: the target is the text itself."""
    fields = {
        "s": FieldSpec(kind="score", loss=2.0),
        "c": FieldSpec(kind="choice", choices=("a", "ab")),
        "f": FieldSpec(kind="flag", loss=0.5),
    }
    plan = AnswerPlan(fields, tokenizer("letters"))
    target = plan.target({"s": 7, "c": "ab", "f": True})
    assert "".join(chr(token) for token in target.tokens[:-1]) == '{"s":7,"c":"ab","f":true}'
    assert target.tokens[-1] == plan.end
    fields_of = "".join(name or "." for name in target.field)
    #                   { " s " : 7 , " c " : " a b " , " f " : t r u e } end
    assert fields_of == ".....s......cc......ffff.."
    taught = plan.taught({"s": 7, "c": "ab", "f": True})
    assert taught is not None
    assert taught.weight.tolist() == [1.0] * 5 + [2.0] + [1.0] * 6 + [1.0] * 2 + [1.0] * 6 + [0.5] * 4 + [1.0] * 2
    assert taught.inputs.tolist() == list(target.tokens[:-1]), "the last token is learned, never read"
    assert taught.read.tolist() == list(range(26)) and taught.targets.tolist() == list(target.tokens)


def test_the_token_that_tells_1_from_10_counts_as_the_scores() -> None:
    plan = AnswerPlan({"s": FieldSpec(kind="score", loss=3.0), "f": FieldSpec(kind="flag")}, tokenizer("letters"))
    assert "".join(name or "." for name in plan.target({"s": 1, "f": True}).field) == ".....ss....ffff..", "the comma behind 1"
    assert "".join(name or "." for name in plan.target({"s": 2, "f": True}).field) == ".....s.....ffff.."
    last = AnswerPlan({"s": FieldSpec(kind="score")}, tokenizer("letters"))
    assert "".join(name or "." for name in last.target({"s": 1}).field) == ".....ss.", "the brace behind 1"


def test_a_row_teaches_its_leading_fields_as_far_as_they_are_labelled() -> None:
    fields = {"s": FieldSpec(kind="score"), "f": FieldSpec(kind="flag"), "t": FieldSpec(kind="text"), "g": FieldSpec(kind="flag")}
    plan = AnswerPlan(fields, tokenizer("letters"))

    def taught(**labels: Value) -> str:
        return "".join(chr(token) for token in plan.target(labels).tokens)

    assert taught(s=7, f=True) == '{"s":7,"f":true'
    assert taught(s=7, f=True, g=False) == '{"s":7,"f":true', "what comes behind a gap would be learned from a context that never occurs"
    assert taught(s=7) == '{"s":7'
    assert taught(s=1) == '{"s":1,', "the comma says that it is not 10"
    assert taught(s=10) == '{"s":10'
    assert taught(f=True, t="x", g=True) == ""
    assert plan.taught({"f": True}) is None


def test_a_leading_part_is_the_beginning_of_the_whole() -> None:
    fields = {"half": HALF, "tech": FieldSpec(kind="choice", choices=("solar", "solar thermal")), "flag": FieldSpec(kind="flag")}
    for kind in KINDS:
        plan = AnswerPlan(fields, tokenizer(kind))
        whole = plan.target({"half": 1, "tech": "solar", "flag": True})
        for labels in ({"half": 1}, {"half": 1, "tech": "solar"}):
            part = plan.target(labels)
            assert whole.tokens[: len(part.tokens)] == part.tokens and whole.field[: len(part.field)] == part.field


def test_a_score_between_two_steps_is_taught_and_rendered_as_the_nearest() -> None:
    plan = AnswerPlan({"s": HALF, "t": FieldSpec(kind="score")}, tokenizer("letters"))
    assert plan.render({"s": 6.2, "t": 6.5}) == '{"s":6.0,"t":7}'
    assert "".join(chr(token) for token in plan.target({"s": 6.2, "t": 6.5}).tokens[:-1]) == '{"s":6.0,"t":7}'


def test_a_text_behind_a_tokenizer_that_composes_accents_is_taught_composed() -> None:
    plan = AnswerPlan({"t": FieldSpec(kind="text"), "n\u0303": FieldSpec(kind="flag")}, tokenizer("composed"))
    target = plan.target({"t": "cafe\u0301 \u212b", "n\u0303": True})
    assert tokenizer("composed").decode(target.tokens[:-1]) == '{"t":"café Å","ñ":true}'


def test_two_choices_that_a_tokenizer_cannot_tell_apart_are_refused() -> None:
    fields = {"name": FieldSpec(kind="choice", choices=("é", "e\u0301"))}
    AnswerPlan(fields, tokenizer("bytes"))
    with pytest.raises(CheckpointError, match="two values of name alike"):
        AnswerPlan(fields, tokenizer("composed"))


@pytest.mark.parametrize("fields", [{"tech": FieldSpec(kind="choice", choices=("a", "ηλιακή"))}, {"β": FieldSpec(kind="flag")}])
def test_a_tokenizer_without_the_letters_is_refused_before_anything_is_trained(fields: dict[str, FieldSpec]) -> None:
    with pytest.raises(CheckpointError, match="cannot spell"):
        AnswerPlan(fields, tokenizer("letters"))


def test_the_metaspace_kind_puts_no_space_into_an_answer() -> None:
    """Its tokenizer puts one before whatever it is given: each piece must be cut from behind a character."""
    assert tokenizer("metaspace").convert_ids_to_tokens(tokenizer("metaspace")("solar", add_special_tokens=False)["input_ids"])[0][0] == "▁"
    plan = AnswerPlan({"tech": FieldSpec(kind="choice", choices=("solar", " solar"))}, tokenizer("metaspace"))
    assert [tokenizer("metaspace").decode([*plan.encode(":"), *value]) for value in plan.slots[0].tokens] == [":solar", ": solar"]


def test_a_base_without_an_end_token_ends_with_the_brace() -> None:
    from copy import deepcopy

    endless = deepcopy(tokenizer("letters"))
    endless.eos_token = None
    plan = AnswerPlan({"f": FieldSpec(kind="flag")}, endless)
    assert plan.end is None and "".join(map(chr, plan.target({"f": True}).tokens)) == '{"f":true}'


def test_room_holds_the_longest_closed_answer_and_half_a_token_a_character_of_open_ones() -> None:
    closed = {"s": FieldSpec(kind="score"), "c": FieldSpec(kind="choice", choices=("a", "long"))}
    assert AnswerPlan(closed, tokenizer("letters")).room == len('{"s":10,"c":"long"}') + 1
    text = {"t": FieldSpec(kind="text", max_chars=40)}
    assert AnswerPlan(text, tokenizer("letters")).room == len('{"t":}') + 20 + 1
