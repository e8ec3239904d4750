"""The dataclasses of the schema out of a tree of YAML: types, limits, choices, unknown and missing keys.

Driven by the type hints and the metadata of the schema alone; it names no setting. Every problem is gathered, none raised.
What is wrong makes the sections around it unbuilt; the others are kept in `sections`, so that their sense can still be checked.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import operator
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, Field, dataclass, field, is_dataclass
from types import UnionType
from typing import Any, Final, Literal, Union, get_args, get_origin, get_type_hints

from mlx_distill.catalog import nearest
from mlx_distill.recipe.problem import Problem
from mlx_distill.recipe.schema import Recipe
from mlx_distill.recipe.yaml import Node

BROKEN: Final = object()


def yaml_key(item: Field[Any]) -> str:
    return str(item.metadata["key"] or item.name)


def join(*parts: str) -> str:
    return ".".join(part for part in parts if part)


@dataclass(slots=True)
class Builder:
    whole: bool = True
    """False where a layer could not be read: then nothing is known to be missing."""
    problems: list[Problem] = field(default_factory=list)
    sections: dict[str, Any] = field(default_factory=dict)
    """Every section that could be built, by its dotted path."""

    def section(self, kind: type[Any], node: Node, path: str = "") -> Any:
        """An instance of the dataclass `kind`, or BROKEN."""
        if not isinstance(node.value, dict):
            return self._wrong(node, path, f"must be a section; got {_shown(node)}", _example(kind))
        items = dataclasses.fields(kind)
        known = [yaml_key(item) for item in items if not item.metadata["rest"]]
        for key in node.value:
            if key not in known and len(known) == len(items):
                self._wrong(node.value[key], join(path, key), "there is no such setting", _meant(key, known))
        hints = get_type_hints(kind)
        others = dataclasses.replace(node, value=_dotted({key: child for key, child in node.value.items() if key not in known}))
        values = {item.name: self._setting(item, hints[item.name], node, path) for item in items if not item.metadata["rest"]}
        values |= {item.name: self._value(hints[item.name], others, path) for item in items if item.metadata["rest"]}
        if any(value is BROKEN for value in values.values()):
            return BROKEN
        self.sections[path] = built = kind(**values)
        return built

    def _setting(self, item: Field[Any], hint: Any, section: Node, path: str) -> Any:
        assert isinstance(section.value, dict)
        key = yaml_key(item)
        here, node = join(path, key), section.value.get(key)
        hint, optional = unwrap(hint)
        if node is not None and node.value is None:
            if optional and (node.text or not is_dataclass(hint)):  # a section that is left empty is its defaults
                return None
            if node.text and "none" in (item.metadata["later"] or ()):
                return self._wrong(node, here, f"{node.text} is not supported yet", "leave it out")
            if node.text not in ("none", "None"):
                node = None  # an empty value, or a null that takes back what an extended recipe says
        if node is None:
            return self._default(item, section, here)
        value = (node.text,) if node.text in item.metadata["words"] else self._value(hint, node, here)
        if value is not BROKEN:
            value = self._within(item, value, node, here)
        if value is not BROKEN:
            self._later(item, value, node, here)
        return value

    def _default(self, item: Field[Any], section: Node, here: str) -> Any:
        if item.default is not MISSING:
            return item.default
        if item.default_factory is not MISSING:
            return item.default_factory()
        return BROKEN if not self.whole else self._wrong(section, here, "is missing", item.metadata["meaning"])

    def _value(self, hint: Any, node: Node, here: str) -> Any:
        if is_dataclass(hint):
            assert isinstance(hint, type)
            return self.section(hint, node, here)
        if get_origin(hint) is tuple:
            return self._items(get_args(hint)[0], node, here)
        if get_origin(hint) is dict:
            return self._entries(get_args(hint)[1], node, here)
        if hint is Any:
            return self._any(node, here)
        if hint is bool:
            fine = isinstance(node.value, bool)
            return node.value if fine else self._wrong(node, here, f"must be true or false; got {_shown(node)}")
        if hint is int or hint is float:
            return self._number(hint, node, here)
        assert hint is str or get_origin(hint) is Literal, hint
        return self._text(node, here)

    def _text(self, node: Node, here: str) -> Any:
        if node.text is not None:
            return node.text
        hint = 'quote a text that has braces or brackets: "{text}"'
        return self._wrong(node, here, f"must be a text; got {_shown(node)}", hint)

    def _number(self, kind: type[Any], node: Node, here: str) -> Any:
        value, wanted = node.value, "a whole number" if kind is int else "a number"
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            hint = "write it without quotes" if isinstance(value, str) and _is_number(value) else None
            return self._wrong(node, here, f"must be {wanted}; got {_shown(node)}", hint)
        if abs(value) > 1e300 or math.isnan(value) or (kind is int and value != int(value)):
            return self._wrong(node, here, f"must be {wanted}; got {_shown(node)}")
        return kind(value)

    def _items(self, kind: Any, node: Node, here: str) -> Any:
        if not isinstance(node.value, list):
            parts = [part.strip() for part in (node.text or "").split(",") if part.strip()]
            hint = f"write [{', '.join(parts)}]" if parts else None
            return self._wrong(node, here, f"must be a list; got {_shown(node)}", hint)
        items = []
        for i, item in enumerate(node.value):
            empty = item.value is None and item.text not in ("none", "None")
            items.append(self._wrong(item, f"{here}.{i}", "is empty") if empty else self._value(kind, item, f"{here}.{i}"))
        return BROKEN if any(item is BROKEN for item in items) else tuple(items)

    def _entries(self, kind: Any, node: Node, here: str) -> Any:
        if not isinstance(node.value, dict):
            return self._wrong(node, here, f"must be a section, name: value; got {_shown(node)}")
        entries = {}
        for name, child in node.value.items():
            if name == "":
                entries[name] = self._wrong(child, here, "a name is empty")
            elif child.value is not None or kind is Any:  # a null takes back what an extended recipe says
                entries[name] = self._value(kind, child, join(here, name))
                if entries[name] is BROKEN and child.place.line is None:
                    self._misspelt(name, node.value, here)
        return BROKEN if any(value is BROKEN for value in entries.values()) else entries

    def _misspelt(self, name: str, siblings: Mapping[str, Node], here: str) -> None:
        """A `--set` that makes a new entry, and not a whole one, may have meant another."""
        close = difflib.get_close_matches(name, [other for other in siblings if other != name], n=1)
        if close:
            self._wrong(siblings[name], join(here, name), "is new, and not whole", f"did you mean {close[0]}?")

    def _any(self, node: Node, here: str) -> Any:
        if isinstance(node.value, list):
            items = self._items(Any, node, here)
            return items if items is BROKEN else list(items)
        if isinstance(node.value, dict):
            return self._entries(Any, node, here)
        if node.value is None and node.text not in ("none", "None"):
            return self._wrong(node, here, "needs a value")
        return node.text if node.value is None else node.value

    def _within(self, item: Field[Any], value: Any, node: Node, here: str) -> Any:
        """The value, or BROKEN where it is not among the choices or beyond the limits."""
        rules: Mapping[str, Any] = item.metadata
        if rules["choices"] is not None and str(value) not in rules["choices"]:
            listed = f"there is {', '.join(rules['choices'])}"
            hint = nearest(value, list(rules["choices"])) if isinstance(value, str) else listed
            return self._wrong(node, here, f"{_shown(node).removeprefix('the text ')} is not among its values", hint)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return value
        unit = f" {rules['unit']}" if rules["unit"] else ""
        limits = (("at least", "low", operator.ge), ("above", "above", operator.gt), ("at most", "high", operator.le))
        for words, name, holds in limits:
            if rules[name] is not None and not holds(value, rules[name]):
                return self._wrong(node, here, f"must be {words} {rules[name]:g}{unit}; got {_shown(node)}")
        return value

    def _later(self, item: Field[Any], value: Any, node: Node, here: str) -> None:
        later = item.metadata["later"] or ()
        if "*" in later and value != item.default:
            self.problems.append(node.problem(here, "not supported yet", "leave it out"))
        elif isinstance(value, str) and value in later:
            now = [choice for choice in item.metadata["choices"] if choice not in later]
            self.problems.append(node.problem(here, f"{value} is not supported yet", f"there is {', '.join(now)}"))

    def _wrong(self, node: Node, path: str, message: str, hint: str | None = None) -> Any:
        self.problems.append(node.problem(path, message, hint))
        return BROKEN


def _dotted(entries: Mapping[str, Node]) -> dict[str, Node]:
    """Names with dots, which `--set targets.accuracy.urgent=0.9` takes apart, joined again; what was taken apart comes last, and wins."""
    whole = {key: child for key, child in entries.items() if not isinstance(child.value, dict)}
    for key, child in entries.items():
        if isinstance(child.value, dict):
            whole |= {join(key, name): inner for name, inner in _dotted(child.value).items()}
    return whole


def unwrap(hint: Any) -> tuple[Any, bool]:
    """`X | None` is (X, True), anything else (itself, False)."""
    if get_origin(hint) not in (Union, UnionType):
        return hint, False
    (inner,) = (part for part in get_args(hint) if part is not type(None))
    return inner, True


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _shown(node: Node) -> str:
    if isinstance(node.value, (dict, list)):
        return "a section" if isinstance(node.value, dict) else "a list"
    if isinstance(node.value, str):
        return f"the text {node.value if len(node.value) <= 60 else node.value[:57] + '...'!r}"
    return str(node.text or "nothing")


def _example(kind: type[Any]) -> str:
    keys = [yaml_key(item) for item in dataclasses.fields(kind)]
    return f"its settings are {', '.join(keys)}"


def _meant(key: str, known: list[str]) -> str:
    """The key nearest to an unknown one among its neighbours; else where in a recipe that key stands."""
    elsewhere = [place for place in _paths(Recipe) if place.rpartition(".")[2] == key]
    if not difflib.get_close_matches(key, known, n=1) and elsewhere and "*" not in elsewhere[0]:
        return f"did you mean {' or '.join(elsewhere)}?"
    return nearest(key, known)


def _paths(kind: type[Any], path: str = "") -> Iterator[str]:
    """The dotted path of every setting; `*` stands for a name of the user's or the number of an item."""
    for item in dataclasses.fields(kind):
        here = join(path, yaml_key(item))
        yield here
        inner, _ = unwrap(get_type_hints(kind)[item.name])
        parts = [part for part in get_args(inner) if is_dataclass(part)]
        if is_dataclass(inner):
            assert isinstance(inner, type)
            yield from _paths(inner, here)
        elif parts:
            yield from _paths(parts[0], f"{here}.*")  # type: ignore[arg-type]
