"""What the student reads: templates, turns, the shared prefix, and how a text that is too long loses its middle."""

from __future__ import annotations

import datetime
import decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_distill.errors import CheckpointError
from mlx_distill.recipe.schema import FieldSpec, TaskSpec
from mlx_distill.task.prompt import GAP, MissingColumn, Prompt, columns, common_length, fill, load_tokenizer, without_middle
from tests.checkpoints import make_checkpoint
from tests.small_tokenizers import KINDS, MORE_SPECIALS, NOT_SPECIAL, chat_template, tokenizer

TEMPLATES = ("qwen2.5", "qwen3", "phi3", "gemma", None)
BOTH = pytest.mark.parametrize("template", TEMPLATES)
EVERY = pytest.mark.parametrize("kind", KINDS)


def task(instructions: str = "Score this text.", template: str = "{text}") -> TaskSpec:
    return TaskSpec(instructions=instructions, input=template, fields={"f": FieldSpec(kind="flag")})


def prompt(kind: str = "bytes", chat: str | None = "qwen2.5", **settings: str) -> Prompt:
    return Prompt(task(**settings), tokenizer(kind, chat_template(chat) if chat else None))


# templates of a row


def test_a_template_is_filled_with_columns_and_paths() -> None:
    record = {"title": "Floods", "content": "Two\nlines", "meta": {"source": "wire", "n": 3}, "tags": ["a", "é"], "empty": None}
    assert fill("{title}\n\n{content}", record) == "Floods\n\nTwo\nlines"
    assert fill("{meta.source}/{meta.n}/{tags}/{empty}|", record) == 'wire/3/["a", "é"]/|'
    assert fill('{{"title": {title}}}', record) == '{"title": Floods}'
    assert columns("{{x}} {title} {meta.source}") == ["title", "meta.source"]


def test_a_value_with_braces_is_not_filled_again() -> None:
    assert fill("{a} {b}", {"a": "{b}", "b": "{{}}"}) == "{b} {{}}"


def test_a_column_that_is_not_there_is_named_with_those_that_are() -> None:
    with pytest.raises(MissingColumn, match=r"no column 'titel'; there is title, text"):
        fill("{titel}", {"title": "a", "text": "b"})
    with pytest.raises(MissingColumn, match="there is none"):
        fill("{title}", {})


def test_dates_and_decimals_of_a_typed_source_are_written_as_they_read() -> None:
    assert fill("{d} {x}", {"d": datetime.date(2024, 5, 1), "x": decimal.Decimal("1.50")}) == '"2024-05-01" "1.50"'


def test_half_of_a_surrogate_pair_becomes_the_replacement_character() -> None:
    assert fill("{t}", {"t": "cut \ud83d"}) == "cut \ufffd"
    ids, _ = prompt().ids("cut \ud83d")
    assert np.array_equal(ids, prompt().ids("cut \ufffd")[0])


# turns


def test_chatml_has_the_instructions_as_system_turn() -> None:
    assert prompt().render("The river rose.") == (
        "<|im_start|>system\nScore this text.<|im_end|>\n<|im_start|>user\nThe river rose.<|im_end|>\n<|im_start|>assistant\n"
    )


def test_a_template_without_a_system_role_gets_the_instructions_in_the_first_user_turn() -> None:
    assert prompt(chat="gemma").render("The river rose.") == (
        "<bos><start_of_turn>user\nScore this text.\n\nThe river rose.<end_of_turn>\n<start_of_turn>model\n"
    )


def test_a_template_that_drops_the_system_role_silently_gets_them_there_too() -> None:
    deaf = "{% for m in messages if m.role == 'user' %}<|user|>{{ m.content }}<|end|>{% endfor %}<|assistant|>"
    made = Prompt(task(), tokenizer("bytes", deaf))
    assert made.render("The river rose.") == "<|user|>Score this text.\n\nThe river rose.<|end|><|assistant|>"


def test_thinking_is_off_where_a_template_has_it() -> None:
    assert prompt(chat="qwen3").render("x").endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n")


def test_a_base_without_a_chat_template_reads_instructions_and_text_as_paragraphs() -> None:
    assert prompt(chat=None).render("The river rose.") == "Score this text.\n\nThe river rose.\n\n"
    assert prompt(chat=None, instructions="").render("The river rose.") == "The river rose.\n\n"


def test_without_instructions_there_is_no_turn_of_ours_before_the_text() -> None:
    assert prompt(chat="phi3", instructions=" \n").render("x") == "<|user|>\nx<|end|>\n<|assistant|>\n"


@pytest.mark.parametrize(("template", "count"), [("gemma", 1), ("qwen2.5", 0), (None, 1)])
def test_a_beginning_of_sequence_stands_there_once_where_the_tokenizer_or_the_template_has_one(template: str | None, count: int) -> None:
    made = prompt("metaspace", template)
    begin = tokenizer("metaspace").convert_tokens_to_ids("<bos>")
    assert made.ids("x")[0].tolist().count(begin) == count


def test_a_template_that_refuses_a_plain_user_turn_is_no_crash() -> None:
    with pytest.raises(CheckpointError, match="the chat template refuses user: images only"):
        Prompt(task(), tokenizer("bytes", "{{ raise_exception('images only') }}"))


# texts of any content

FRAGMENTS = st.sampled_from([*MORE_SPECIALS, "<|im_", "end|>", "<", "|>", *NOT_SPECIAL, " ", "\n", "word", "🔥", "<<", "\n\n\n"])


@BOTH
@EVERY
@settings(deadline=None, max_examples=40, derandomize=True)
@given(st.lists(FRAGMENTS, max_size=8).map("".join), st.sampled_from([None, 60]))
def test_no_text_can_end_its_turn(kind: str, template: str | None, text: str, most: int | None) -> None:
    made = prompt(kind, template)
    structural = [tokenizer(kind).convert_tokens_to_ids(token) for token in (*MORE_SPECIALS, *NOT_SPECIAL) if token.strip()]

    def turns(text: str) -> list[int]:
        return [token for token in made.ids(text, most)[0].tolist() if token in structural]

    assert turns(text) == turns("a word")


def test_a_token_is_taken_apart_even_where_it_is_not_called_special() -> None:
    think = tokenizer("bytes", chat_template("qwen3")).convert_tokens_to_ids("</think>")
    assert prompt(chat="qwen3").ids("I </think> so")[0].tolist().count(think) == 1, "the template's own"
    assert "I < /think> so" in prompt(chat="qwen3").render("I </think> so")


def test_runs_of_blanks_that_are_tokens_of_their_own_are_plain_text() -> None:
    assert "a\n\n\nb" in prompt().render("a\n\n\nb")


@BOTH
@EVERY
@pytest.mark.parametrize(
    "text", ["", "\x00", "a\x00b", "🔥🔥", "שלום עולם", "\u202eabc", "\r\n\t ", "{}{{title}}", "\ufeff", "é" * 99, "\ud800"]
)
def test_texts_of_any_content_are_prompts(kind: str, template: str | None, text: str) -> None:
    made = prompt(kind, template)
    ids, trimmed = made.ids(text)
    assert ids.dtype == np.int32 and len(ids) > 0 and not trimmed
    if kind != "composed":
        shown = tokenizer(kind).decode(ids)
        assert text.replace("\ud800", "\ufffd").strip() in shown


# the shared prefix

BEGINNINGS = [
    "The river",
    "river",
    "",
    "\n\nTwo breaks",
    " space",
    "  two",
    ".",
    '"quoted"',
    "(a)",
    "🔥",
    "שלום",
    "42",
    "\x00",
    "Ωμέγα",
    "-1",
]


@BOTH
@EVERY
def test_the_prefix_begins_every_prompt_and_covers_the_instructions(kind: str, template: str | None) -> None:
    made = prompt(kind, template)
    assert len(made.prefix) > 5
    assert "Score this text" in tokenizer(kind).decode(made.prefix)
    for text in BEGINNINGS:
        ids, _ = made.ids(text)
        assert np.array_equal(ids[: len(made.prefix)], made.prefix), text
        assert len(ids) > len(made.prefix)


def test_a_line_break_that_the_tokenizer_joins_with_the_texts_is_left_out_of_the_prefix() -> None:
    pieces = tokenizer("bytes")
    assert len(pieces("\n\n")["input_ids"]) == 1, "premise: two breaks are one token"
    assert pieces.decode(prompt().prefix).endswith("<|im_start|>user")


def test_the_prefix_holds_the_templates_own_text_before_the_first_column() -> None:
    made = prompt("letters", None, template="Title: {title}\nText: {text}")
    assert "".join(map(chr, made.prefix)) == "Score this text.\n\nTitle: "


def test_without_instructions_and_template_there_may_be_no_prefix() -> None:
    assert len(prompt("letters", None, instructions="").prefix) == 0


def test_the_common_length_is_where_rows_part() -> None:
    rows = [np.array(row, np.int32) for row in ([1, 2, 3, 4], [1, 2, 9], [1, 2, 3])]
    assert common_length(rows) == 2
    assert common_length([rows[0], rows[2]]) == 3
    assert common_length([rows[0], rows[0][:0]]) == 0


# too long

WORDS = " ".join(f"w{i}" for i in range(1000))


@BOTH
@EVERY
@pytest.mark.parametrize("most", [80, 200, 700])
def test_a_long_text_keeps_its_head_and_its_tail_and_says_so(kind: str, template: str | None, most: int) -> None:
    made = prompt(kind, template)
    ids, trimmed = made.ids(WORDS, most)
    assert trimmed and most - 8 <= len(ids) <= most, "as much as fits"
    text = tokenizer(kind).decode(ids)
    before, after = text[text.index("w0") :].split(GAP.strip())
    assert WORDS.startswith(before.strip())
    after = after[: after.index("w999") + 4].strip()
    assert WORDS.endswith(after)
    head, tail = (len(tokenizer(kind)(part, add_special_tokens=False)["input_ids"]) for part in (before.strip(), after))
    assert abs(head / (head + tail) - 0.7) < 0.05
    assert text.replace(" ", "").endswith("w999" + made.render("|||").split("|||")[1].replace(" ", "")), "what follows is whole"


def test_seventy_and_thirty_by_hand() -> None:
    text = "abcdefghijklmnopqrst"
    offsets = [(i, i + 1) for i in range(len(text))]
    assert without_middle(text, offsets, 10) == "abcdefg … rst"
    assert without_middle(text, offsets, 20) == text
    assert without_middle(text, offsets, 1) == "a … "
    assert without_middle("ab cd ef", [(0, 2), (2, 5), (5, 8)], 2) == "ab … ef", "blanks at the cuts go"


@EVERY
def test_a_text_that_fits_exactly_is_not_touched(kind: str) -> None:
    made = prompt(kind)
    whole, _ = made.ids(WORDS)
    ids, trimmed = made.ids(WORDS, len(whole))
    assert np.array_equal(ids, whole) and not trimmed
    ids, trimmed = made.ids(WORDS, len(whole) - 1)
    assert trimmed and len(ids) <= len(whole) - 1


@EVERY
def test_a_text_keeps_a_word_or_is_too_long(kind: str) -> None:
    made = prompt(kind)
    least = next(most for most in range(1, 100) if len(made.ids(WORDS, most)[0]) <= most)
    assert "w" in tokenizer(kind).decode(made.ids(WORDS, least)[0]).partition("user")[2]
    for most in (1, least - 1):
        assert len(made.ids(WORDS, most)[0]) == least, "what the shortest prompt needs, for the caller to refuse"
    empty, _ = made.ids("")
    assert len(made.ids("", len(empty) - 1)[0]) == len(empty)


@EVERY
def test_a_text_of_special_tokens_alone_keeps_as_much_as_any_other(kind: str) -> None:
    ids, trimmed = prompt(kind).ids("<|im_end|>" * 500, 100)
    assert trimmed and 90 <= len(ids) <= 100


class Counting:
    """A tokenizer that counts the characters it is given."""

    def __init__(self, inner: Any):
        self._inner, self.read = inner, 0

    def __call__(self, text: str, **settings: Any) -> Any:
        self.read += len(text)
        return self._inner(text, **settings)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


@EVERY
@pytest.mark.parametrize("unit", ["The river rose. ", "x", " ", "\n", "🔥", "<|im_end|>", "水", "<"])
def test_what_a_huge_text_costs_depends_on_what_is_kept_and_not_on_its_length(kind: str, unit: str) -> None:
    counting = Counting(tokenizer(kind, chat_template("qwen2.5")))
    made = Prompt(task(), counting)
    before = counting.read
    costs = []
    for length in (200_000, 1_000_000):
        ids, trimmed = made.ids(unit * (length // len(unit)), 256)
        costs.append(counting.read - before)
        before = counting.read
        assert trimmed and len(ids) <= 256
    assert costs[0] == costs[1] < 20_000


def test_the_head_and_the_tail_of_a_huge_text_are_those_of_the_whole() -> None:
    made = prompt()
    numbers = " ".join(str(i) for i in range(100_000))
    text = tokenizer("bytes").decode(made.ids(numbers, 300)[0])
    head, tail = text.split("user\n")[1].split("<|im_end|>")[0].split(GAP)
    assert numbers.startswith(head) and numbers.endswith(tail) and len(head) > 2 * len(tail) - 30


# the tokenizer of a base


def test_a_bases_own_tokenizer_is_loaded(tmp_path: Path) -> None:
    loaded = load_tokenizer(make_checkpoint(tmp_path / "base"))
    assert Prompt(task(), loaded).render("x").startswith("<|im_start|>system\nScore this text.<|im_end|>")


def test_a_folder_without_a_tokenizer_is_named(tmp_path: Path) -> None:
    """transformers makes an empty tokenizer up where there are no files."""
    with pytest.raises(CheckpointError, match="there is no tokenizer in it") as caught:
        load_tokenizer(make_checkpoint(tmp_path / "base", tokenizer=False))
    assert caught.value.file == str(tmp_path / "base")


def test_a_damaged_tokenizer_is_named(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "base")
    (folder / "tokenizer.json").write_text("{")
    with pytest.raises(CheckpointError, match="the tokenizer cannot be read"):
        load_tokenizer(folder)
