"""The training loop: batches in, steps and validations out, the best adapter kept, a position that survives.

It knows no tensors (the student has them), no files but checkpoints and the adapter, no recipe but `train`. Everything random follows
from (seed, step), so a run that stopped goes on exactly where it was.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mlx_distill.backends.base import Student
from mlx_distill.data.batches import MicroBatch, by_length, epoch, groups, steps_per_epoch
from mlx_distill.data.tokens import Lesson
from mlx_distill.errors import DataError
from mlx_distill.observe.events import Events
from mlx_distill.observe.progress import Step as Bar
from mlx_distill.recipe.schema import TrainSpec
from mlx_distill.records import Ids, LossSum
from mlx_distill.training import checkpoint
from mlx_distill.training.checkpoint import Position
from mlx_distill.training.schedule import learning_rate
from mlx_distill.training.stopping import Stopping

MAX_SKIPPED = 3
"""Steps in a row whose loss or gradient was not finite, before the run stops."""
TOKENS_AT_ONCE = 16384
"""Padded tokens of one forward in validation."""


@dataclass(frozen=True, slots=True)
class Trained:
    """`stopped`: done, early or interrupted. `valid_loss` is the kept adapter's; None without validation rows."""

    steps: int
    epochs: float
    train_loss: float | None
    valid_loss: float | None
    tokens: int
    seconds: float
    stopped: str


class Training:
    def __init__(
        self, student: Student, train: Sequence[Lesson], valid: Sequence[Lesson], prefix: Ids, spec: TrainSpec, run: Path, events: Events
    ):
        if not train:
            raise DataError(
                "no row is left to train on", hint="are labels missing in the first field, or all rows longer than train.max_tokens?"
            )
        self._student, self._train, self._valid, self._prefix = student, train, valid, prefix
        self._spec, self._run, self._events = spec, run, events
        self._per_epoch = steps_per_epoch(len(train), spec.batch_size, spec.accumulate)
        self.steps = self._per_epoch * spec.epochs
        self._validate_every = spec.validate_every or self._per_epoch
        self._checkpoint_every = spec.checkpoint_every or self._validate_every
        self._epoch: tuple[int, list[list[MicroBatch]]] = (-1, [])
        self.position = Position()
        self._stopping = Stopping()

    def resume(self) -> bool:
        """Go on from the last checkpoint. False where there is none."""
        path = checkpoint.latest(self._folder)
        if path is None:
            return False
        self.position = checkpoint.load(path, self._student)
        self._stopping = Stopping.of(self.position.stopping)
        if self.position.step < self.steps and not (self.position.finished == "early" and self._stopping.over(self._spec.early_stopping)):
            self.position.finished = None  # more epochs, or more patience, than it was finished with
        if self.position.finished is None:
            self._events.emit("resumed", step=self.position.step)
        return True

    def run(self, bar: Bar, stop: Callable[[], bool]) -> Trained:
        """Train to the end, or until `stop` says so after a step: then the position is saved."""
        bar.advance(self.position.step)
        if self.position.finished is None and self.position.step >= self.steps:  # fewer epochs than it was begun with
            self._validate(last=True)
            self._save()
        while self.position.finished is None:
            started = time.monotonic()
            self._step(bar)
            self.position.seconds += time.monotonic() - started
            if self.position.finished is None and stop():
                self._save()
                self._events.emit("interrupted", step=self.position.step)
                return self._trained("interrupted")
        return self._trained(self.position.finished)

    @property
    def _folder(self) -> Path:
        return self._run / "checkpoints"

    def _step(self, bar: Bar) -> None:
        position, spec = self.position, self._spec
        batch = self._batch(position.step)
        rate = learning_rate(spec.schedule, spec.learning_rate, position.step, self.steps)
        step = self._student.update(groups(batch, self._prefix), learning_rate=rate, clip_norm=spec.clip_norm, step=position.step)
        position.step += 1
        position.tokens += sum(len(lesson.row.targets) for micro in batch for lesson in micro)
        if step.applied:
            position.skipped = 0
            position.nats, position.weight = position.nats + step.loss.nats, position.weight + step.loss.tokens
            figures = {"loss": step.loss.mean, "learning_rate": rate, "grad_norm": step.grad_norm}
            self._events.emit("step", step=position.step, tokens=position.tokens, **figures)
            bar.advance(1, loss=step.loss.mean, learning_rate=rate)
        else:
            self._skip(batch)
            bar.advance(1)
        last = position.step == self.steps
        if last or position.step % self._validate_every == 0:
            self._validate(last)
        if position.finished or position.step % self._checkpoint_every == 0:
            self._save()

    def _batch(self, step: int) -> list[MicroBatch]:
        number, within = divmod(step, self._per_epoch)
        if self._epoch[0] != number:
            spec = self._spec
            batches = epoch(self._train, batch_size=spec.batch_size, accumulate=spec.accumulate, seed=spec.seed, number=number)
            self._epoch = (number, batches)
        return self._epoch[1][within]

    def _skip(self, batch: Sequence[MicroBatch]) -> None:
        """The backend has not applied a step that is not finite; say which rows it was, and stop when it keeps happening."""
        rows = [lesson.row.id for micro in batch for lesson in micro]
        self.position.skipped += 1
        self._events.emit("skipped", step=self.position.step, rows=rows)
        if self.position.skipped >= MAX_SKIPPED:
            raise DataError(
                f"{MAX_SKIPPED} steps in a row had a loss or gradient that is not finite; the last at step {self.position.step}, "
                f"rows {', '.join(rows)}",
                file=self._run,
                hint="lower train.learning_rate; the adapter and the checkpoints before it are whole",
            )

    def _validate(self, last: bool) -> None:
        position, spec = self.position, self._spec
        if self._valid:
            loss = self._validation_loss()
            position.last_valid = loss.mean if math.isfinite(loss.mean) else None
            best = self._stopping.judge(loss.mean, position.step, spec.early_stopping)
        else:
            best = True
        if best:
            self._student.save_adapter(self._run / "adapter")
        position.last_train = position.nats / position.weight if position.weight else position.last_train
        position.nats = position.weight = 0.0
        position.stopping = self._stopping.state()
        self._events.emit("validated", step=position.step, train_loss=position.last_train, valid_loss=position.last_valid, best=best)
        if self._stopping.over(spec.early_stopping) and not last:
            position.finished = "early"
        elif last:
            position.finished = "done"

    def _validation_loss(self) -> LossSum:
        total = LossSum()
        for batch in by_length(self._valid, TOKENS_AT_ONCE):
            total = sum(self._student.loss(groups([batch], self._prefix)).values(), total)
        return total

    def _save(self) -> None:
        path = checkpoint.save(self._folder, self._student, self.position)
        checkpoint.prune(self._folder, {self.position.step, self._stopping.step})
        self._events.emit("checkpoint", step=self.position.step, path=path.name)

    def _trained(self, stopped: str) -> Trained:
        position = self.position
        best = self._stopping.best
        return Trained(
            steps=position.step,
            epochs=round(position.step / self._per_epoch, 4),
            train_loss=position.last_train,
            valid_loss=best if math.isfinite(best) else None,
            tokens=position.tokens,
            seconds=position.seconds,
            stopped=stopped,
        )
