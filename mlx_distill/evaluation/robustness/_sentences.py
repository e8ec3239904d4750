"""Cuts a text into sentences, in any script, by its marks alone: it knows no language, and no abbreviation by name."""

from __future__ import annotations

import re

SHORTEST = 8
"""Characters; what is shorter ("Dr.", "1.") belongs to what follows."""
_END = re.compile(r"""[.!?…؟۔।]+["'”’»)\]]*(?=\s)|[。！？]+[」』”]*|\n""")
_SPACE = re.compile(r"\s*")


def sentences(text: str) -> list[str]:
    """Each with the white space behind it: joined they are the text again.

    >>> sentences("Dr. Bos came late. Why?  Nobody\\nasked him.")
    ['Dr. Bos came late. ', 'Why?  Nobody\\n', 'asked him.']
    """
    found: list[str] = []
    start = 0
    for match in _END.finditer(text):
        behind = _SPACE.match(text, match.end())
        end = behind.end() if behind else match.end()
        if end > match.start() and len(text[start : match.end()].strip()) >= SHORTEST and match.start() >= start:
            found.append(text[start:end])
            start = end
    return [*found, text[start:]] if start < len(text) else found


def insert(text: str, place: int, addition: str) -> str:
    """`addition` before the sentence of that number (their count: at the end), parted by a space where none is.

    >>> insert("One is here. Two is there.", 1, "So what."), insert("One is here.", 1, "So what.")
    ('One is here. So what. Two is there.', 'One is here. So what.')
    """
    parts = sentences(text)
    before, after = "".join(parts[:place]), "".join(parts[place:])
    left = " " if before and not before[-1].isspace() else ""
    right = " " if after and not after[0].isspace() else ""
    return f"{before}{left}{addition}{right}{after}"
