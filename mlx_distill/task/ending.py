"""How a text ends that a limit of characters has cut: with its last whole sentence, or with its last whole word and an ellipsis.

The same rule cuts labels that are too long and texts that the student writes up to the limit: so it learns to end as it will be ended.
"""

from __future__ import annotations

import re
from unicodedata import category

ELLIPSIS = "…"
STAYS = 0.6
"""A sentence's end is taken where at least this share of the limit stands before it ..."""
WORD_STAYS = 0.5
"""... and a word's where this does: a script without spaces is cut anywhere."""

_CLOSING = "\"'”’»›)\\]」』）】"
_END = re.compile(
    rf"""(?:(?<!\b\w)\.(?=\s|[{_CLOSING}]|$)   # not an initial's full stop, nor a decimal point
        |[!?…؟۔।॥։።](?=\s|[{_CLOSING}]|$)
        |[。！？｡])                           # behind these no space is written
        [.!?…。！？]*[{_CLOSING}]*""",
    re.VERBOSE,
)
_GOES_ON = re.compile(r"\s*[a-zà-öø-ÿα-ωά-ώа-я]")
"""A small letter behind a full stop: that was an abbreviation's."""
_DANGLING = " \t\r\n,;:–—-/&(«“‘„[{"


def ended(text: str, most: int) -> str:
    """A text that a limit of `most` characters has cut, or cuts now, as it should end: never longer, and never in the middle of a letter.

    One that is shorter than the limit ended by itself, and stays. So does one that ends a sentence.

    >>> ended("It rose. Then it fell", 12)
    'It rose.'
    >>> ended("The river rose over the bridge", 18)
    'The river rose…'
    """
    if len(text) < most:
        return text
    sentence = _sentence(text, most)
    if sentence is not None:
        return sentence
    if most < 2:
        return text[:most]
    return _words(text, most - 1) + ELLIPSIS


def _sentence(text: str, most: int) -> str | None:
    """Up to the last sentence's end, where enough stays."""
    ends = [found.end() for found in _END.finditer(text, 0, most) if not _inside(text, found.end(), most)]
    return text[: ends[-1]] if ends and ends[-1] >= STAYS * most else None


def _inside(text: str, at: int, most: int) -> bool:
    """Whether what looks like an end is none. What stands behind the limit counts where it is known: 3.|5, e.g.| the."""
    if at == most and at < len(text) and text[at].isalnum() and text[at - 1] not in "。！？｡":
        return True
    return text[at - 1] == "." and _GOES_ON.match(text, at) is not None


def _words(text: str, most: int) -> str:
    """Whole words, at most so many characters, without what only leads to the next one."""
    space = max((i for i in range(most, int(WORD_STAYS * most), -1) if text[i].isspace()), default=0)
    whole = text[:space].rstrip(_DANGLING)
    return whole or text[: _between(text, most)].rstrip()


def _between(text: str, at: int) -> int:
    """The nearest place, not behind `at`, between two letters as people see them (most of Unicode's grapheme clusters)."""
    place = at
    while 0 < place < len(text) and _bound(text, place):
        place -= 1
    return place or at


def _bound(text: str, at: int) -> bool:
    """Whether a letter goes on across this place: accents, joined emoji, skin tones, halves of a flag."""
    before, after = text[at - 1], text[at]
    if category(after).startswith("M") or "\u200d" in (before, after) or "\U0001f3fb" <= after <= "\U0001f3ff":
        return True
    return _is_flag(before) and _is_flag(after) and _flags_before(text, at) % 2 == 1


def _is_flag(letter: str) -> bool:
    return "\U0001f1e6" <= letter <= "\U0001f1ff"


def _flags_before(text: str, at: int) -> int:
    """Regional indicators in a row that end here; two make a flag."""
    start = at
    while start and _is_flag(text[start - 1]):
        start -= 1
    return at - start
