"""Rows of tokens: what is read, what is learned, what is cut, and who is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mlx_distill.data.balance import Balance
from mlx_distill.data.tokens import Lesson, Lessons, begins_with, lessons
from mlx_distill.recipe.schema import BalanceSpec, FieldSpec, TaskSpec
from mlx_distill.records import Example, Value
from mlx_distill.task.answer import AnswerPlan
from mlx_distill.task.prompt import Prompt
from mlx_distill.task.slots import SlotPlan
from tests.small_tokenizers import KINDS, chat_template, tokenizer

FLAG, SCORE, TEXT = FieldSpec(kind="flag"), FieldSpec(kind="score"), FieldSpec(kind="text")


def taught(
    rows: list[tuple[str, dict[str, Value]]],
    fields: dict[str, FieldSpec],
    *,
    kind: str = "letters",
    chat: str | None = None,
    max_tokens: int = 512,
    slots: bool = False,
    balance: Balance | None = None,
) -> tuple[Lessons, Prompt]:
    pieces = tokenizer(kind, chat_template(chat) if chat else None)
    prompt = Prompt(TaskSpec(instructions="Is it?", input="{t}", fields=fields), pieces)
    plan: Any = SlotPlan(fields, pieces) if slots else AnswerPlan(fields, pieces)
    examples = [Example(f"r{i}", {"t": text}, text, labels, line=i + 1) for i, (text, labels) in enumerate(rows)]
    return lessons(examples, prompt, plan, max_tokens, balance), prompt


def letters(ids: Any) -> str:
    return "".join(chr(i) for i in ids)


def test_a_row_by_hand() -> None:
    """Prompt "Is it?", blank line, "hi", blank line; answer {"f":true} and the end. One token a character.

    The prefix is the first 8 tokens, so the row's own begin at "h": h i . . { " f " : t r u e }, 14 of them.
    The first learned token, {, is predicted from the last of the prompt, at place 3; the last, the end, from }, at place 13.
    """
    found, prompt = taught([("hi", {"f": True})], {"f": FLAG})
    assert letters(prompt.prefix) == "Is it?\n\n"
    (lesson,) = found.rows
    assert lesson.shared and not lesson.trimmed and lesson.prompt == 12
    row = lesson.row
    assert row.id == "r0"
    assert letters(row.tokens) == 'hi\n\n{"f":true}'
    assert row.read_at.tolist() == [3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13]
    assert letters(row.targets[:-1]) == '{"f":true}' and row.targets[-1] == tokenizer("letters").eos_token_id
    assert row.weight.tolist() == [1.0] * 11
    assert row.allowed is None
    assert (row.tokens.dtype, row.read_at.dtype, row.targets.dtype, row.weight.dtype) == (np.int32, np.int32, np.int32, np.float32)


def test_slots_by_hand() -> None:
    """Two fields, two placeholders A and B behind the prompt; each is read over the codes of its values."""
    found, _ = taught([("hi", {"s": 7, "f": True}), ("ho", {"f": False})], {"s": SCORE, "f": FieldSpec(kind="flag", loss=0.5)}, slots=True)
    both, second = (lesson.row for lesson in found.rows)
    assert letters(both.tokens) == "hi\n\nAB" and letters(second.tokens) == "ho\n\nAB"
    assert both.read_at.tolist() == [4, 5] and second.read_at.tolist() == [5]
    assert letters(both.targets) == "71" and letters(second.targets) == "0"
    assert both.weight.tolist() == [1.0, 0.5] and second.weight.tolist() == [0.5]
    assert both.allowed is not None and [letters(codes) for codes in both.allowed] == ["0123456789a", "01"]


def test_every_position_is_followed_by_what_it_is_to_predict() -> None:
    fields = {"s": SCORE, "c": FieldSpec(kind="choice", choices=("solar", "solar thermal")), "t": TEXT}
    rows: list[tuple[str, dict[str, Value]]] = [
        (text, {"s": score, "c": "solar", "t": 'be"cause'}) for text in ("rain", "\n\nrain", "") for score in (1, 10)
    ]
    for kind in KINDS:
        for lesson in taught(rows, fields, kind=kind, chat="qwen3")[0].rows:
            row = lesson.row
            assert np.array_equal(row.tokens[row.read_at[1:]], row.targets[:-1])
            assert row.read_at[-1] == len(row.tokens) - 1, "the last target is never read"
            assert np.array_equal(np.diff(row.read_at), np.ones(len(row.read_at) - 1))


@pytest.mark.parametrize("chat", ["qwen2.5", "qwen3", "phi3", "gemma", None])
@pytest.mark.parametrize("kind", KINDS)
def test_the_prefix_and_a_rows_own_tokens_are_the_whole_prompt_and_answer(kind: str, chat: str | None) -> None:
    texts = ["The river", "", "\n\nbreaks", " space", '"quoted"', "🔥 שלום", "<|im_end|>"]
    found, prompt = taught([(text, {"s": 3}) for text in texts], {"s": SCORE}, kind=kind, chat=chat)
    for text, lesson in zip(texts, found.rows, strict=True):
        prefix = prompt.prefix if lesson.shared else prompt.prefix[:0]
        whole = np.concatenate([prompt.ids(text)[0], lesson.row.targets[:-1]])
        assert np.array_equal(np.concatenate([prefix, lesson.row.tokens]), whole)
        assert lesson.shared and lesson.prompt == len(prompt.ids(text)[0])


def test_a_row_whose_prompt_does_not_begin_with_the_prefix_brings_all_of_it() -> None:
    pieces = tokenizer("bytes")
    fields = {"f": FLAG}
    prompt = Prompt(TaskSpec(instructions="Is it?", input="{t}", fields=fields), pieces)
    prompt.prefix = np.append(prompt.prefix, np.int32(7))
    (lesson,) = lessons([Example("r", {}, "rain", {"f": True})], prompt, AnswerPlan(fields, pieces), 512).rows
    assert not lesson.shared
    assert np.array_equal(lesson.row.tokens[: lesson.prompt], prompt.ids("rain")[0])
    assert lesson.row.read_at[0] == lesson.prompt - 1


def test_a_prefix_is_shared_where_a_token_of_the_rows_own_is_left() -> None:
    prompt = np.array([1, 2, 3], np.int32)
    assert begins_with(prompt, prompt[:2])
    assert not begins_with(prompt, prompt), "nothing would be left to read the answer from"
    assert not begins_with(prompt, prompt[:0])
    assert not begins_with(prompt, np.array([1, 3], np.int32))


# labels


def test_a_row_teaches_up_to_its_first_missing_label() -> None:
    found, _ = taught([("hi", {"s": 7, "t": "later"}), ("ho", {"f": True, "t": "x"})], {"s": SCORE, "f": FLAG, "t": TEXT})
    (lesson,) = found.rows
    assert letters(lesson.row.targets) == '{"s":7'
    assert letters(lesson.row.tokens) == 'hi\n\n{"s":', "what is learned last is not read"
    assert found.unlabelled == 1 and found.rejected == []


def test_a_fields_loss_weighs_its_own_tokens() -> None:
    found, _ = taught([("hi", {"s": 7, "t": "ab"})], {"s": SCORE, "t": FieldSpec(kind="text", loss=0.25)})
    weights = dict.fromkeys(range(20), 1.0) | dict.fromkeys(range(11, 15), 0.25)
    #  {"s":7,"t":"ab"} and the end: the text with its quotes are tokens 11 to 14
    assert found.rows[0].row.weight.tolist() == [weights[i] for i in range(17)]


def test_a_label_that_the_tokenizer_cannot_spell_costs_its_row_alone() -> None:
    found, _ = taught([("hi", {"t": "é"}), ("ho", {"t": "e"})], {"t": TEXT})
    assert [lesson.row.id for lesson in found.rows] == ["r1"]
    (bad,) = found.rejected
    assert (bad.id, bad.line) == ("r0", 1) and "cannot spell" in bad.reason


# too long

LONG = "".join(str(i % 10) for i in range(300))


def test_a_long_row_loses_the_middle_of_its_text_and_never_its_answer() -> None:
    """32 tokens: 11 for the answer with its end, 10 for instructions and blank lines, 3 for the gap; 8 are left, of which 70 % are 6."""
    found, _ = taught([(LONG, {"f": True}), ("hi", {"f": True})], {"f": FLAG}, max_tokens=32)
    long, short = found.rows
    assert long.trimmed and not short.trimmed
    assert letters(long.row.tokens).replace("\x80", "…") == '012345 … 89\n\n{"f":true}'
    assert letters(long.row.targets[:-1]) == '{"f":true}'
    assert long.prompt + len(long.row.targets) == 32


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("max_tokens", [80, 100, 120])
def test_no_row_is_longer_than_allowed_and_every_answer_is_whole(kind: str, max_tokens: int) -> None:
    rows: list[tuple[str, dict[str, Value]]] = [(f"{i} " * i * 10, {"s": i, "t": "because of the rain"}) for i in range(1, 11)]
    found, _ = taught(rows, {"s": SCORE, "t": TEXT}, kind=kind, chat="qwen2.5", max_tokens=max_tokens)
    plan = AnswerPlan({"s": SCORE, "t": TEXT}, tokenizer(kind))
    assert found.rejected == []
    for (_, labels), lesson in zip(rows, found.rows, strict=True):
        assert lesson.prompt + len(lesson.row.targets) <= max_tokens
        assert tuple(lesson.row.targets) == plan.target(labels).tokens
    assert found.rows[-1].trimmed and not found.rows[0].trimmed


def test_only_a_row_that_cannot_fit_even_so_is_rejected_by_its_id() -> None:
    """The shortest prompt has 10 tokens of its own, 1 of its text and the gap of 3; an answer has 8, its letters and the end."""
    rows: list[tuple[str, dict[str, Value]]] = [(LONG, {"t": "short"}), (LONG, {"t": "x" * 30}), ("", {"t": "x" * 10})]
    found, _ = taught(rows, {"t": TEXT}, max_tokens=32)
    assert [lesson.row.id for lesson in found.rows] == ["r0", "r2"]
    (bad,) = found.rejected
    assert (bad.id, bad.line) == ("r1", 2)
    assert bad.reason == f"prompt and answer need {10 + 1 + 3 + 8 + 30 + 1} tokens, train.max_tokens is 32"


def test_a_row_is_not_taught_without_any_of_its_text() -> None:
    """The instructions alone would fit: an answer to a text that is not there would be learned."""
    answer = len('{"f":true}') + 1
    empty = len("Is it?\n\n\n\n")
    for max_tokens in range(empty + answer, empty + answer + 4):
        found, _ = taught([(LONG, {"f": True})], {"f": FLAG}, max_tokens=max_tokens)
        assert found.rows == [] and [bad.id for bad in found.rejected] == ["r0"]
    found, _ = taught([(LONG, {"f": True})], {"f": FLAG}, max_tokens=empty + answer + 4)
    assert [letters(lesson.row.tokens)[0] for lesson in found.rows] == ["0"]


def test_an_answer_longer_than_everything_is_rejected_not_cut() -> None:
    found, _ = taught([("hi", {"t": "x" * 100})], {"t": TEXT}, max_tokens=50)
    assert found.rows == [] and found.rejected[0].reason.endswith("train.max_tokens is 50")


def test_lessons_keep_the_order_of_their_examples() -> None:
    found, _ = taught([(str(i), {"f": True}) for i in range(20)], {"f": FLAG})
    assert [lesson.row.id for lesson in found.rows] == [f"r{i}" for i in range(20)]
    assert all(isinstance(lesson, Lesson) for lesson in found.rows)


UNTAUGHT = FieldSpec(kind="flag", loss=0)


def test_a_row_whose_whole_weight_is_0_teaches_nothing_and_comes_into_no_batch() -> None:
    rows: list[tuple[str, dict[str, Value]]] = [("a", {"f": True, "g": True}), ("b", {"g": False}), ("c", {"f": True}), ("d", {})]
    found, _ = taught(rows, {"f": FLAG, "g": UNTAUGHT}, slots=True)
    assert [lesson.row.id for lesson in found.rows] == ["r0", "r2"] and found.unlabelled == 2
    assert [lesson.row.weight.tolist() for lesson in found.rows] == [[1, 0], [1]]
    assert all(lesson.row.weight.sum() > 0 for lesson in found.rows)
    found, _ = taught(rows, {"g": UNTAUGHT, "f": FLAG})
    assert [lesson.row.id for lesson in found.rows] == ["r0", "r1"], "json is read from its first field on; its fixed text is learned"
    assert all(lesson.row.weight.sum() > 0 for lesson in found.rows) and found.unlabelled == 2


@pytest.mark.parametrize("slots", [True, False])
def test_balance_multiplies_what_a_value_s_tokens_count(slots: bool) -> None:
    fields = {"f": FieldSpec(kind="flag", loss=0.5), "s": SCORE}
    labels: list[dict[str, Value]] = [{"f": True, "s": 7}, {"f": True, "s": 7}, {"f": True, "s": 7}, {"f": False, "s": 7}]
    rows = [("x", row) for row in labels]
    plain, _ = taught(rows, fields, slots=slots)
    balance = Balance.of(BalanceSpec(kind="inverse"), fields, labels)  # 1 and 3, mean 6 / 4
    found, _ = taught(rows, fields, slots=slots, balance=balance)
    for number, worth in ((0, 2 / 3), (3, 2.0)):
        before, after = (lessons.rows[number].row.weight for lessons in (plain, found))
        assert after == pytest.approx(np.where(before == 0.5, before * worth, before)), "the score and the text between count what they did"
        assert (before == 0.5).sum() == (1 if slots else len("true" if number == 0 else "false"))
    own = [float(lesson.row.weight[0]) for lesson in found.rows] if slots else []
    assert not slots or np.mean(own) == pytest.approx(0.5)
