"""The training loop: batches in, steps and validations out, the best adapter kept, a position that survives.

It knows no tensors (the student has them), no task (an `Exam` has it), no files but checkpoints and the adapter, no recipe but `train`.
Everything random follows from (seed, step), so a run that stopped goes on exactly where it was.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlx_distill.backends.base import Student
from mlx_distill.data.mix import Batch, Mix
from mlx_distill.data.replay import Replay
from mlx_distill.data.tokens import Lesson
from mlx_distill.errors import DataError
from mlx_distill.observe.events import Events
from mlx_distill.recipe.schema import TrainSpec
from mlx_distill.records import Ids, LossSum, Step
from mlx_distill.training import checkpoint
from mlx_distill.training.checkpoint import Position
from mlx_distill.training.schedule import learning_rate
from mlx_distill.training.stopping import Stopping
from mlx_distill.training.validation import LOSS, Exam, Validation


@dataclass(frozen=True, slots=True)
class Trained:
    """`stopped`: done, early or interrupted. `train_loss` is of the task's rows since the validation before the last.

    `valid_loss` is the kept adapter's, and `kept` its {name, value, step} by `train.keep`; both None without validation rows.
    `padded_share`: of the tokens computed.
    """

    steps: int
    epochs: float
    train_loss: float | None
    valid_loss: float | None
    tokens: int
    seconds: float
    padded_share: float | None
    kept: dict[str, Any] | None
    stopped: str


class Training:
    """`replay`: general rows to learn beside the task's. `exam`: where `train` asks for answers, somebody who asks for them."""

    def __init__(
        self,
        student: Student,
        train: Sequence[Lesson],
        valid: Sequence[Lesson],
        prefix: Ids,
        spec: TrainSpec,
        run: Path,
        events: Events,
        *,
        replay: Replay | None = None,
        exam: Exam | None = None,
    ):
        if not train:
            raise DataError(
                "no row is left to train on", hint="are labels missing in the first field, or all rows longer than train.max_tokens?"
            )
        self._student, self._spec, self._run, self._events, self._exam = student, spec, run, events, exam
        self._mix = Mix(train, prefix, batch_size=spec.batch_size, accumulate=spec.accumulate, seed=spec.seed, replay=replay)
        largest = sum(sorted((len(lesson.row.tokens) for lesson in train), reverse=True)[: spec.batch_size])
        self._validation = (
            Validation(student, valid, prefix, keep=spec.keep, exam=exam, tokens=largest) if valid or spec.keep != LOSS else None
        )
        self.steps = self._mix.per_epoch * spec.epochs
        self._validate_every = spec.validate_every or self._mix.per_epoch
        self._checkpoint_every = spec.checkpoint_every or self._validate_every
        self.position = Position()
        self._stopping = Stopping()
        self.damaged: list[str] = []
        """Checkpoints that `resume` passed over, and why."""

    def resume(self) -> bool:
        """Go on from the last checkpoint that is whole. False where there is none."""
        found = checkpoint.resume(self._folder, self._student)
        self._events.rewind(found.position.step if found else 0)
        if found is None:
            return False
        self.position = found.position
        self._stopping = Stopping.of(self.position.stopping)
        checkpoint.restore(self._folder, self._stopping.step, self._run / "adapter")
        checkpoint.prune(self._folder, {self.position.step, self._stopping.step})
        self.damaged = found.damaged
        if self.position.step < self.steps and not (self.position.finished == "early" and self._stopping.over(self._spec.early_stopping)):
            self.position.finished = None  # more epochs, or more patience, than it was finished with
        if self.position.finished is None:
            self._events.emit("resumed", step=self.position.step, damaged=found.damaged)
        return True

    def run(self, stop: Callable[[], bool]) -> Trained:
        """Train to the end, or until `stop` says so after a step: then the position is saved."""
        if self.position.finished is None and self.position.step >= self.steps:  # fewer epochs than it was begun with
            self._validate(last=True)
            self._save()
        while self.position.finished is None:
            started = time.monotonic()
            self._step()
            self.position.seconds += time.monotonic() - started
            if self.position.finished is None and stop():
                self._save()
                self._events.emit("interrupted", step=self.position.step)
                return self._trained("interrupted")
        return self._trained(self.position.finished)

    @property
    def _folder(self) -> Path:
        return self._run / "checkpoints"

    def _step(self) -> None:
        position, spec = self.position, self._spec
        batch = self._mix.batch(position.step)
        rate = learning_rate(spec.schedule, spec.learning_rate, position.step, self.steps)
        started = time.monotonic()
        step = self._student.update(batch.groups, learning_rate=rate, clip_norm=spec.clip_norm, step=position.step)
        self._count(batch, step)
        if step.applied:
            self._tell(batch, step, rate, time.monotonic() - started)
        else:
            self._skip(batch)
        if self._exam is not None and spec.sample_every and position.step % spec.sample_every == 0:
            self._events.emit("samples", step=position.step, rows=self._exam.samples())
        last = position.step == self.steps
        if last or position.step % self._validate_every == 0:
            self._validate(last)
        best = self._stopping.step == position.step  # always kept, so that a resume can give back the adapter that was best
        if position.finished or best or position.step % self._checkpoint_every == 0:
            self._save()

    def _count(self, batch: Batch, step: Step) -> None:
        position = self.position
        position.step += 1
        position.tokens += batch.learned
        position.rows += len(batch.rows)
        position.computed += step.computed
        position.padded += step.padded

    def _tell(self, batch: Batch, step: Step, rate: float, seconds: float) -> None:
        """Of a step that was applied. The training loss is that of the task's rows, as the validation's is."""
        position = self.position
        general = sum((loss for name, loss in step.row_losses.items() if name in batch.replayed), LossSum())
        position.skipped = 0
        position.nats += step.loss.nats - general.nats
        position.weight += step.loss.tokens - general.tokens
        self._events.emit(
            "step",
            step=position.step,
            steps=self.steps,
            epoch=self._epochs(),
            loss=step.loss.mean,
            learning_rate=rate,
            grad_norm=step.grad_norm,
            tokens=position.tokens,
            rows=position.rows,
            seconds=seconds,
            memory=self._student.peak_memory(),
            computed=step.computed,
            padded=step.padded,
            compilations=self._student.compilations(),
            **({"replay_loss": general.mean} if batch.replayed else {}),
        )

    def _skip(self, batch: Batch) -> None:
        """The backend has not applied a step that is not finite; say which rows it was, and stop when it keeps happening."""
        rows, most = [row.id for row in batch.rows], self._spec.max_skipped
        self.position.skipped += 1
        self._events.emit("skipped", step=self.position.step, rows=rows)
        if self.position.skipped >= most:
            raise DataError(
                f"{most} steps in a row had a loss or gradient that is not finite; the last at step {self.position.step}, "
                f"rows {', '.join(rows)}",
                file=self._run,
                hint="lower train.learning_rate; the adapter and the checkpoints before it are whole",
            )

    def _validate(self, last: bool) -> None:
        position, spec, started = self.position, self._spec, time.monotonic()
        found = self._validation.measure() if self._validation else None
        best = found is None or self._stopping.judge(found.figure, position.step, spec.early_stopping)
        if best:
            self._student.save_adapter(self._run / "adapter")
            position.kept_loss = found.loss if found else None
        position.last_train = position.nats / position.weight if position.weight else position.last_train
        position.nats = position.weight = 0.0
        position.stopping = self._stopping.state()
        self._events.emit(
            "validated",
            step=position.step,
            train_loss=position.last_train,
            valid_loss=found.loss if found else None,
            best=best,
            seconds=time.monotonic() - started,
            **({"metrics": found.metrics} if found and found.metrics else {}),
        )
        if self._stopping.over(spec.early_stopping) and not last:
            position.finished = "early"
        elif last:
            position.finished = "done"

    def _save(self) -> None:
        self._events.sync()
        path = checkpoint.save(self._folder, self._student, self.position)
        checkpoint.prune(self._folder, {self.position.step, self._stopping.step})
        self._events.emit("checkpoint", step=self.position.step, path=path.name)

    def _epochs(self) -> float:
        return round(self.position.step / self._mix.per_epoch, 4)

    def _trained(self, stopped: str) -> Trained:
        position, best = self.position, self._stopping
        kept = None
        if self._validation is not None and math.isfinite(best.best):
            kept = {"name": self._spec.keep, "value": self._validation.turned(best.best), "step": best.step}
        return Trained(
            steps=position.step,
            epochs=self._epochs(),
            train_loss=position.last_train,
            valid_loss=position.kept_loss,
            tokens=position.tokens,
            seconds=position.seconds,
            padded_share=position.padded / position.computed if position.computed else None,
            kept=kept,
            stopped=stopped,
        )
