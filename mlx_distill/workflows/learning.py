"""From a checked recipe to an adapter: data, base and lock of a run, its student, and the training, begun or gone on with."""

from __future__ import annotations

import dataclasses
import math
import time
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

from mlx_distill.backends.base import LoraShape, Ranks, Student
from mlx_distill.data.batches import groups
from mlx_distill.data.examples import listed
from mlx_distill.errors import Interrupted, RecipeError
from mlx_distill.models.families import family_of
from mlx_distill.models.rotary import longest
from mlx_distill.observe.events import Events, read_events
from mlx_distill.observe.interrupts import deferred
from mlx_distill.observe.live import watching
from mlx_distill.observe.progress import duration
from mlx_distill.observe.reporting import Report, reporting, require
from mlx_distill.observe.trackers import Card
from mlx_distill.recipe.lock import resolved
from mlx_distill.recipe.schema import ALL_LINEAR, LoraSpec, Recipe
from mlx_distill.training.loop import Trained, Training
from mlx_distill.training.run import Run
from mlx_distill.training.validation import LOSS
from mlx_distill.workflows.bases import base_of
from mlx_distill.workflows.preparation import Prepared, open_config
from mlx_distill.workflows.room import Room, room
from mlx_distill.workflows.setting import Document, Setting, in_bytes, peak_memory, versions
from mlx_distill.workflows.together import Together

if TYPE_CHECKING:
    from mlx_distill.workflows.examination import Examination


def learn(setting: Setting, recipe: Recipe, run: Run, limit: int | None, together: Together, *, more: bool = False) -> Document:
    """The run's folder is held by the caller. The document's `stopped` may be interrupted: then everything is saved.

    `more`: the caller has more to do, so that a Ctrl-C that comes in the last step is not too late: it raises Interrupted.
    """
    require(setting.report_to)
    run.sweep()
    prepared, student, found = _student(setting, recipe, run, limit, together.ranks)
    together.begun(run.path)
    with Events(run.events) as events, _reported(setting, recipe, run) as report:
        events.subscribers.append(report)
        lessons = prepared.lessons
        exam = _exam(setting, recipe, prepared, student)
        rows, prefix = (lessons["train"].rows, lessons["valid"].rows), prepared.prompt.prefix
        training = Training(student, *rows, prefix, recipe.train, run.path, events, replay=prepared.replay, exam=together.examined(exam))
        resumed = training.resume()
        for damage in training.damaged:
            setting.progress.say(f"note: {damage}; the one before it goes on")
        begun = training.position.step
        if training.position.finished is None:
            estimate = _estimate(student, prepared, recipe) * (training.steps - begun)
            setting.progress.say(f"{'going on at' if resumed else 'from'} step {begun} of {training.steps}; about {duration(estimate)}")
            told = list(read_events(run.events))
            with watching(setting.progress, told, steps=training.steps) as view, deferred(view.ask_to_stop) as asked:
                events.subscribers.append(view)
                stop = together.agreed(asked)
                trained = training.run(stop)
                late = stop() and trained.stopped != "interrupted"
        else:
            late = False
            trained = training.run(lambda: False)
            setting.progress.say(f"train: done already, {trained.steps} steps")
        if [event["name"] for event in read_events(run.events)][-1:] != ["trained"]:  # killed after its last checkpoint, it is told now
            events.emit("trained", **dataclasses.asdict(trained))
    if late and more:
        raise Interrupted("stopped after the training; it is saved", hint="the same command goes on")
    setting.progress.say(found.came(student.peak_memory()))
    for note in student.notes():
        setting.progress.say(f"note: {note}")
    return _document(run, trained, student, found)


def _student(setting: Setting, recipe: Recipe, run: Run, limit: int | None, ranks: Ranks | None) -> tuple[Prepared, Student, Room]:
    """Data, base and lock of a run, and its student prepared to learn. Raises DoesNotFit before anything is loaded."""
    with setting.progress.step("read the data") as step:
        prepared = Prepared.of(recipe, limit=limit)
        prepared.recall()
        step.advance(0, rows=len(prepared.rows), bad=len(prepared.bad))
    for line in listed(prepared.bad, Path(recipe.data.source.path)):
        setting.progress.say(f"  {line}")
    backend = setting.choose(begun=run.backend())
    base, card = base_of(setting, recipe, backend)
    _require_within(recipe, base)
    with setting.progress.step("tokenize") as step:
        prepared.read(base)
        step.advance(0, tokens=prepared.tokens)
    machine = backend.machine()
    computed = {"device": machine.device, "dtype": machine.compute_dtype, "blas": machine.blas}
    facts = prepared.facts() | {
        "base": card,
        "backend": machine.backend,
        "machine": computed,
        "versions": versions(),
        "seed": recipe.train.seed,
    }
    if run.exists():
        run.require_same(recipe, facts)
    else:
        for line in prepared.plan(base, card):
            setting.progress.say(line)
    shape = None if recipe.lora is None else _shape(recipe.lora, base)
    found = room(recipe, prepared, base, backend, shape)
    setting.progress.say(found.foretold())
    student = backend.open(base, memory_limit=in_bytes(recipe.train.memory_limit))
    train = recipe.train
    student.prepare(
        shape, optimizer=train.optimizer, weight_decay=train.weight_decay, initial=None, seed=train.seed, ranks=ranks,
        recompute=found.recompute,
    )  # fmt: skip
    if run.exists():
        run.relock(recipe, facts)
    else:
        run.begin(recipe, facts, prepared.split)
    return prepared, student, found


def _require_within(recipe: Recipe, base: Path) -> None:
    """Raises RecipeError where rows may become longer than the base answers as its original does: no step of the run will meet one."""
    most = longest(open_config(base))
    if most is not None and recipe.train.max_tokens > most:
        message = f"this base answers rows of up to {most} tokens as its original does; train.max_tokens is {recipe.train.max_tokens}"
        raise RecipeError(message, hint=f"--set train.max_tokens={most}")


def _shape(spec: LoraSpec, base: Path) -> LoraShape:
    projections = family_of(open_config(base)).PROJECTIONS if spec.targets == ALL_LINEAR else spec.targets
    return LoraShape(spec.rank, spec.alpha, spec.dropout, projections, layers=spec.last, rslora=spec.rslora, dora=spec.dora)


def _reported(setting: Setting, recipe: Recipe, run: Run) -> AbstractContextManager[Report]:
    """Opened before the training is resumed: until then the events tell all that the trackers may know of it."""
    card = Card(f"{recipe.name} {run.path.name}", run.path, resolved(recipe), setting.environment)
    return reporting(setting.report_to, card, list(read_events(run.events)), setting.progress)


def _exam(setting: Setting, recipe: Recipe, prepared: Prepared, student: Student) -> Examination | None:
    """Where the recipe asks for answers during the training. Raises DataError."""
    from mlx_distill.workflows.examination import Examination

    asked = recipe.train.keep != LOSS or recipe.train.sample_every is not None
    return Examination(recipe, prepared, student) if asked else None


def _estimate(student: Student, prepared: Prepared, recipe: Recipe) -> float:
    """Seconds a step: the forward pass of one micro-batch, timed, times 3 for the backward pass."""
    size = recipe.train.batch_size
    rows = sorted(prepared.lessons["train"].rows, key=lambda lesson: len(lesson.row.tokens))
    middle = max(0, len(rows) // 2 - size // 2)
    sample = groups([rows[middle : middle + size]], prepared.prompt.prefix)
    student.loss(sample)
    started = time.monotonic()
    student.loss(sample)
    general = prepared.replay.tokens_beside(len(rows)) / prepared.tokens if prepared.replay else 0.0
    return (time.monotonic() - started) * 3 * recipe.train.accumulate * (1 + general)


def _document(run: Run, trained: Trained, student: Student, found: Room) -> Document:
    valid = trained.valid_loss
    return {
        "run": str(run.path),
        **dataclasses.asdict(trained),
        "perplexity": None if valid is None else math.exp(valid),
        "tokens_per_second": trained.tokens / trained.seconds if trained.seconds else None,
        "peak_memory_bytes": peak_memory(student),
        "memory": {"foretold": found.memory.total, "came": student.peak_memory(), "recomputed": found.recompute},
    }
