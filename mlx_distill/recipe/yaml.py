"""YAML in which every value knows the file and the line that wrote it.

The scalars are those of YAML 1.2: `1e-4` is a number, only `true` and `false` are booleans (`no` and `on` are texts), dates are texts.
`none` is null, beside `null` and `~`. Each scalar keeps its text, so that a choice written `1.0` or `no` stays just that.
It knows nothing of recipes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from mlx_distill.recipe.problem import Problem

_TAG = "tag:yaml.org,2002:"
_DIGITS = "[0-9]+(?:_[0-9]+)*"
_RULES = (
    ("null", "~|null|Null|NULL|none|None|", ("", *"~nN")),
    ("bool", "true|True|TRUE|false|False|FALSE", tuple("tTfF")),
    ("int", f"[-+]?{_DIGITS}", tuple("-+0123456789")),
    ("float", rf"[-+]?(?:{_DIGITS}(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?", tuple("-+.0123456789")),
    ("float", r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)", tuple("-+.")),
    ("merge", "<<", ("<",)),
)
_RESOLVERS: dict[str, list[tuple[str, re.Pattern[str]]]] = {}
for _name, _pattern, _starts in _RULES:
    for _start in _starts:
        _RESOLVERS.setdefault(_start, []).append((_TAG + _name, re.compile(rf"(?:{_pattern})\Z")))

Scalar = None | bool | int | float | str


@dataclass(frozen=True, slots=True)
class Place:
    """`folder` is what a relative path written there is relative to. `line` is None for `--set`."""

    file: str
    line: int | None
    folder: Path


@dataclass(frozen=True, slots=True)
class Node:
    """A value, and the place of its key. `text` is a scalar as it was written, without quotes."""

    value: Scalar | dict[str, Node] | list[Node]
    place: Place
    text: str | None = None

    def problem(self, path: str, message: str, hint: str | None = None) -> Problem:
        return Problem(self.place.file, self.place.line, path, message, hint)


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers = _RESOLVERS


class _Dumper(yaml.SafeDumper):
    """Quotes whatever `_Loader` would read as something else than a text."""

    yaml_implicit_resolvers = _RESOLVERS

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text.strip("\n") else None
    # PyYAML writes these line breaks as they are, and reads them as spaces, unless they are escaped
    style = '"' if any(char in text for char in "\r\x85\u2028\u2029") else style
    return dumper.represent_scalar(_TAG + "str", text, style=style)


_Dumper.add_representer(str, _represent_text)


def dump(doc: Any) -> str:
    """Text that `parse` reads back as the same document."""
    return str(yaml.dump(doc, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120))


def parse(text: str, file: str, folder: Path) -> tuple[Node | None, list[Problem]]:
    """The document's node (None where it is empty or no YAML), and what is wrong with it."""
    reader = _Reader(file, folder)
    try:
        document = yaml.compose(text, Loader=_Loader)
        return (reader.read(document) if document is not None else None), reader.problems
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        return None, [Problem(file, line, "", f"the character U+{ord(text[error.position]):04X} is not allowed in YAML")]
    except yaml.MarkedYAMLError as error:
        return None, [_syntax(error, file)]
    except RecursionError:
        return None, [Problem(file, 1, "", "nested too deeply")]


def plain(node: Node) -> Any:
    """The node without its places."""
    if isinstance(node.value, dict):
        return {key: plain(child) for key, child in node.value.items()}
    return [plain(child) for child in node.value] if isinstance(node.value, list) else node.value


def overlay(below: Node, above: Node) -> Node:
    """Sections are merged key by key; anything else in `above` replaces what is below.

    A merged section stands where `above` wrote it, if a line did.
    """
    if not isinstance(below.value, dict) or not isinstance(above.value, dict):
        return above
    merged = dict(below.value)
    for key, child in above.value.items():
        merged[key] = overlay(merged[key], child) if key in merged else child
    return replace(above, value=merged, place=above.place if above.place.line else below.place)


def _syntax(error: yaml.MarkedYAMLError, file: str) -> Problem:
    mark = error.problem_mark or error.context_mark
    message = (error.problem or "").replace("could not find expected ':'", "a key without a colon")
    hint = None
    if "mapping values are not allowed" in message:
        message, hint = "a second colon in a line", 'quote a text that has ": " in it'
    elif "'\\t'" in message:
        message, hint = "a tab in the indentation", "indent with spaces"
    elif "block end" in message or "<block mapping start>" in message:
        hint = "the keys of a section must begin in the same column"
    elif "but found another document" in message:
        message = "a second document; a recipe is one"
    elif "cannot start any token" in message:
        hint = "quote a text that begins so"
    elif error.context and error.context_mark and error.context_mark.line != (mark.line if mark else None):
        message = f"{message}, {error.context} of line {error.context_mark.line + 1}"
    return Problem(file, mark.line + 1 if mark else None, "", f"not YAML: {message}", hint)


class _Reader:
    """PyYAML's nodes into ours."""

    def __init__(self, file: str, folder: Path) -> None:
        self.file, self.folder = file, folder
        self.problems: list[Problem] = []
        self._done: dict[int, Node] = {}
        self._open: set[int] = set()

    def read(self, node: yaml.Node) -> Node:
        """An anchor is read once, however often it is named: a few lines cannot grow to gigabytes."""
        if id(node) in self._open:
            self._problem(node, "an alias within its own anchor")
            return Node(None, self._place(node), "")
        if id(node) not in self._done:
            self._open.add(id(node))
            self._done[id(node)] = self._read(node)
            self._open.remove(id(node))
        return self._done[id(node)]

    def _read(self, node: yaml.Node) -> Node:
        if not isinstance(node, yaml.ScalarNode) and str(node.tag) not in (_TAG + "map", _TAG + "seq"):
            self._problem(node, f"the tag {node.tag} is not allowed", "leave it out")
        if isinstance(node, yaml.MappingNode):
            return Node(self._mapping(node), self._place(node))
        if isinstance(node, yaml.SequenceNode):
            return Node([self.read(child) for child in node.value], self._place(node))
        assert isinstance(node, yaml.ScalarNode)
        return Node(self._scalar(node), self._place(node), node.value)

    def _mapping(self, node: yaml.MappingNode) -> dict[str, Node]:
        entries: dict[str, Node] = {}
        merged: dict[str, Node] = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                self._problem(key, "a key must be a text", "quote a text that has braces or brackets")
            elif key.tag == _TAG + "merge":
                for source in self._sources(value):
                    merged = {**source, **merged}
            elif key.value in entries:
                first = entries[key.value].place.line
                self._problem(key, f"the key {key.value!r} stands twice", f"first in line {first}")
            else:
                entries[key.value] = replace(self.read(value), place=self._place(key))
        return {**merged, **entries}

    def _sources(self, value: yaml.Node) -> Iterator[dict[str, Node]]:
        for source in value.value if isinstance(value, yaml.SequenceNode) else [value]:
            read = self.read(source).value
            if isinstance(read, dict):
                yield read
            else:
                self._problem(source, "<< takes a section", "<<: *anchor")

    def _scalar(self, node: yaml.ScalarNode) -> Scalar:
        kind, text = str(node.tag).removeprefix(_TAG), str(node.value)
        if kind in ("null", "bool"):
            return None if kind == "null" else text.lower() == "true"
        if kind in ("int", "float"):
            try:
                return int(text) if kind == "int" else float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
            except ValueError:  # an explicit tag on something else, or more digits than Python reads
                self._problem(node, f"{text[:40]!r} is no {kind}")
                return None
        if kind != "str":
            self._problem(node, f"the tag {node.tag} is not allowed", "leave it out")
        return text

    def _place(self, node: yaml.Node) -> Place:
        return Place(self.file, node.start_mark.line + 1, self.folder)

    def _problem(self, node: yaml.Node, message: str, hint: str | None = None) -> None:
        self.problems.append(Problem(self.file, node.start_mark.line + 1, "", message, hint))
