"""One function per verb: each composes the parts of the package, and returns the document that the command prints.

A workflow reads what the stage before wrote and writes its own. It parses no flags and prints nothing but through `progress`.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mlx_distill.backends.base import Backend
from mlx_distill.errors import DataError, Interrupted, OutputError
from mlx_distill.recipe.check import check as check_recipe
from mlx_distill.recipe.check import require
from mlx_distill.recipe.problem import Problem
from mlx_distill.recipe.schema import Recipe, SourceSpec
from mlx_distill.training.run import Run
from mlx_distill.workflows.bases import base_of_run
from mlx_distill.workflows.fit import fit
from mlx_distill.workflows.inferring import infer as infer
from mlx_distill.workflows.inferring import source_of
from mlx_distill.workflows.learning import learn
from mlx_distill.workflows.setting import Document as Document
from mlx_distill.workflows.setting import Setting as Setting
from mlx_distill.workflows.setting import in_bytes
from mlx_distill.workflows.students import Asking as Asking
from mlx_distill.workflows.students import open_student as open_student
from mlx_distill.workflows.students import open_students as open_students
from mlx_distill.workflows.together import Together

# check


def check(setting: Setting, recipes: Sequence[Path], sets: Sequence[str], *, show: int = 0) -> Document:
    """Every problem at once: shape, sense, and whether data and base are there and fit the task."""
    problems: list[Problem] = []
    shown: list[Document] = []
    for path in recipes:
        loaded = setting.load(path, sets)
        found = check_recipe(loaded)
        if not found and loaded.recipe is not None:
            rows, found = fit(loaded, loaded.recipe, show)
            shown += rows
        problems += found
    document: Document = {"problems": [dataclasses.asdict(problem) for problem in problems]}
    return document | ({"rows": shown} if show else {})


# convert


def convert(
    setting: Setting, model: str, out: Path, *, bits: int | None, group_size: int, dtype: str | None, revision: str | None
) -> Document:
    from mlx_distill.convert import convert as write
    from mlx_distill.models.hub import commit_of, locate

    with setting.progress.step(f"convert {model}") as step:
        source = locate(model, revision)
        made = write(
            source, out, backend=setting.choose(), bits=bits, group_size=group_size, dtype=dtype, origin=model, revision=commit_of(source)
        )  # fmt: skip
        step.advance(0, bits_per_weight=made.bits_per_weight, MB=made.bytes / 1e6)
    setting.progress.say(f"next: base: {{model: {model}}} in a recipe, then mlx-distill run RECIPE --out RUN")
    return {**dataclasses.asdict(made), "out": str(made.out)}


# train


def train(setting: Setting, recipe: Path, out: Path, sets: Sequence[str], *, resume: bool, limit: int | None = None) -> Document:
    """Its `stopped` may be interrupted: then everything is saved, and `resume` goes on."""
    from mlx_distill.files import exclusive

    with Together(setting.join()) as together:
        if not together.leads:
            return _follow(setting, recipe, sets, limit, together)
        wanted = require(setting.load(recipe, sets))
        run = Run(out)
        run.refuse_foreign()
        if run.exists() and not resume:
            raise OutputError("there is a run already", file=out, hint="--resume goes on with it; or name another --out")
        with exclusive(out):
            return learn(setting, wanted, run, limit, together)


def _follow(setting: Setting, recipe: Path, sets: Sequence[str], limit: int | None, together: Together, *, more: bool = False) -> Document:
    """The leader's training, on a copy of its run that nobody keeps."""
    with together.copy() as path:
        quiet = dataclasses.replace(setting, report_to=())
        return learn(quiet, require(setting.load(recipe, sets)), Run(path), limit, together, more=more)


# evaluate


def evaluate(setting: Setting, out: Path, *, data: Path | None = None, delimiter: str | None = None) -> Document:
    """Answers the run's valid and test rows (or those of `data`), judges them, writes the report. Its `verdict` may be missed."""
    from mlx_distill.files import exclusive

    run = Run(out)
    recipe, facts = run.open_learned()
    source = None if data is None else source_of(data, recipe, delimiter)
    with exclusive(out):
        return _evaluate(setting, setting.choose(), run, recipe, facts, source)


def _evaluate(setting: Setting, backend: Backend, run: Run, recipe: Recipe, facts: Mapping[str, Any], data: SourceSpec | None) -> Document:
    from mlx_distill.workflows.judgement import Judgement

    base = base_of_run(setting, run, recipe, facts, backend)
    limit = in_bytes(recipe.train.memory_limit)
    student = backend.open(base, adapters={"run": run.adapter}, memory_limit=limit)
    alone = functools.partial(backend.open, base, memory_limit=limit)
    judgement = Judgement(run, recipe, facts, base, student, setting.progress, data, alone=alone)
    judgement.answer()
    document = judgement.report()
    setting.progress.say("\n".join(judgement.words()))
    return document


# run


def run(setting: Setting, recipe: Path, out: Path, sets: Sequence[str], *, limit: int | None = None) -> Document:
    """The main job: train (going on where it was), evaluate, report. What is done already is not done again."""
    from mlx_distill.files import exclusive
    from mlx_distill.workflows.reported import reported

    with Together(setting.join()) as together:
        if not together.leads:  # the leader judges, alone
            return {**_done(_follow(setting, recipe, sets, limit, together, more=True)), "report": None, "verdict": "none"}
        wanted = require(setting.load(recipe, sets))
        if not wanted.data.split.test:
            hint = "test: 0.1; or use `train` alone"
            raise DataError("the main job needs rows to judge by: data.split.test is 0", file=recipe, hint=hint)
        place = Run(out)
        place.refuse_foreign()
        with exclusive(out):
            _done(learn(setting, wanted, place, limit, together, more=True))
            _, facts = place.open()
            document = reported(place, wanted)
            if document is not None:
                setting.progress.say("\n".join(["evaluate: done already", *document["summary"]]))
            else:
                document = _evaluate(setting, setting.choose(begun=place.backend()), place, wanted, facts, None)
    setting.progress.say(f"next: open {document['report']}\n      mlx-distill infer {out} TEXTS.csv ANSWERS.jsonl")
    return document


def _done(trained: Document) -> Document:
    """Raises Interrupted where the training was."""
    if trained["stopped"] == "interrupted":
        raise Interrupted(f"stopped after step {trained['steps']}; it is saved", hint="the same command goes on")
    return trained
