"""One tree out of many layers: a recipe, the recipes that it extends, and the `--set` of a command line.

Later layers win: the first of `extends`, the next, the file itself, each `--set` in turn. Sections are merged, all else is replaced.
It knows where a layer comes from; nothing of which keys are legal.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from mlx_distill.recipe.problem import Problem
from mlx_distill.recipe.yaml import Node, Place, overlay, parse


@dataclass(slots=True)
class Layers:
    """`read` and `set` give trees; what is wrong with them is gathered in `problems`."""

    problems: list[Problem] = field(default_factory=list)
    whole: bool = True
    """False where an extended recipe could not be read."""
    facts: Node | None = None
    """What a lock says beside its recipe."""

    def read(self, path: Path, within: tuple[Path, ...] = ()) -> Node | None:
        """The tree of a file laid over those that it extends. `within` are the files that led here."""
        text = self._text(path)
        if text is None:
            return None
        node, problems = parse(text, str(path), path.absolute().parent)
        self.problems.extend(problems)
        if node is None or not isinstance(node.value, dict):
            if not problems:
                what = "the recipe is empty" if node is None or node.value is None else "a recipe is a section, key: value"
                self.problems.append(Problem(str(path), 1, "", what, "it needs name, task, data and base"))
            return None
        if not within:
            self.facts = _entries(node).get("locked")
        return self._extended(_unlocked(node), path, (*within, path.resolve()))

    def set(self, tree: Node, text: str) -> Node:
        """The tree with one `section.key=value` laid over it."""
        key, equals, value = text.partition("=")
        file, keys = f"--set {text}", key.strip().split(".")
        if not equals or not all(keys):
            self.problems.append(Problem(file, None, "", "is not of the form section.key=value", "for example --set train.epochs=1"))
            return tree
        place = Place(file, None, Path.cwd())
        node, problems = parse(value, file, place.folder)
        if node is None or problems:  # a text that is no YAML, such as `{title}: {text}`
            node = Node(value if problems else None, place, value)
        # a setting that is a text takes the value as it was typed: `{text}` is a template there, not a section
        node = _at(node, place)
        node = replace(node, text=value) if node.text is None else node
        for part in reversed(keys):
            node = Node({part: node}, place)
        return overlay(tree, _longhand(node))

    def _extended(self, tree: Node, path: Path, within: tuple[Path, ...]) -> Node:
        assert isinstance(tree.value, dict)
        tree = _longhand(tree)
        own = replace(tree, value={key: child for key, child in _entries(tree).items() if key != "extends"})
        below: Node | None = None
        for parent in self._parents(_entries(tree).get("extends")):
            other = path.parent / Path(str(parent.value)).expanduser()
            if other.resolve() in within:
                circle = [*within[within.index(other.resolve()) :], other]
                names = " → ".join(step.name for step in circle)
                self._unreadable(parent, f"the recipe extends itself: {names}", "take one of them out")
            elif not other.is_file():
                self._unreadable(parent, f"there is no recipe {other}", neighbour(other))
            else:
                layer = self.read(other, within)
                self.whole &= layer is not None
                below = layer if below is None or layer is None else overlay(below, layer)
        return own if below is None else overlay(below, own)

    def _parents(self, node: Node | None) -> list[Node]:
        if node is None or node.value is None:
            return []
        parents = node.value if isinstance(node.value, list) else [node]
        good = [parent for parent in parents if isinstance(parent.value, str)]
        if len(good) < len(parents):
            self._unreadable(node, "must be the path of a recipe, or a list of them", "extends: other.yaml")
        return good

    def _unreadable(self, node: Node, message: str, hint: str | None) -> None:
        self.problems.append(node.problem("extends", message, hint))
        self.whole = False

    def _text(self, path: Path) -> str | None:
        try:
            return path.read_bytes().decode("utf-8-sig")
        except UnicodeDecodeError as error:
            line = error.object.count(b"\n", 0, error.start) + 1
            self.problems.append(Problem(str(path), line, "", "is not UTF-8 text", "save the recipe as UTF-8"))
        except (FileNotFoundError, NotADirectoryError):
            self.problems.append(Problem(str(path), None, "", "there is no such recipe", neighbour(path)))
        except IsADirectoryError:
            self.problems.append(Problem(str(path), None, "", "is a folder, not a recipe", "name the YAML file in it"))
        except OSError as error:
            self.problems.append(Problem(str(path), None, "", f"cannot be read: {error.strerror}"))
        return None


def _entries(node: Node) -> dict[str, Node]:
    return node.value if isinstance(node.value, dict) else {}


def _at(node: Node, place: Place) -> Node:
    """The node as if all of it stood at `place`."""
    if isinstance(node.value, dict):
        return replace(node, place=place, value={key: _at(child, place) for key, child in node.value.items()})
    if isinstance(node.value, list):
        return replace(node, place=place, value=[_at(child, place) for child in node.value])
    return replace(node, place=place)


def _unlocked(node: Node) -> Node:
    """A `recipe.lock.yaml` is a recipe too."""
    inner = _entries(node).get("recipe")
    return inner if inner is not None and "locked" in _entries(node) and isinstance(inner.value, dict) else node


def _longhand(tree: Node) -> Node:
    """`relevant: flag` among the fields means `relevant: {type: flag}`; written out before layers are merged."""
    task = _entries(tree).get("task")
    fields = _entries(task).get("fields") if task is not None else None
    if task is None or fields is None or not isinstance(fields.value, dict):
        return tree
    long = {name: Node({"type": spec}, spec.place) if isinstance(spec.value, str) else spec for name, spec in fields.value.items()}
    task = replace(task, value={**_entries(task), "fields": replace(fields, value=long)})
    return replace(tree, value={**_entries(tree), "task": task})


def neighbour(path: Path) -> str | None:
    """A file of nearly that name in the same folder."""
    try:
        there: Sequence[str] = [other.name for other in path.parent.iterdir()]
    except OSError:
        return f"there is no folder {path.parent}"
    close = difflib.get_close_matches(path.name, there, n=1, cutoff=0.6)
    return f"did you mean {path.parent / close[0]}?" if close else None
