"""Which keys lie beside which, on the keyboard that a language is typed on."""

from __future__ import annotations

import unicodedata
from functools import cache

_QWERTY = ("qwertyuiop", "asdfghjkl", "zxcvbnm")
_LATIN = {
    "es": ("qwertyuiop", "asdfghjklñ", "zxcvbnm"),
    "pt": ("qwertyuiop", "asdfghjklç", "zxcvbnm"),
    "de": ("qwertzuiopü", "asdfghjklöä", "yxcvbnm"),
    "fr": ("azertyuiop", "qsdfghjklm", "wxcvbn"),
}
_OTHERS = (
    (" ςερτυθιοπ", "ασδφγηξκλ", "ζχψωβνμ"),
    ("йцукенгшщзхъ", "фывапролджэ", "ячсмитьбю"),
    ("ضصثقفغعهخحجد", "شسيبلاتنمكط", "ئءؤر ىةوزظ"),
    ("  קראטוןםפ", "שדגכעיחלךף", "זסבהנמצתץ"),
)
"""Greek, Russian, Arabic, Hebrew, for texts of any language. A blank is a key without a letter."""
_HALF = 0.5
"""Of a key's width: so far each row is shifted against the one above."""


@cache
def neighbours(letter: str, language: str) -> tuple[str, ...]:
    """What a finger that misses `letter` hits, in the letter's case; none where no layout has it.

    An accent is typed by a key of its own: without it the bare letter comes out, or a neighbour of that.

    >>> neighbours("a", "en"), neighbours("A", "fr"), neighbours("ώ", "el"), neighbours("é", "es"), neighbours("7", "en")
    (('q', 'w', 's', 'z'), ('Z', 'Q'), ('ω', 'φ', 'γ', 'ψ', 'β'), ('e', 'w', 'r', 's', 'd'), ())
    """
    small = unicodedata.normalize("NFC", letter).lower()
    found = _beside(small, language)
    if not found:
        bare = unicodedata.normalize("NFD", small)[0]
        found = (*([bare] if bare != small else []), *_beside(bare, language)) if bare.isalpha() else ()
    return tuple(map(str.upper, found)) if letter != letter.lower() else found


@cache
def _beside(key: str, language: str) -> tuple[str, ...]:
    rows = next((rows for rows in (_LATIN.get(language, _QWERTY), _QWERTY, *_OTHERS) if any(key in row for row in rows)), None)
    if rows is None or key.isspace() or len(key) != 1:
        return ()
    places = {other: (column + _HALF * line, line) for line, row in enumerate(rows) for column, other in enumerate(row)}
    x, y = places[key]
    # A final sigma has its own key, and no place within a word.
    return tuple(k for k, (u, v) in places.items() if k not in (key, "ς", " ") and abs(u - x) <= 1 and abs(v - y) <= 1)
