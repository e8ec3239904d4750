"""The grammar of open fields allows what the schema allows, and nothing else."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from mlx_distill.errors import BackendError
from mlx_distill.inference.grammar import Grammar, Grammars
from mlx_distill.recipe.schema import FieldSpec
from mlx_distill.task.prompt import load_tokenizer
from tests.checkpoints import VOCABULARY, make_checkpoint

HEAD = VOCABULARY + 40
"""Rows of a head that was padded, as many are: the tokenizer has fewer tokens."""


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return load_tokenizer(make_checkpoint(tmp_path_factory.mktemp("grammar")))


def allowed(grammars: Grammars, grammar: Grammar) -> set[int]:
    (bits,) = grammars.masks([grammar])
    return {i for i in range(HEAD) if bits[i // 32] >> np.uint32(i % 32) & 1}


def takes(grammars: Grammars, spec: FieldSpec, tokenizer: Any, text: str) -> bool:
    """Whether the text is a whole value, token by token, each of them allowed or forced."""
    grammar = grammars.compile(spec)
    forced: list[int] = []
    for token in tokenizer(text, add_special_tokens=False)["input_ids"]:
        forced = forced or ([] if grammar.over else grammar.forced())
        if forced:
            if forced.pop(0) != token:
                return False
            continue
        if grammar.over or token not in allowed(grammars, grammar):
            return False
        grammar.consume(token)
    return grammar.over


TEXT, LIST = FieldSpec(kind="text", max_chars=3), FieldSpec(kind="list", choices=("a", "ab"), max_items=2)


@pytest.mark.parametrize(
    ("spec", "value", "legal"),
    [
        (TEXT, '""', True),
        (TEXT, '"水é🌊"', True),
        (TEXT, '"a\\"b"', True),
        (TEXT, '"abcd"', False),
        (TEXT, '"a', False),
        (TEXT, " \"a\"", False),
        (TEXT, "12", False),
        (LIST, "[]", True),
        (LIST, '["a","ab"]', True),
        (LIST, '["ab", "a"]', False),
        (LIST, '["b"]', False),
        (LIST, '["a","a","a"]', False),
    ],
)  # fmt: skip
def test_exactly_the_legal_values_are_taken(tokenizer: Any, spec: FieldSpec, value: str, legal: bool) -> None:
    assert takes(Grammars(tokenizer, HEAD), spec, tokenizer, value) is legal


def test_copies_go_their_own_ways(tokenizer: Any) -> None:
    grammars = Grammars(tokenizer, HEAD)
    prototype = grammars.compile(TEXT)
    one, other = prototype.copy(), prototype.copy()
    one.consume(tokenizer.convert_tokens_to_ids('"'))
    assert allowed(grammars, other) == allowed(grammars, prototype)
    assert allowed(grammars, one) != allowed(grammars, prototype)


def test_masks_of_many_rows_are_each_row_s_own(tokenizer: Any) -> None:
    """They are computed together, in parallel."""
    grammars = Grammars(tokenizer, HEAD)
    rows = [grammars.compile(spec) for _ in range(8) for spec in (TEXT, LIST)]
    for row in rows[::2]:
        row.consume(tokenizer.convert_tokens_to_ids('"'))
    masks = grammars.masks(rows)
    assert all((mask == grammars.masks([row])[0]).all() for mask, row in zip(masks, rows, strict=True))
    assert (masks[0] != masks[1]).any()


def test_special_tokens_and_rows_beyond_the_tokenizer_are_never_allowed(tokenizer: Any) -> None:
    grammars = Grammars(tokenizer, HEAD)
    grammar = grammars.compile(TEXT)
    grammar.consume(tokenizer.convert_tokens_to_ids('"'))
    assert not allowed(grammars, grammar) & {*tokenizer.all_special_ids, *range(VOCABULARY, HEAD)}


def test_a_token_that_was_not_allowed_is_an_error_and_not_passed_over(tokenizer: Any) -> None:
    with pytest.raises(BackendError, match="grammar"):
        Grammars(tokenizer, HEAD).compile(TEXT).consume(tokenizer.convert_tokens_to_ids("}"))


def test_tokens_spell_their_text(tokenizer: Any) -> None:
    text = json.dumps("水 🌊\n", ensure_ascii=False)
    assert Grammars(tokenizer, HEAD).text(tokenizer(text, add_special_tokens=False)["input_ids"]) == text
