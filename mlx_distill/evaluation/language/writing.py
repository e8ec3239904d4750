"""Which language a row is in, as far as it can be told without guessing: by its own column, else by the script of its letters.

    languages(records, texts)      ("column `lang`", {"el": [...], "en": [...]})
    script("Η φωτιά")              "Greek"

A script is no language: Latin letters write hundreds. What is said of "Latin" is said of all of them together.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from mlx_distill.task.fields import ABSENT, follow

COLUMNS = ("language", "lang")
UNKNOWN = "unknown"
READ = 2000
"""Characters of a text that tell its script."""
UNSPACED = ("Han", "Kana", "Thai", "Lao", "Khmer", "Myanmar", "Tibetan")
"""Written without spaces between words."""
_NAMES = {"Cjk": "Han", "Hiragana": "Kana", "Katakana": "Kana", "Ideographic": "Han"}
_STYLES = ("FULLWIDTH", "HALFWIDTH", "MATHEMATICAL", "MODIFIER", "CIRCLED", "PARENTHESIZED")


def languages(records: Sequence[Mapping[str, Any]], texts: Sequence[str]) -> tuple[str, dict[str, list[str]]]:
    """(what they were told by, language -> its texts, the most frequent first)."""
    column = next((name for name in COLUMNS if any(_value(record, name) for record in records)), None)
    names = [_value(record, column) or UNKNOWN for record in records] if column else list(map(script, texts))
    found: dict[str, list[str]] = {name: [] for name, _ in Counter(names).most_common()}
    for name, text in zip(names, texts, strict=True):
        found[name].append(text)
    return (f"column {column}" if column else "script"), found


def script(text: str) -> str:
    """The script of most letters; "Kana" where a tenth of them are, for Japanese mixes them with Han. UNKNOWN without letters.

    >>> script("Η φωτιά στο Athens"), script("ночь"), script("東京は晴れ"), script("12:30")
    ('Greek', 'Cyrillic', 'Kana', 'unknown')
    """
    counts = Counter(script_of(letter) for letter in text[:READ] if letter.isalpha())
    if not counts:
        return UNKNOWN
    if counts["Kana"] * 10 >= counts.total():
        return "Kana"
    return max(sorted(counts), key=counts.__getitem__)


@lru_cache(maxsize=1 << 14)
def script_of(letter: str) -> str:
    """The first word of the character's name, which is its script.

    >>> script_of("é"), script_of("ﬁ"), script_of("Ａ"), script_of("ß"), script_of("语")
    ('Latin', 'Latin', 'Latin', 'Latin', 'Han')
    """
    words = unicodedata.name(letter, UNKNOWN).split()
    while len(words) > 1 and words[0] in _STYLES:
        words = words[1:]
    name = words[0].split("-")[0].capitalize()
    return UNKNOWN if name == UNKNOWN.capitalize() else _NAMES.get(name, name)


def _value(record: Mapping[str, Any], column: str) -> str | None:
    value = follow(record, column)
    if value is ABSENT or value is None or value != value:
        return None
    return str(value).strip().casefold() or None
