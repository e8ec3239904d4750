"""What a person takes for one character: a letter with its accents and vowel signs, an emoji with its modifiers. Any script."""

from __future__ import annotations

import unicodedata

JOINER = "\u200d"


def characters(text: str) -> list[str]:
    """Cuts a text into them; joined they are the text again. Takes time linear in the text, whatever stands in it.

    >>> [len(one) for one in characters("nai\\u0308f")]
    [1, 1, 2, 1]
    """
    if text.isascii():
        return list(text)
    starts = [i for i, char in enumerate(text) if not (i and (_joins(char) or text[i - 1] == JOINER))]
    return [text[start:end] for start, end in zip(starts, [*starts[1:], len(text)], strict=True)]


def _joins(char: str) -> bool:
    """Whether a code point belongs to the one before it: a mark, a variation selector, a joiner, a colour of skin."""
    return char > "\u02ff" and (char == JOINER or "\U0001f3fb" <= char <= "\U0001f3ff" or unicodedata.category(char)[0] == "M")
