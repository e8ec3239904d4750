"""What answers are judged by: does it make sense beside the task, the data and the files?

    found(sections)             problems of `evaluate`, `targets.defer`, robustness, fairness, forgetting and raters, across sections
    slices(evaluate)            those of the slices alone, as far as they can be told before the data are read

It looks whether files are there, and reads none of them. What one section says of itself is that section's `problems()`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mlx_distill.catalog import names, nearest
from mlx_distill.recipe.expression import problem
from mlx_distill.recipe.layers import neighbour
from mlx_distill.recipe.schema import (
    BenchmarkSpec,
    DataSpec,
    DeferSpec,
    EvaluateSpec,
    FairnessSpec,
    ReportSpec,
    RobustnessSpec,
    ScenarioSpec,
    SuiteSpec,
    TargetsSpec,
    TaskSpec,
)

Found = Iterator[tuple[str, str, str | None]]
"""Dotted path, message, hint."""
Sections = Mapping[str, Any]
"""Those that could be built, by dotted path."""

CLOSED = ("score", "choice", "flag")
_COLUMN = re.compile(r"\{([^{}]+)\}")
CALIBRATE = "data.split: {train: 0.7, valid: 0.1, calibrate: 0.1, test: 0.1}"


def found(sections: Sections) -> Found:
    task, data, evaluate = (sections.get(name) for name in ("task", "data", "evaluate"))
    if isinstance(evaluate, EvaluateSpec):
        yield from slices(evaluate)
        yield from _again(evaluate, data if isinstance(data, DataSpec) else None)
    if isinstance(data, DataSpec):
        yield from _promises(sections, data)
        yield from _tried(sections, data)
    if isinstance(task, TaskSpec):
        yield from raters(task)
        if isinstance(evaluate, EvaluateSpec) and isinstance(report := sections.get("report") or ReportSpec(), ReportSpec):
            fairness = sections.get("fairness")
            yield from private(task, evaluate, fairness if isinstance(fairness, FairnessSpec) else None, report)
        yield from _of_the_task(sections, task)
    for path, section in sections.items():
        if isinstance(section, BenchmarkSpec):
            yield from _benchmark(path, section)


def slices(evaluate: EvaluateSpec) -> Found:
    """Slices that cannot be read, whatever columns there are."""
    for i, expression in enumerate(evaluate.slices):
        if (error := problem(expression)) is not None:
            yield f"evaluate.slices.{i}", error.message, error.hint
        elif expression in evaluate.slices[:i]:
            yield f"evaluate.slices.{i}", f"{expression!r} stands there twice", None


def private(task: TaskSpec, evaluate: EvaluateSpec, fairness: FairnessSpec | None, report: ReportSpec) -> Found:
    """Where no text may stand in the report, none may name a slice or a group: their values are in it."""
    if report.show_texts:
        return
    asked = _COLUMN.findall(task.input.replace("{{", "").replace("}}", ""))
    texts = {"text", *asked, *(name for name, spec in task.fields.items() if spec.kind in ("text", "list"))}
    named = [(f"evaluate.slices.{i}", name) for i, name in enumerate(evaluate.slices)]
    named += [(f"fairness.groups.{i}", name) for i, name in enumerate(fairness.groups if fairness else ())]
    for path, name in named:
        if name in texts:
            hint = "slice by an expression over it, length say, or let texts be shown"
            yield path, f"the values of {name!r} are texts, and report.texts is false", hint


def raters(task: TaskSpec) -> Found:
    for name, spec in task.fields.items():
        path, columns = f"task.fields.{name}.raters", spec.raters
        if columns is None:
            continue
        if not columns:
            yield path, "there is no rater among them", f"raters: [{name}_second]"
        elif twice := next((column for column in columns if columns.count(column) > 1), None):
            yield path, f"{twice!r} stands there twice", "each rater has a column of his own"
        elif columns in ((name,), (spec.source,)):
            yield path, f"{columns[0]!r} is the label's own column, and a label always agrees with itself", "name another rater's column"
        elif spec.kind == "text":
            yield path, "a text is neither right nor wrong, so nobody can agree on it", "leave raters out"


def defer(spec: DeferSpec, task: TaskSpec) -> Found:
    """What is wrong with a deferral of this task's rows."""
    path, of = "targets.defer.of", spec.of
    closed = [name for name, field in task.fields.items() if field.kind in CLOSED]
    known = [*(["tier"] if task.tiers else []), *(["overall"] if _weighted(task) else []), "answer", *closed]
    if not closed:
        yield "targets.defer", "the task has no score, choice or flag, so nothing says how sure an answer is", "leave defer out"
    elif of is not None and of not in known:
        why = {"tier": "the task has no tiers", "overall": "no field has a weight, so there is no overall"}.get(of)
        if why is None and of in task.fields:
            why = f"a {task.fields[of].kind} is neither right nor wrong"
        yield path, why or f"there is no field {of!r}", nearest(of, known) if why is None else f"there is {', '.join(known)}"


def _weighted(task: TaskSpec) -> bool:
    return any(field.weight is not None for field in task.fields.values())


def _again(evaluate: EvaluateSpec, data: DataSpec | None) -> Found:
    if evaluate.again is not None and data is not None and evaluate.again.path == data.source.path:
        hint = "name the file with the second answers; a second answer in a column of its own goes to the field's `raters`"
        yield "evaluate.again.path", "these are the labels themselves", hint


def _promises(sections: Sections, data: DataSpec) -> Found:
    """What is guaranteed is found on rows that served nothing else, and looked at on the test's."""
    targets, evaluate = sections.get("targets"), sections.get("evaluate")
    promised = {
        "targets.defer": isinstance(targets, TargetsSpec) and targets.defer is not None,
        "evaluate.coverage": isinstance(evaluate, EvaluateSpec) and evaluate.coverage is not None,
    }
    for path in (path for path, asked in promised.items() if asked):
        what = "a threshold" if path == "targets.defer" else "sets and intervals"
        if not data.split.calibrate:
            yield path, f"{what} with a guarantee need rows that served nothing else, and data.split.calibrate is 0", CALIBRATE
        if not data.split.test:
            yield path, "there are no test rows to see whether it holds", "give data.split.test a share"


def _tried(sections: Sections, data: DataSpec) -> Found:
    """What is made of test rows needs some."""
    robustness, fairness = sections.get("robustness"), sections.get("fairness")
    if data.split.test:
        return
    if isinstance(robustness, RobustnessSpec) and robustness.suites != ():
        yield "robustness", "there are no test rows to change", "give data.split.test a share; or suites: [], with given ones alone"
    if isinstance(fairness, FairnessSpec) and fairness.groups:
        yield "fairness.groups", "there are no test rows to compare", "give data.split.test a share"


def _of_the_task(sections: Sections, task: TaskSpec) -> Found:
    targets = sections.get("targets")
    deferring = isinstance(targets, TargetsSpec) and targets.defer is not None
    if isinstance(targets, TargetsSpec) and targets.defer is not None:
        yield from defer(targets.defer, task)
    known = names("evaluation.robustness")
    for path, section in sections.items():
        if isinstance(section, SuiteSpec):
            yield from _suite(path, section, task, deferring)
            if (name := path.rpartition(".")[2]) in known:
                yield path, f"{name} is the name of a suite that is there already", "give it another"
        if isinstance(section, ScenarioSpec):
            yield from _scenario(path, section, task)


def _suite(path: str, suite: SuiteSpec, task: TaskSpec, deferring: bool) -> Found:
    for name in suite.labels:
        if name not in task.fields:
            yield f"{path}.labels.{name}", f"the task has no field {name!r}", nearest(name, list(task.fields))
    flag = suite.FLAG.fullmatch(suite.expect or "")
    flags = [name for name, field in task.fields.items() if field.kind == "flag"]
    if flag is not None and flag[1] not in flags:
        yield f"{path}.expect", f"the task has no flag {flag[1]!r}", nearest(flag[1], flags) if flags else "it has none at all"
    if suite.expect == "defer" and not deferring:
        yield f"{path}.expect", "nothing is ever deferred: there is no targets.defer", "targets: {defer: {max_error: 0.05}}"


def _scenario(path: str, scenario: ScenarioSpec, task: TaskSpec) -> Found:
    for column in dict.fromkeys(ScenarioSpec.gaps(task.input)):
        if column not in scenario.row and column.partition(".")[0] not in scenario.row:
            yield f"{path}.row", f"task.input reads the column {column!r}, and the row lacks it", f"row: {{{column}: ...}}"


def _benchmark(path: str, benchmark: BenchmarkSpec) -> Found:
    place = Path(benchmark.path)
    try:
        there = not benchmark.path or place.exists()
    except OSError:
        there = False
    if not there:
        yield f"{path}.path", f"there is no file {place}", neighbour(place)
