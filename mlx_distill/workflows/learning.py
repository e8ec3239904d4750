"""From a checked recipe to an adapter: data, base and lock of a run, its student, and the training, begun or gone on with."""

from __future__ import annotations

import dataclasses
import math
import time
from typing import Any

from mlx_distill.backends.base import LoraShape, Student
from mlx_distill.data.batches import groups
from mlx_distill.observe.events import Events
from mlx_distill.observe.interrupts import deferred
from mlx_distill.observe.progress import duration
from mlx_distill.recipe.schema import Recipe
from mlx_distill.training.loop import Trained, Training
from mlx_distill.training.run import Run
from mlx_distill.workflows.bases import base_of
from mlx_distill.workflows.preparation import Prepared
from mlx_distill.workflows.setting import Document, Setting, in_bytes, peak_memory, versions


def learn(setting: Setting, recipe: Recipe, run: Run, limit: int | None) -> Document:
    """The run's folder is held by the caller. The document's `stopped` may be interrupted: then everything is saved."""
    prepared, student = _student(setting, recipe, run, limit)
    with Events(run.events) as events:
        lessons = prepared.lessons
        training = Training(student, lessons["train"].rows, lessons["valid"].rows, prepared.prompt.prefix, recipe.train, run.path, events)
        resumed = training.resume()
        begun = training.position.step
        if training.position.finished is None:
            estimate = _estimate(student, prepared, recipe) * (training.steps - begun)
            setting.progress.say(f"{'going on at' if resumed else 'from'} step {begun} of {training.steps}; about {duration(estimate)}")
            with deferred() as stop, setting.progress.step("train", total=training.steps, unit="steps") as bar:
                trained = training.run(bar, stop)
            events.emit("trained", **dataclasses.asdict(trained))
        else:
            trained = training.run(_SILENT, lambda: False)
            setting.progress.say(f"train: done already, {trained.steps} steps")
    return _document(run, trained, student)


def _student(setting: Setting, recipe: Recipe, run: Run, limit: int | None) -> tuple[Prepared, Student]:
    """Data, base and lock of a run, and its student prepared to learn."""
    with setting.progress.step("read the data") as step:
        prepared = Prepared.of(recipe, limit=limit)
        step.advance(0, rows=len(prepared.rows), bad=len(prepared.bad))
    backend = setting.choose()
    base, card = base_of(setting, recipe, backend)
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
    student = backend.open(base, memory_limit=in_bytes(recipe.train.memory_limit))
    shape = LoraShape(recipe.lora.rank, recipe.lora.alpha, recipe.lora.dropout, recipe.lora.targets)
    train = recipe.train
    student.prepare(shape, optimizer=train.optimizer, weight_decay=train.weight_decay, initial=None, seed=train.seed)
    if run.exists():
        run.relock(recipe)
    else:
        run.begin(recipe, facts, prepared.split)
    return prepared, student


def _estimate(student: Student, prepared: Prepared, recipe: Recipe) -> float:
    """Seconds a step: the forward pass of one micro-batch, timed, times 3 for the backward pass."""
    size = recipe.train.batch_size
    rows = sorted(prepared.lessons["train"].rows, key=lambda lesson: len(lesson.row.tokens))
    middle = max(0, len(rows) // 2 - size // 2)
    sample = groups([rows[middle : middle + size]], prepared.prompt.prefix)
    student.loss(sample)
    started = time.monotonic()
    student.loss(sample)
    return (time.monotonic() - started) * 3 * recipe.train.accumulate


def _document(run: Run, trained: Trained, student: Student) -> Document:
    valid = trained.valid_loss
    return {
        "run": str(run.path),
        **{name: getattr(trained, name) for name in ("steps", "epochs", "train_loss", "valid_loss", "tokens", "seconds", "stopped")},
        "perplexity": None if valid is None else math.exp(valid),
        "tokens_per_second": trained.tokens / trained.seconds if trained.seconds else None,
        "peak_memory_bytes": peak_memory(student),
    }


class _Silent:
    """A bar that nobody sees."""

    def advance(self, n: int = 1, /, **figures: Any) -> None:
        pass


_SILENT: Any = _Silent()
