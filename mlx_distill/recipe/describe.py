"""Every setting of a recipe as a page of tables, out of the schema's metadata alone. `docs/recipe.md` is what it writes."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import MISSING, Field, is_dataclass
from typing import Any, Literal, get_args, get_origin, get_type_hints

from mlx_distill.recipe.build import join, unwrap, yaml_key
from mlx_distill.recipe.schema import Recipe

_TITLE = """# The recipe

A recipe is one YAML file: what to ask, the labelled texts, the base that is taught, and how. `mlx-distill check RECIPE` says every problem
at once, as `file:line`.

- `extends: other.yaml` (or a list) takes over what other recipes say; sections are merged key by key, lists and values are replaced,
  and a key set to `null` goes back to its default.
- `--set section.key=value` changes one setting for one command: `--set train.epochs=1`, `--set task.fields.maturity.max=5`,
  `--set lora.targets=[q_proj, v_proj]`.
- A relative path is relative to the file that wrote it; one given by `--set` to the working folder.
- `${NAME}` in `base.model` is taken from the environment.
- `1e-4` is a number; only `true` and `false` are booleans; `none` and `null` are the same. A choice is always a text, as it is written.
- `relevant: flag` among the fields is short for `relevant: {type: flag}`.
"""


def describe() -> str:
    """Markdown: a table for each section, a row for each setting."""
    return "\n".join([_TITLE, *_section(Recipe, "")])


def _section(kind: type[Any], path: str) -> Iterator[str]:
    hints = get_type_hints(kind)
    yield f"## {path or 'The sections'}\n"
    if kind.__doc__ and not kind.__doc__.startswith(kind.__name__ + "("):  # a dataclass without a docstring gets its signature
        yield "\n".join(line.strip() for line in kind.__doc__.strip().splitlines()) + "\n"
    yield "| setting | value | default | meaning |\n| --- | --- | --- | --- |"
    for item in dataclasses.fields(kind):
        meaning = _cell(item.metadata["meaning"]) + _later(item)
        key = "(any other)" if item.metadata["rest"] else f"`{yaml_key(item)}`"
        yield f"| {key} | {_value(item, hints[item.name])} | {_default(item)} | {meaning} |"
    yield ""
    for item in dataclasses.fields(kind):
        inner, name = _inner(hints[item.name])
        if inner is not None:
            yield from _section(inner, join(path, yaml_key(item), name))


def _inner(hint: Any) -> tuple[type[Any] | None, str]:
    """The section that a setting holds, and how one of several is named."""
    hint, _ = unwrap(hint)
    if is_dataclass(hint):
        assert isinstance(hint, type)
        return hint, ""
    for part in get_args(hint):
        if is_dataclass(part):
            assert isinstance(part, type)
            return part, "NAME" if get_origin(hint) is dict else "N"
    return None, ""


def _value(item: Field[Any], hint: Any) -> str:
    rules = item.metadata
    if rules["choices"]:
        return ", ".join(f"`{choice}`" for choice in rules["choices"])
    limits = [
        f"{word} {rules[limit]:g}"
        for limit, word in (("low", "at least"), ("above", "above"), ("high", "at most"))
        if rules[limit] is not None
    ]
    unit = f" ({rules['unit']})" if rules["unit"] else ""
    words = "".join(f", or `{word}`" for word in rules["words"])
    return _type(hint) + unit + (", " + " and ".join(limits) if limits else "") + words


def _type(hint: Any) -> str:
    hint, _ = unwrap(hint)
    names = {int: "whole number", float: "number", str: "text", bool: "`true` or `false`", Any: "value"}
    if hint in names:
        return names[hint]
    if get_origin(hint) is tuple:
        return "list of sections" if is_dataclass(get_args(hint)[0]) else f"list of {_type(get_args(hint)[0])}s"
    if get_origin(hint) is dict:
        return f"name: {_type(get_args(hint)[1])}"
    assert is_dataclass(hint) or get_origin(hint) is Literal, hint
    return "section"


def _default(item: Field[Any]) -> str:
    default = item.default
    if default is MISSING:
        default = item.default_factory() if item.default_factory is not MISSING else MISSING
    if default is MISSING:
        return "required"
    if is_dataclass(default):
        return "as below"
    if default is None:
        return "none" if "default" not in item.metadata["meaning"] else "see there"
    if isinstance(default, (tuple, dict)):
        return ", ".join(f"`{value}`" for value in default) or "none"
    if isinstance(default, bool):
        return f"`{str(default).lower()}`"
    if isinstance(default, str):
        default = default.replace("\n", "\\n")  # a cell is one line
    return f"`{default}`" if default != "" else "empty"


def _later(item: Field[Any]) -> str:
    later = item.metadata["later"] or ()
    if not later:
        return ""
    return " (not supported yet)" if "*" in later else f" (not supported yet: {', '.join(f'`{value}`' for value in later)})"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("{{", "`{{`").replace("}}", "`}}`") if text else ""
