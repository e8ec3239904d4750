"""Slots in tokens: what is read, what is written behind it, and what of both a row teaches."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from mlx_distill.errors import CheckpointError
from mlx_distill.recipe.schema import FieldSpec
from mlx_distill.records import Taught, Value
from mlx_distill.task.answer import AnswerPlan
from mlx_distill.task.slots import SlotPlan
from tests.small_tokenizers import KINDS, tokenizer

FLAG, SCORE, TEXT = FieldSpec(kind="flag"), FieldSpec(kind="score"), FieldSpec(kind="text", max_chars=40)
TAGS = FieldSpec(kind="list", max_items=3, max_chars=9)
CLOSED = {"s": SCORE, "f": FieldSpec(kind="flag", loss=0.5), "c": FieldSpec(kind="choice", choices=("solar", "wind", "other"))}
MIXED = {"why": FieldSpec(kind="text", loss=0.25), "s": SCORE, "tags": TAGS, "f": FieldSpec(kind="flag", loss=0.5)}
WHOLE: dict[str, Value] = {"why": "it rose", "s": 7, "tags": ["a"], "f": True}


def letters(ids: Any) -> str:
    """One token a character."""
    return "".join(chr(i) if i < 128 else "$" for i in ids)


def taught(fields: Mapping[str, FieldSpec], labels: Mapping[str, Value], kind: str = "letters") -> Taught:
    found = SlotPlan(fields, tokenizer(kind)).taught(labels)
    assert found is not None
    return found


def test_texts_are_written_behind_the_codes_of_the_values_by_hand() -> None:
    """Places A (s) and B (f); codes 7 and 1; then the open fields alone, in the recipe's order, as JSON that ends."""
    row = taught(MIXED, WHOLE)
    text = '{"why":"it rose","tags":["a"]}'
    assert letters(row.inputs) == "AB71" + text
    assert row.read.tolist() == [1, 2, *range(4, 4 + len(text) + 1)], "the codes are given, not learned: nothing is read at A B 7"
    assert letters(row.targets) == "71" + text + "$" and row.targets[-1] == tokenizer("letters").eos_token_id
    assert row.allowed is not None and [None if ids is None else letters(ids) for ids in row.allowed[:3]] == ["0123456789a", "01", None]
    assert all(ids is None for ids in row.allowed[2:])
    assert "".join(name[0] if name else "." for name in row.field) == "sf" + "......." + "w" * 9 + "........" + "t" * 5 + ".."
    assert row.weight.tolist() == [{"s": 1.0, "f": 0.5, "why": 0.25}.get(name or "", 1.0) for name in row.field]


@pytest.mark.parametrize("kind", KINDS)
def test_every_text_token_is_predicted_from_the_one_before_it(kind: str) -> None:
    plan = SlotPlan(MIXED, tokenizer(kind))
    row = taught(MIXED, WHOLE, kind)
    closed = len(plan.places)
    assert np.array_equal(row.inputs[: 2 * closed], [*plan.scaffold, *row.targets[:closed]]), "what is learned is what texts stand behind"
    written = row.targets[closed:]
    assert np.array_equal(row.inputs[2 * closed :], written[:-1]) and row.read[-1] == len(row.inputs)
    assert np.array_equal(row.read[closed:], 2 * closed + np.arange(len(written)))
    assert json.loads(tokenizer(kind).decode(written[:-1])) == {"why": "it rose", "tags": ["a"]}
    assert plan.texts is not None and tuple(written) == plan.texts.target(WHOLE).tokens
    assert len(row.inputs) + 1 <= plan.room
    assert len(row.read) == len(row.targets) == len(row.weight) == len(row.allowed or ()) == len(row.field)
    assert (row.inputs.dtype, row.read.dtype, row.targets.dtype, row.weight.dtype) == (np.int32, np.int32, np.int32, np.float32)


@pytest.mark.parametrize("kind", KINDS)
def test_an_open_field_changes_nothing_of_the_closed_ones(kind: str) -> None:
    """Wherever it stands among them: same placeholders, same codes, same targets."""
    alone = SlotPlan(CLOSED, tokenizer(kind))
    assert alone.texts is None and alone.room == len(alone.scaffold) == 3
    for fields in ({"why": TEXT, **CLOSED}, {**CLOSED, "why": TEXT}):
        plan = SlotPlan(fields, tokenizer(kind))
        assert np.array_equal(plan.scaffold, alone.scaffold)
        assert all(np.array_equal(one.codes, other.codes) for one, other in zip(plan.places, alone.places, strict=True))
        labels: dict[str, Value] = {"s": 3, "c": "wind"}
        one, other = plan.taught(labels), alone.taught(labels)
        assert one is not None and other is not None
        for name in ("inputs", "read", "targets", "weight"):
            assert np.array_equal(getattr(one, name), getattr(other, name))


def test_a_closed_field_without_a_label_stands_as_its_placeholder_before_the_texts() -> None:
    row = taught(MIXED, {"why": "it rose", "f": True})
    assert letters(row.inputs) == 'ABA1{"why":"it rose', "and they end where the next one has no label"
    assert row.read[0] == 2 and letters(row.targets) == '1{"why":"it rose"'


def test_a_row_teaches_what_it_has() -> None:
    assert letters(taught(MIXED, {"why": "it rose", "tags": []}).inputs) == 'ABAB{"why":"it rose","tags":[]}', "texts alone"
    assert letters(taught(MIXED, {"s": 3}).inputs) == "AB", "closed fields alone: no token is spent on texts"
    assert letters(taught(MIXED, {"s": 3, "tags": ["a"]}).inputs) == "AB", "a text behind one without a label would be learned out of place"
    plan = SlotPlan(MIXED, tokenizer("letters"))
    assert plan.taught({}) is None and plan.taught({"tags": ["a"]}) is None


def test_codes_are_what_an_answer_is_forced_to() -> None:
    plan = SlotPlan(MIXED, tokenizer("letters"))
    assert letters(plan.codes({"s": 6.4, "f": False})) == "60", "a score between two steps by its nearest"
    assert letters(plan.codes({"s": 10, "why": "x"})) == "aB"
    assert plan.codes({}).tolist() == plan.scaffold.tolist()


def test_room_is_the_scaffold_the_codes_and_the_texts() -> None:
    plan = SlotPlan(MIXED, tokenizer("letters"))
    texts = AnswerPlan({"why": MIXED["why"], "tags": TAGS}, tokenizer("letters"))
    assert plan.room == 2 + 2 + texts.room


def test_a_text_that_the_tokenizer_cannot_spell_is_refused() -> None:
    plan = SlotPlan(MIXED, tokenizer("letters"))
    with pytest.raises(CheckpointError, match="cannot spell"):
        plan.taught({"s": 3, "why": "πυρκαγιά"})
