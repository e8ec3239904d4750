"""A grid over a recipe: every combination of the values that `--over section.key=value,value` names, each a set of `--set`s with a name.

    Grid.of(["lora.rank=8,16", "lora.targets=[q_proj],[q_proj, v_proj]"]).points()     four points

Values are YAML, parted by commas that stand in no bracket and in no quotes. It knows the texts; whether a combination makes a recipe is
`check`'s to say.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlx_distill.recipe.problem import Problem
from mlx_distill.recipe.yaml import parse, plain

_PLAIN = re.compile(r"[^\w.+=-]+", re.ASCII)
LONGEST = 100
"""Characters of a point's name: the file system's limit is 255 bytes, and a folder has files within it."""
_OPEN, _CLOSE = "[{", "]}"


@dataclass(frozen=True, slots=True)
class Point:
    """One combination: `settings` as {dotted key: value}, `sets` as `--set` takes them, `name` fit for a folder."""

    name: str
    settings: dict[str, Any]
    sets: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Grid:
    over: dict[str, tuple[str, ...]]
    """Dotted key: its values, as texts in YAML."""

    @classmethod
    def of(cls, texts: Sequence[str]) -> tuple[Grid, list[Problem]]:
        """The grid, and everything that is wrong with how it was written."""
        over: dict[str, tuple[str, ...]] = {}
        problems: list[Problem] = []
        for text in texts:
            key, equals, values = text.partition("=")
            key, file = key.strip(), f"--over {text}"
            found = tuple(split_values(values))
            if not equals or not all(key.split(".")):
                problems.append(Problem(file, None, "", "is not of the form section.key=value,value", "--over lora.rank=8,16"))
                continue
            if key in over:
                problems.append(Problem(file, None, key, "stands twice", "name all its values at once: --over key=1,2,3"))
            problems.extend(Problem(file, None, key, message, hint) for message, hint in _wrong(found))
            over[key] = found
        return cls(over), problems

    def points(self) -> list[Point]:
        """Every combination, the last key's values changing fastest."""
        names = _short(list(self.over))
        raw = [self._point(values, names) for values in itertools.product(*self.over.values())]
        often = Counter(point.name.casefold() for point in raw)  # two names may be one to a file system
        return [
            point if often[point.name.casefold()] == 1 else Point(_hashed(point.name, point.sets), point.settings, point.sets)
            for point in raw
        ]

    def _point(self, values: Sequence[str], names: Sequence[str]) -> Point:
        pairs = list(zip(self.over, values, strict=True))
        name = ",".join(f"{short}={_spelled(value)}" for short, value in zip(names, values, strict=True))
        sets = tuple(f"{key}={value}" for key, value in pairs)
        name = name if len(name) <= LONGEST else _hashed(name[: LONGEST - 9], sets)
        return Point(name, {key: read_value(value) for key, value in pairs}, sets)


def split_values(text: str) -> Iterator[str]:
    """Values parted by commas on the top level.

    >>> list(split_values("1e-4, 2e-4")), list(split_values("[q, k],[q],none")), list(split_values("'a, b',c"))
    (['1e-4', '2e-4'], ['[q, k]', '[q]', 'none'], ["'a, b'", 'c'])
    """
    depth, quote, start = 0, "", 0
    for i, char in enumerate(text):
        if quote:
            quote = "" if char == quote else quote
        elif char in "'\"" and (i == start or text[i - 1] in " ,:[{"):
            quote = char  # an apostrophe within a word opens nothing
        elif char in _OPEN or char in _CLOSE:
            depth += 1 if char in _OPEN else -1
        elif char == "," and depth <= 0:
            yield text[start:i].strip()
            start = i + 1
    yield text[start:].strip()


def read_value(text: str) -> Any:
    """A value as the recipe will have it: a number, a text, a list, None. The text itself where it is no YAML."""
    node, problems = parse(text, "--over", Path())
    return text if node is None or problems else plain(node)


def _wrong(values: Sequence[str]) -> Iterator[tuple[str, str | None]]:
    if "" in values:
        yield "a value is empty", "values are parted by commas: 8,16; `none` for no value"
    for value in values:
        if value and parse(value, "--over", Path())[1] and value[0] in _OPEN + "'\"":
            yield f"{value} is not YAML", "lists are written [q_proj,v_proj]"
    read = [json.dumps(read_value(value), sort_keys=True) for value in values if value]
    for value, count in Counter(read).items():
        if count > 1:
            yield f"{value} stands {count} times", "a run each: name it once"


def _short(keys: Sequence[str]) -> list[str]:
    """The last parts of keys, where that tells them apart."""
    last = [key.rpartition(".")[2] for key in keys]
    return [short if last.count(short) == 1 else key for key, short in zip(keys, last, strict=True)]


def _spelled(value: str) -> str:
    """A value in a folder's name: numbers in one spelling, lists parted by +.

    >>> _spelled("1e-4"), _spelled("[q_proj, v_proj]"), _spelled("none"), _spelled("a/b c")
    ('0.0001', 'q_proj+v_proj', 'none', 'a_b_c')
    """
    read = read_value(value)
    if isinstance(read, list):
        return "+".join(_spelled(str(part)) for part in read) or "empty"
    text = (
        "none" if read is None else f"{read:g}" if isinstance(read, float) else str(read).lower() if isinstance(read, bool) else str(read)
    )
    return _PLAIN.sub("_", text)


def _hashed(name: str, sets: Sequence[str]) -> str:
    return f"{name}-{hashlib.sha256(json.dumps(sets).encode()).hexdigest()[:8]}"
