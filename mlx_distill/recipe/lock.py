"""The resolved recipe as a document, its hash, and the lock file of a Run: the recipe beside the facts that it was run with.

A lock is a recipe too: `load` reads it, and `extends` may name it. It knows nothing of what the facts mean.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args, get_type_hints

from mlx_distill.errors import RecipeError
from mlx_distill.files import write_text
from mlx_distill.recipe.build import join, unwrap, yaml_key
from mlx_distill.recipe.load import load
from mlx_distill.recipe.problem import as_error
from mlx_distill.recipe.schema import Recipe
from mlx_distill.recipe.yaml import dump, plain

_HEAD = "# The recipe as it was run, defaults included, and what it was run with. mlx-distill reads it as a recipe too.\n"


def resolved(recipe: Recipe) -> dict[str, Any]:
    """Every setting under its key in YAML, in the schema's order. An unset setting whose default is unset too is left out."""
    return _section(recipe)


def recipe_hash(recipe: Recipe) -> str:
    """SHA-256 of the resolved recipe, the same on every machine: of a local path only the last part counts."""
    doc = resolved(recipe)
    for section in (doc["base"], *_files(doc)):
        for key in ("model", "path"):
            if key in section and (Path(section[key]).is_absolute() or section.get("kind", "hf") != "hf"):
                section[key] = Path(section[key]).name
    # the order of fields is the order of the answer; no other order means anything
    doc["task"]["fields"] = list(doc["task"]["fields"].items())
    return hashlib.sha256(json.dumps(doc, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _files(doc: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Every section that names a file."""
    for value in doc.values():
        if isinstance(value, dict):
            if {"kind", "path"} <= value.keys():
                yield value
            yield from _files(value)


def write_lock(path: Path, recipe: Recipe, *, facts: Mapping[str, Any]) -> None:
    """`facts` is plain: mappings, lists, texts, numbers. Atomic."""
    write_text(path, lock_text(recipe, facts=facts))


def lock_text(recipe: Recipe, *, facts: Mapping[str, Any]) -> str:
    return _HEAD + dump({"recipe": resolved(recipe), "locked": dict(facts)})


def read_lock(path: Path) -> tuple[Recipe, dict[str, Any]]:
    """The recipe and the facts. Raises RecipeError where it is not there or damaged."""
    loaded = load(path)
    if loaded.recipe is None or loaded.problems:
        raise as_error(loaded.problems)
    facts = plain(loaded.facts) if loaded.facts is not None else None
    if not isinstance(facts, dict):
        raise RecipeError("is a recipe, not a lock: nothing is locked", file=path, hint="a lock is written by training")
    return loaded.recipe, facts


def differences(old: Recipe, new: Recipe) -> list[str]:
    """`train.epochs: 3 -> 5`, one a setting that differs; for a resume, which may not change its recipe."""
    before, after = _flat(resolved(old)), _flat(resolved(new))
    lines = [
        f"{key}: {_shown(before.get(key))} -> {_shown(after.get(key))}"
        for key in [*before, *(key for key in after if key not in before)]
        if before.get(key) != after.get(key)
    ]
    fields = list(old.task.fields), list(new.task.fields)
    if fields[0] != fields[1] and sorted(fields[0]) == sorted(fields[1]):
        lines.append(f"task.fields: the order {', '.join(fields[0])} -> {', '.join(fields[1])}")
    return lines


def default_at(path: str) -> Any:
    """What a setting is where no recipe names it, plain; None where there is no such setting, or it has no default.

    >>> default_at("data.split.calibrate"), default_at("task.fields.any.name.loss"), default_at("task.input")
    (0.0, 1.0, None)
    """
    return _default(Recipe, path.split("."))


def _default(kind: type[Any], path: Sequence[str]) -> Any:
    item = next((item for item in dataclasses.fields(kind) if yaml_key(item) == path[0] and not item.metadata["rest"]), None)
    if item is None:
        return None
    if len(path) == 1:
        default = item.default if item.default is not dataclasses.MISSING else None
        return _plain(item.default_factory()) if item.default_factory is not dataclasses.MISSING else _plain(default)
    hint, _ = unwrap(get_type_hints(kind)[item.name])
    if dataclasses.is_dataclass(hint):
        assert isinstance(hint, type)
        return _default(hint, path[1:])
    named = next((part for part in get_args(hint) if dataclasses.is_dataclass(part)), None)
    if not isinstance(named, type):
        return None
    found = (_default(named, path[i:]) for i in range(2, len(path)))  # a name of the user's may have dots itself
    return next((value for value in found if value is not None), None)


def _section(section: Any) -> dict[str, Any]:
    doc: dict[str, Any] = {}
    for item in dataclasses.fields(section):
        value = getattr(section, item.name)
        if item.metadata["rest"]:
            doc |= _plain(value)
        elif value is not None or item.default is not None:
            doc[yaml_key(item)] = _plain(value)
    return doc


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return _section(value)
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, (tuple, list)) else value


def _flat(doc: dict[str, Any], path: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in doc.items():
        here = join(path, key)
        flat.update(_flat(value, here) if isinstance(value, dict) and value else {here: value})
    return flat


def _shown(value: Any) -> str:
    text = "none" if value is None else str(value)
    return text if len(text) <= 60 else text[:57] + "..."
