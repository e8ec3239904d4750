"""The tokens of a text that stands behind another, whatever a tokenizer does at the beginning of what it is given."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from unicodedata import normalize

from mlx_distill.errors import CheckpointError

Tokens = tuple[int, ...]
ANCHORS = ("", "\n", ":", "x", ".")
SHOWN = 60


def spelled(tokenizer: Any, text: str) -> Tokens:
    """Tokens that spell a text in the middle of another. Raises CheckpointError where the tokenizer has none.

    Some tokenizers put a space before whatever they are given; behind a letter of its own they do not.
    """
    for anchor in ANCHORS:
        head, whole = _ids(tokenizer, anchor), _ids(tokenizer, anchor + text)
        if whole[: len(head)] == head and spells(tokenizer, (*_ids(tokenizer, "\n:"), *whole[len(head) :]), "\n:" + text):
            return whole[len(head) :]
    shown = text if len(text) <= SHOWN else f"{text[:SHOWN]} …"
    raise CheckpointError(f"the tokenizer cannot spell {shown!r}", hint="it does not keep texts as they are; choose another base")


def spells(tokenizer: Any, tokens: Sequence[int], text: str) -> bool:
    """Letters and accents may be composed on the way (NFC, as Qwen's tokenizer does): that is the same text."""
    decoded: str = tokenizer.decode(list(tokens), skip_special_tokens=False, clean_up_tokenization_spaces=False)
    return normalize("NFC", decoded.lstrip(" ")) == normalize("NFC", text)


def _ids(tokenizer: Any, text: str) -> Tokens:
    return tuple(tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]) if text else ()
