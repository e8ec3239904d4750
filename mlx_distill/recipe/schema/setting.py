"""How a setting is declared: a dataclass field with its default, its meaning, its unit and its limits."""

from __future__ import annotations

from dataclasses import MISSING, field
from typing import Any

Problem = tuple[str, str, str | None]
"""Path within the section, message, hint."""


def plain_spelling(text: str) -> str:
    """What two spellings of one choice have in common: neither case nor white space matter.

    >>> plain_spelling("  EU  Digital Services ACT ")
    'eu digital services act'
    """
    return " ".join(text.casefold().split())


def setting(
    default: Any = MISSING,
    meaning: str = "",
    *,
    unit: str | None = None,
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
    choices: tuple[str, ...] | None = None,
    later: tuple[str, ...] | None = None,
    words: tuple[str, ...] = (),
    key: str | None = None,
    rest: bool = False,
) -> Any:
    """A dataclass field with all that is known of it.

    `low` and `high` are inclusive limits, `above` an exclusive one. `later`: legal values that do not work yet ("*": any value but the
    default); `check` refuses them as "not supported yet". `words`: what may stand for a whole list, read as the list of that word alone.
    `key`: its name in YAML, where Python reserves it. `rest`: a mapping that takes every key of the section which is no setting's name.
    """
    metadata = {
        "meaning": meaning, "unit": unit, "low": low, "high": high, "above": above, "choices": choices, "later": later, "words": words,
        "key": key, "rest": rest,
    }  # fmt: skip
    if isinstance(default, (dict, list)) or (callable(default) and not isinstance(default, str)):
        factory = default if callable(default) else lambda: type(default)(default)
        return field(default_factory=factory, metadata=metadata)
    return field(metadata=metadata) if default is MISSING else field(default=default, metadata=metadata)
