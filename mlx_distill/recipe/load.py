"""A recipe read from YAML: layers merged, names of the environment filled in, paths made absolute, every setting in its type.

Nothing raises on what a user wrote: all that is wrong in its shape stands in `Loaded.problems`, each with its place.
It knows the shape of a recipe; whether the values make sense together is `check`'s.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mlx_distill.recipe.build import BROKEN, Builder, join
from mlx_distill.recipe.layers import Layers
from mlx_distill.recipe.problem import Problem as Problem
from mlx_distill.recipe.schema import Recipe
from mlx_distill.recipe.yaml import Node, Place

_NAME = re.compile(r"\$\{([^}]*)\}")
_SOURCES = ("data.source", "data.replay.source", "evaluate.again", "robustness.given.*.source", "forgetting.benchmarks.*")


@dataclass(frozen=True, slots=True)
class Loaded:
    """What a file says. `recipe` is None where its shape is too broken; `sections` are those that could be built, by path."""

    file: Path
    recipe: Recipe | None
    problems: tuple[Problem, ...]
    sections: Mapping[str, Any]
    tree: Node
    facts: Node | None = None
    """What a lock says beside its recipe; None where the file is no lock."""

    def where(self, path: str) -> tuple[str, int | None]:
        """File and line of a dotted path, or of its nearest parent. The line is None for what `--set` wrote."""
        place = self._place(path)
        return place.file, place.line

    def problem(self, path: str, message: str, hint: str | None = None) -> Problem:
        return Problem(*self.where(path), path, message, hint)

    def _place(self, path: str) -> Place:
        node, rest = self.tree, path.split(".") if path else []
        while rest:
            found = _child(node, rest)
            if found is None:
                break
            node, rest = found
        return node.place


def load(path: Path, sets: Sequence[str] = (), *, environment: Mapping[str, str] | None = None) -> Loaded:
    """Read a recipe, or a lock, with `section.key=value` laid over it.

    `${NAME}` in `base.model` is taken from `environment` alone. Local paths come out absolute: relative ones are relative to the file
    that wrote them, those of `sets` to the working folder.
    """
    layers = Layers()
    tree = layers.read(path)
    if tree is None:
        place = Place(str(path), None, path.absolute().parent)
        return Loaded(path, None, tuple(layers.problems), {}, Node({}, place))
    for text in sets:
        tree = layers.set(tree, text)
    problems = layers.problems
    tree = _change(tree, "base.model", lambda node: _filled(node, environment or {}, problems))
    tree = _anchored(tree)
    builder = Builder(whole=layers.whole)
    recipe = builder.section(Recipe, tree)
    found = tuple(dict.fromkeys((*problems, *builder.problems)))  # two layers may extend the same broken one
    return Loaded(path, None if recipe is BROKEN else recipe, found, builder.sections, tree, layers.facts)


def local(text: str, folder: Path) -> Path | None:
    """The absolute path, where the text looks like one or something is there; None for what can only be a hub id."""
    try:
        path = folder / Path(text).expanduser()
        if text and (text[0] in "./~" or path.exists()):
            return path.resolve() if path.name in ("", "..") else path.parent.resolve() / path.name
    except (OSError, RuntimeError, ValueError):
        pass  # a name that no file can have, or a home that nobody has
    return None


def _anchored(tree: Node) -> Node:
    """Local paths made absolute. The files of a dataset are always local; a hub id may be the name of a folder."""
    tree = _change(tree, "base.model", _located)
    for source in (path for pattern in _SOURCES for path in _matching(tree, pattern)):
        kind = _find(tree, f"{source}.kind")
        hub = kind is None or kind.text == "hf"
        tree = _change(tree, f"{source}.path", _located if hub else _placed)
    return tree


def _matching(tree: Node, pattern: str) -> list[str]:
    """The paths that a pattern with one `*`, a name of the user's, stands for."""
    head, star, tail = pattern.partition(".*")
    found = _find(tree, head)
    if not star:
        return [pattern]
    return [f"{head}.{name}{tail}" for name in found.value] if found is not None and isinstance(found.value, dict) else []


def _located(node: Node) -> Node:
    path = local(node.text or "", node.place.folder)
    return replace(node, value=str(path), text=str(path)) if path is not None else node


def _placed(node: Node) -> Node:
    """As `_located`, also where nothing is there."""
    text = node.text or ""
    path = local(text if text[:1] in ("", ".", "/", "~") else f"./{text}", node.place.folder)
    return replace(node, value=str(path), text=str(path)) if path is not None else node


def _filled(node: Node, environment: Mapping[str, str], problems: list[Problem]) -> Node:
    """`${NAME}` replaced. A path that is wholly from the environment is relative to the working folder, as one of `--set` is."""
    text = node.text or ""
    names = _NAME.findall(text)
    for name in names:
        if not environment.get(name):
            hint = f"export {name}=..., or --set base.model=..."
            problems.append(node.problem("base.model", f"the environment has no {name or 'empty name'}", hint))
            return node
    if not names:
        return node
    filled = _NAME.sub(lambda match: environment[match[1]], text)
    place = replace(node.place, folder=Path.cwd()) if text.startswith("${") else node.place
    return replace(node, value=filled, text=filled, place=place)


def _child(node: Node, path: Sequence[str]) -> tuple[Node, list[str]] | None:
    """The child that begins `path`, and what is left of the path. A key may itself have dots."""
    if isinstance(node.value, list):
        index = int(path[0]) if path[0].isascii() and path[0].isdecimal() else -1
        return (node.value[index], list(path[1:])) if 0 <= index < len(node.value) else None
    if isinstance(node.value, dict):
        for n in range(1, len(path) + 1):
            if (child := node.value.get(join(*path[:n]))) is not None:
                return child, list(path[n:])
    return None


def _find(tree: Node, path: str) -> Node | None:
    node: Node | None = tree
    for key in path.split("."):
        node = node.value.get(key) if node is not None and isinstance(node.value, dict) else None
    return node


def _change(node: Node, path: str, change: Callable[[Node], Node]) -> Node:
    """The tree with the text at `path` changed; the tree itself where no text is there."""
    key, _, rest = path.partition(".")
    if not isinstance(node.value, dict) or key not in node.value:
        return node
    child = node.value[key]
    if rest:
        child = _change(child, rest, change)
    elif child.text and child.value is not None:
        child = change(child)
    return replace(node, value={**node.value, key: child})
