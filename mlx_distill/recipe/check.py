"""Does a recipe make sense? Every problem at once: its shape, each section's own sense, then what one section says of another.

It looks whether files are there, and reads none of them: columns and labels are the data's matter, sizes and memory the machine's.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mlx_distill.catalog import nearest
from mlx_distill.recipe import criteria
from mlx_distill.recipe.build import join
from mlx_distill.recipe.layers import neighbour
from mlx_distill.recipe.load import Loaded, local
from mlx_distill.recipe.metrics import NO_SHARES, OF_ALL, OF_OVERALL, OF_TIERS, may_keep, parts
from mlx_distill.recipe.metrics import metric_names as metric_names
from mlx_distill.recipe.problem import Problem as Problem
from mlx_distill.recipe.problem import as_error
from mlx_distill.recipe.schema import BalanceSpec, BaseSpec, DataSpec, FieldSpec, Recipe, ReplaySpec, SourceSpec, TaskSpec, TrainSpec

Found = Iterator[tuple[str, str, str | None]]
"""Dotted path, message, hint."""

_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
_COLUMN = re.compile(r"\{[^{}]+\}")


def check(loaded: Loaded) -> list[Problem]:
    """All problems of a recipe, by file and line; those of `--set` last."""
    problems = list(loaded.problems)
    for path, section in loaded.sections.items():
        for inner, message, hint in section.problems() if hasattr(section, "problems") else ():
            problems.append(loaded.problem(join(path, inner), message, hint))
    problems.extend(loaded.problem(*found) for found in _across(loaded))
    return sorted(problems, key=lambda problem: (problem.line is None, problem.file, problem.line or 0))


def require(loaded: Loaded) -> Recipe:
    """The recipe, where nothing is wrong with it. Raises RecipeError with every problem, one a line."""
    problems = check(loaded)
    if loaded.recipe is not None and not problems:
        return loaded.recipe
    raise as_error(problems)


def require_criteria(loaded: Loaded) -> Recipe:
    """What answers made elsewhere are judged by: `task`, `evaluate`, `targets` and `report`, of a recipe that may have nothing else.

    Of the rest of the recipe nothing has to be sound, or there. A missing `data` has the path "", a missing `base` the model "".
    Raises RecipeError with every problem of those sections, and with every key that stands for no section.
    """
    sections = loaded.sections
    problems = [problem for problem in loaded.problems if problem.path.partition(".")[0] not in _NOT_JUDGING]
    for path, section in sections.items():
        if path.partition(".")[0] in _JUDGING:
            own = section.problems() if hasattr(section, "problems") else ()
            problems += [loaded.problem(join(path, inner), message, hint) for inner, message, hint in own]
    if not problems:
        recipe = _stood_in(loaded)
        problems = [loaded.problem(*found) for found in _of_criteria(recipe)]
    if problems:
        raise as_error(problems)
    return recipe


_JUDGING = ("task", "evaluate", "targets", "report")
_NOT_JUDGING = tuple(item.name for item in dataclasses.fields(Recipe) if item.name not in _JUDGING)


def _stood_in(loaded: Loaded) -> Recipe:
    """The recipe, where it is whole; else its sound sections, with something that stands for those that it lacks."""
    if loaded.recipe is not None:
        return loaded.recipe
    own = {name: loaded.sections[name] for name in (*_JUDGING, "data", "base", "train") if name in loaded.sections}
    name = loaded.tree.value.get("name") if isinstance(loaded.tree.value, dict) else None
    nothing: dict[str, Any] = {"data": DataSpec(source=SourceSpec(kind="jsonl", path="")), "base": BaseSpec(model="")}
    return Recipe(name=name.text if name is not None and name.text else loaded.file.stem, **{**nothing, **own})


def _of_criteria(recipe: Recipe) -> Found:
    yield from _task(recipe.task)
    yield from _targets(recipe.task, recipe.targets.metrics)
    yield from criteria.slices(recipe.evaluate)
    yield from criteria.raters(recipe.task)
    if recipe.targets.defer is not None:
        yield from criteria.defer(recipe.targets.defer, recipe.task)
    if recipe.evaluate.again is not None:
        yield from _source("evaluate.again", recipe.evaluate.again)


def _across(loaded: Loaded) -> Found:
    """What one section says of another, for those that could be built."""
    task, data, base, train = (loaded.sections.get(name) for name in ("task", "data", "base", "train"))
    targets = loaded.recipe.targets.metrics if loaded.recipe is not None else None
    if isinstance(task, TaskSpec):
        yield from _task(task)
    if loaded.recipe is not None and loaded.recipe.answer == "slots":
        yield from _slots(loaded.recipe.task)
    if isinstance(task, TaskSpec) and targets:
        yield from _targets(task, targets)
    if isinstance(task, TaskSpec) and isinstance(data, DataSpec):
        yield from _strata(task, data)
    for path, section in loaded.sections.items():
        if isinstance(section, SourceSpec):
            yield from _source(path, section)
    if isinstance(base, BaseSpec):
        yield from _base(base)
    if isinstance(base, BaseSpec) and loaded.recipe is not None and loaded.recipe.lora is None and base.bits is not None:
        yield "lora", f"all weights are to be trained, and a base of {base.bits} bits holds none that can be", "say base.bits: none"
    if isinstance(train, TrainSpec):
        yield from _train(train)
    if isinstance(task, TaskSpec) and isinstance(train, TrainSpec):
        yield from _kept(task, train)
    if isinstance(task, TaskSpec) and isinstance(data, DataSpec):
        yield from _balanced(task, data.balance)
    for path, section in loaded.sections.items():
        if isinstance(section, ReplaySpec):
            yield from (found for name in ("input", "output") for found in _template(f"{path}.{name}", getattr(section, name)))
    if isinstance(data, DataSpec):
        yield from _shares(data, train, bool(targets))
    yield from criteria.found(loaded.sections)


def _slots(task: TaskSpec) -> Found:
    """Texts and lists are written behind the values that were read: without one there is nothing to read."""
    if task.fields and all(spec.kind in ("text", "list") for spec in task.fields.values()):
        yield "answer", "slots read scores, choices and flags, and this task has texts and lists alone", "answer: json"


def _task(task: TaskSpec) -> Found:
    yield from _template("task.input", task.input)
    first: dict[float, str] = {}
    for name, threshold in task.tiers.items():
        if first.setdefault(threshold, name) != name:
            yield f"task.tiers.{name}", f"begins at {threshold:g}, as {first[threshold]} does", "give each tier its own threshold"
    for i, cap in enumerate(task.caps):
        for key, condition in cap.when.items():
            for message, hint in _condition(condition, task.fields.get(key)):
                yield f"task.caps.{i}.when.{key}", message, hint
        if not cap.when:
            yield f"task.caps.{i}.when", "a cap needs a condition", "when: {relevant: false}"


def _template(path: str, text: str) -> Found:
    braces = _COLUMN.sub("", text.replace("{{", "").replace("}}", ""))
    if "{" in braces or "}" in braces:
        yield path, "a brace that is no {column}", "write {{ or }} for a brace"


def _condition(condition: Any, field: FieldSpec | None) -> Iterator[tuple[str, str | None]]:
    """What is wrong with a condition of a cap. Without a field it is on a column of the record, of which nothing is known."""
    if isinstance(condition, dict):
        yield from _bounds(condition, field)
        return
    for value in condition if isinstance(condition, list) else [condition]:
        if isinstance(value, (dict, list)):
            yield "must be a value, a list of values, {below: x} or {at_least: x}", None
        elif field is not None and field.kind == "choice" and field.choices and value not in field.choices:
            yield f"{value!r} is none of its choices", _quoted(value, field.choices)
        elif field is not None and field.kind == "flag" and not isinstance(value, bool):
            yield f"a flag is true or false; got {value!r}", None
        elif field is not None and field.kind == "score" and (isinstance(value, bool) or not isinstance(value, (int, float))):
            yield f"a score is a number; got {value!r}", None
        elif field is not None and field.kind == "score" and field.estimate == "mean":
            yield f"a score whose estimate is the mean is hardly ever exactly {value:g}", "say {below: x} or {at_least: x}"


def _bounds(condition: dict[str, Any], field: FieldSpec | None) -> Iterator[tuple[str, str | None]]:
    for word, bound in condition.items():
        if word not in ("below", "at_least"):
            yield f"{word!r} is no condition", nearest(word, ["below", "at_least"])
        elif isinstance(bound, bool) or not isinstance(bound, (int, float)):
            yield f"{word} takes a number; got {bound!r}", None
    if not condition:
        yield "must be a value, a list of values, {below: x} or {at_least: x}", None
    if field is not None and field.kind != "score":
        yield f"a {field.kind} has no order", "name its values instead"


def _quoted(value: Any, choices: tuple[str, ...]) -> str:
    """The way out for `3` or `true` where the choices are texts."""
    as_text = str(value).lower() if isinstance(value, bool) else str(value)
    return f"quote it: '{as_text}'" if not isinstance(value, str) and as_text in choices else nearest(str(value), list(choices))


def _targets(task: TaskSpec, targets: dict[str, float]) -> Found:
    legal = metric_names(task)
    for name, value in targets.items():
        path = f"targets.{name}"
        if name not in legal:
            yield path, f"this task has no metric {name}", _metric_hint(name, legal, task)
        elif value < 0 or (value > 1 and parts(name)[0] not in NO_SHARES):
            hint = f"{value / 100:g} for {value:g} %" if 1 < value <= 100 else None
            yield path, f"{'must be at least 0' if value < 0 else 'is a share, 0 to 1'}; got {value:g}", hint


def _metric_hint(name: str, legal: list[str], task: TaskSpec) -> str:
    if name in OF_TIERS:
        return "it needs task.tiers and fields with weights"
    if name in OF_OVERALL:
        return "it needs fields with weights"
    of_field = parts(name)[1]
    field = task.fields.get(of_field)
    same = [metric for metric in legal if field is not None and parts(metric)[1] == of_field]
    if field is not None:
        return f"a {field.kind} has {', '.join(same)}" if same else f"a {field.kind} has no metric"
    return nearest(name, legal)


def _strata(task: TaskSpec, data: DataSpec) -> Found:
    if data.split.stratify_by == "tier" and not task.tiers and "tier" not in task.fields:
        yield "data.split.stratify_by", "there are no tiers to stratify by", "add task.tiers, or name a column or a field"


def _source(path: str, source: SourceSpec) -> Found:
    place = local(source.path, Path.cwd())
    if place is not None and not _there(place):
        yield f"{path}.path", f"there is no file {place}", neighbour(place)
    elif place is None and source.path and not _HUB_ID.fullmatch(source.path):
        yield f"{path}.path", f"{source.path!r} is neither a local folder nor a hub id", "a hub id is owner/name"


def _base(base: BaseSpec) -> Found:
    place = local(base.model, Path.cwd())
    if not base.model:
        yield "base.model", "is empty", "name a folder or a hub id, such as Qwen/Qwen2.5-1.5B-Instruct"
    elif place is None and not _HUB_ID.fullmatch(base.model):
        if "${" not in base.model:  # a name that the environment lacks is reported already
            yield "base.model", f"{base.model!r} is neither a local folder nor a hub id", "a hub id is owner/name"
    elif place is not None and not _there(place):
        yield "base.model", f"there is no folder {place}", neighbour(place)
    elif place is not None and not place.is_dir():
        yield "base.model", f"{place} is a file; a checkpoint is a folder", "name the folder that it lies in"
    elif place is not None and base.revision is not None:
        yield "base.revision", "a local folder has no revision", "leave it out, or --set base.revision=none"


def _train(train: TrainSpec) -> Found:
    if train.schedule.floor > train.learning_rate:
        message = f"the floor {train.schedule.floor:g} is above the learning rate {train.learning_rate:g}"
        yield "train.schedule.floor", message, "train.learning_rate is the highest that there is"
    if train.schedule.cycles > 1 and train.schedule.kind != "cosine":
        yield "train.schedule.cycles", f"a {train.schedule.kind} schedule does not start anew", "kind: cosine, or leave cycles out"


def _kept(task: TaskSpec, train: TrainSpec) -> Found:
    """A metric to keep the best adapter by is measured on answers: the loss is not, and has a name of its own."""
    legal = may_keep(task)
    if parts(train.keep)[0] in OF_ALL:
        yield "train.keep", f"{train.keep} is not measured on answers", "keep: valid_loss is the loss on the validation rows"
    elif train.keep != "valid_loss" and train.keep not in legal:
        yield "train.keep", f"this task has no metric {train.keep}", _metric_hint(train.keep, ["valid_loss", *legal], task)


def _balanced(task: TaskSpec, balance: BalanceSpec) -> Found:
    for i, name in enumerate(balance.fields or ()):
        if name not in task.fields:
            yield f"data.balance.fields.{i}", f"the task has no field {name!r}", nearest(name, list(task.fields))
        elif task.fields[name].kind in ("text", "list"):
            yield f"data.balance.fields.{i}", f"a {task.fields[name].kind} has no labels to count", "balance choices, flags or scores"
    if balance.kind == "none" and balance.fields is not None:
        yield "data.balance.fields", "nothing is balanced: the kind is none", "kind: sqrt"


def _shares(data: DataSpec, train: object, targets: bool) -> Found:
    if data.split.valid == 0 and isinstance(train, TrainSpec) and train.early_stopping is not None:
        yield "train.early_stopping", "there are no validation rows to stop by", "give data.split.valid a share"
    if data.split.valid == 0 and isinstance(train, TrainSpec) and train.keep != "valid_loss":
        yield "train.keep", f"there are no validation rows to measure {train.keep} on", "give data.split.valid a share"
    if data.split.valid == 0 and isinstance(train, TrainSpec) and train.sample_every is not None:
        yield "train.sample_every", "there are no validation rows to answer", "give data.split.valid a share"
    if data.split.test == 0 and targets:
        yield "targets", "there are no test rows to judge by", "give data.split.test a share"


def _there(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:
        return False
