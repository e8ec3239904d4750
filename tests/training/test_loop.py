"""The loop, with a real student: every row each epoch, the best adapter kept, and a run that was broken off ends as if it had not been."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlx_distill.backends.base import Backend, LoraShape
from mlx_distill.data.replay import Replay
from mlx_distill.data.tokens import Lesson
from mlx_distill.errors import CheckpointError, DataError
from mlx_distill.observe.events import Events, read_events
from mlx_distill.recipe.schema import ScheduleSpec, StoppingSpec, TrainSpec
from mlx_distill.records import Group, LossSum, Step, TokenRow
from mlx_distill.training import checkpoint
from mlx_distill.training.loop import Trained, Training
from tests.backends import plain
from tests.conftest import MakeBase

PREFIX = np.array([40, 41, 42, 43], np.int32)
CONSTANT = ScheduleSpec(kind="constant", warmup=0.0)
SPEC = TrainSpec(epochs=2, batch_size=2, accumulate=2, learning_rate=1e-2, schedule=CONSTANT, seed=5)
SHAPE = LoraShape(2, 4, 0.1, ("q_proj", "v_proj"))


def lessons(count: int, seed: int = 0, *, target: int | None = None) -> list[Lesson]:
    """Rows of unequal length, every fifth without the shared prefix; `target`: the token that all of them teach."""
    generator = np.random.default_rng(seed)
    out = []
    for i in range(count):
        row = plain.random_row(generator, f"row {i}", int(generator.integers(2, 7)))
        if target is not None:
            row = replace(row, targets=np.full_like(row.targets, target), weight=np.ones_like(row.weight))
        out.append(Lesson(row, shared=i % 5 != 4, trimmed=False, prompt=len(row.tokens)))
    return out


@dataclass
@dataclass
class Told:
    """What a student was asked, on its way to the real one."""

    student: Any
    updates: list[tuple[list[Group], dict[str, Any]]] = field(default_factory=list)
    losses: list[list[Group]] = field(default_factory=list)

    def update(self, groups: Sequence[Group], **settings: Any) -> Step:
        self.updates.append((list(groups), settings))
        return self.student.update(groups, **settings)  # type: ignore[no-any-return]

    def loss(self, groups: Sequence[Group]) -> dict[str, LossSum]:
        self.losses.append(list(groups))
        return self.student.loss(groups)  # type: ignore[no-any-return]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.student, name)


Begin = Callable[..., tuple[Training, Told]]


@pytest.fixture(scope="module")
def begin(backend: Backend, base: MakeBase) -> Begin:
    """begin(folder, train, valid, epochs=3): a training in that folder, and its student."""
    base_folder = base(num_hidden_layers=1, hidden_size=32, intermediate_size=32)

    def make(
        folder: Path, train: Sequence[Lesson], valid: Sequence[Lesson] = (), *, replay: Any = None, exam: Any = None, **changes: Any
    ) -> tuple[Training, Told]:
        spec = replace(SPEC, **changes)
        told = Told(backend.open(base_folder))
        told.prepare(SHAPE, optimizer="adamw", weight_decay=0.0, initial=None, seed=spec.seed)
        training: Any = Training
        return training(told, train, valid, PREFIX, spec, folder, Events(folder / "events.jsonl"), replay=replay, exam=exam), told

    return make


def run(training: Training, stop_after: int | None = None) -> Trained:
    return training.run(lambda: stop_after is not None and training.position.step >= stop_after)


def adapter(folder: Path) -> bytes:
    return (folder / "adapter" / "adapter_model.safetensors").read_bytes()


def events(folder: Path, name: str) -> list[dict[str, Any]]:
    return [event for event in read_events(folder / "events.jsonl") if event["name"] == name]


def checkpoints(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "checkpoints").iterdir())


# what is trained, and what is measured


def test_every_row_is_learned_once_each_epoch_in_a_new_order(begin: Begin, tmp_path: Path) -> None:
    training, told = begin(tmp_path, lessons(11), epochs=3)
    trained = run(training)
    assert trained.steps == training.steps == 9 == len(told.updates), "6 micro-batches of 2, 2 of them a step, 3 epochs"
    orders = []
    for epoch in range(3):
        rows = [row for groups, _ in told.updates[3 * epoch : 3 * epoch + 3] for group in groups for row in group.rows]
        assert Counter(row.id for row in rows) == Counter(f"row {i}" for i in range(11))
        orders.append([row.id for row in rows])
    assert orders[0] != orders[1] != orders[2]
    assert trained.epochs == 3.0 and trained.stopped == "done"


def test_rows_stand_behind_the_prefix_that_they_share(begin: Begin, tmp_path: Path) -> None:
    train = lessons(11)
    alone = {lesson.row.id for lesson in train if not lesson.shared}
    training, told = begin(tmp_path, train, lessons(6, 1), epochs=1)
    run(training)
    for groups in [groups for groups, _ in told.updates] + told.losses:
        for group in groups:
            expected = alone if len(group.prefix) == 0 else {f"row {i}" for i in range(11)} - alone
            assert {row.id for row in group.rows} <= expected
            assert len(group.prefix) in (0, len(PREFIX))


def test_the_student_is_given_rate_norm_and_step(begin: Begin, tmp_path: Path) -> None:
    training, told = begin(tmp_path, lessons(8), epochs=2, clip_norm=0.7, schedule=ScheduleSpec(kind="linear", warmup=0.5))
    run(training)
    assert [settings["step"] for _, settings in told.updates] == [0, 1, 2, 3]
    assert [settings["learning_rate"] for _, settings in told.updates] == pytest.approx([0.005, 0.01, 0.01, 0.005])
    assert {settings["clip_norm"] for _, settings in told.updates} == {0.7}


def test_the_whole_validation_set_is_measured_each_time(begin: Begin, tmp_path: Path) -> None:
    valid = lessons(7, 1)
    training, told = begin(tmp_path, lessons(8), valid, epochs=2, validate_every=1)
    trained = run(training)
    measured = Counter(row.id for groups in told.losses for group in groups for row in group.rows)
    assert measured == Counter({f"row {i}": 4 for i in range(7)})
    losses = told.student.loss([Group(PREFIX if lesson.shared else PREFIX[:0], [[lesson.row]]) for lesson in valid])
    mean = sum(losses.values(), LossSum()).mean
    validated = events(tmp_path, "validated")
    assert [event["step"] for event in validated] == [1, 2, 3, 4]
    assert validated[-1]["valid_loss"] == pytest.approx(mean, rel=1e-5)
    assert trained.valid_loss == min(event["valid_loss"] for event in validated)


def test_the_training_loss_is_the_mean_by_weight_since_the_last_validation(begin: Begin, tmp_path: Path) -> None:
    training, told = begin(tmp_path, lessons(8), epochs=2)
    steps: list[Step] = []
    update = told.update
    told.update = lambda groups, **settings: steps.append(update(groups, **settings)) or steps[-1]  # type: ignore[method-assign, func-returns-value]
    trained = run(training)
    means = [sum((step.loss for step in steps[at : at + 2]), LossSum()).mean for at in (0, 2)]
    assert [event["train_loss"] for event in events(tmp_path, "validated")] == pytest.approx(means)
    assert trained.train_loss == pytest.approx(means[1])
    assert trained.tokens == 2 * sum(len(lesson.row.targets) for lesson in lessons(8))


def test_without_a_row_there_is_nothing_to_train(begin: Begin, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no row is left to train on"):
        begin(tmp_path, [])


# what is kept


def opposed() -> tuple[list[Lesson], list[Lesson]]:
    """What is learned and what is measured are opposites: validation only gets worse."""
    return lessons(8, target=7), lessons(4, 1, target=300)


def test_the_best_adapter_is_kept_where_later_ones_are_worse(begin: Begin, tmp_path: Path) -> None:
    train, valid = opposed()
    training, told = begin(tmp_path, train, valid, epochs=4, validate_every=1)
    trained = run(training)
    losses = [event["valid_loss"] for event in events(tmp_path, "validated")]
    best = int(np.argmin(losses))
    assert trained.steps == 8 and best < 6 and trained.valid_loss == losses[best]
    assert [event["best"] for event in events(tmp_path, "validated")] == [i == 0 or loss < min(losses[:i]) for i, loss in enumerate(losses)]
    assert checkpoints(tmp_path) == [f"step-{best + 1:06d}", "step-000008"], "the best and the last"
    assert adapter(tmp_path) == (tmp_path / "checkpoints" / f"step-{best + 1:06d}" / "adapter_model.safetensors").read_bytes()
    told.save_adapter(tmp_path / "last")
    assert adapter(tmp_path) != (tmp_path / "last" / "adapter_model.safetensors").read_bytes()


def test_without_validation_the_last_adapter_is_kept(begin: Begin, tmp_path: Path) -> None:
    training, told = begin(tmp_path, lessons(8))
    trained = run(training)
    told.save_adapter(tmp_path / "last")
    assert adapter(tmp_path) == (tmp_path / "last" / "adapter_model.safetensors").read_bytes()
    assert trained.valid_loss is None and trained.train_loss is not None
    assert checkpoints(tmp_path) == ["step-000004"]


def test_it_stops_early_when_nothing_improves(begin: Begin, tmp_path: Path) -> None:
    train, valid = opposed()
    spec = StoppingSpec(patience=2)
    training, _ = begin(tmp_path, train, valid, epochs=20, early_stopping=spec)
    trained = run(training)
    losses = [event["valid_loss"] for event in events(tmp_path, "validated")]
    assert trained.stopped == "early" and trained.steps < training.steps
    assert len(losses) == int(np.argmin(losses)) + 1 + 2
    assert checkpoints(tmp_path)[-1] == f"step-{trained.steps:06d}"


def test_a_validation_that_is_not_finite_is_never_the_best_and_breaks_nothing(begin: Begin, tmp_path: Path) -> None:
    valid = lessons(3, 1)
    broken = replace(valid[0], row=replace(valid[0].row, weight=np.full_like(valid[0].row.weight, np.inf)))
    training, _ = begin(tmp_path, lessons(8), [broken, *valid[1:]])
    trained = run(training)
    assert trained.stopped == "done" and trained.valid_loss is None
    assert [(event["valid_loss"], event["best"]) for event in events(tmp_path, "validated")] == [(None, False)] * 2
    assert not (tmp_path / "adapter").exists() and checkpoints(tmp_path) == ["step-000004"]


# broken off, and gone on


class Killed(BaseException):
    """The process ends here."""


@pytest.fixture(scope="module")
def whole(begin: Begin, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nobody disturbed: 3 epochs of 3 steps, validated after 2, 4, 6, 8 and 9, checkpoints after 4, 8 and 9."""
    folder = tmp_path_factory.mktemp("whole")
    run(begin(folder, lessons(11), lessons(5, 1), **LONG)[0])
    return folder


LONG: dict[str, Any] = {"epochs": 3, "validate_every": 2, "checkpoint_every": 4}


def assert_same_end(folder: Path, whole: Path) -> None:
    """The kept adapter, the last state and the last validation, to the byte."""
    assert adapter(folder) == adapter(whole)
    for file in ("adapter_model.safetensors", "optimizer.safetensors"):
        ours, theirs = (path / "checkpoints" / "step-000009" / file for path in (folder, whole))
        assert ours.read_bytes() == theirs.read_bytes(), file
    ours, theirs = (json.loads((path / "checkpoints" / "step-000009" / "position.json").read_text()) for path in (folder, whole))
    assert {**ours, "seconds": 0, "sha256": ""} == {**theirs, "seconds": 0, "sha256": ""}


@pytest.mark.parametrize("stop_after", [1, 2, 4, 5, 8])
def test_stopped_at_any_step_it_saves_and_ends_in_the_same_bytes(begin: Begin, whole: Path, tmp_path: Path, stop_after: int) -> None:
    training, _ = begin(tmp_path, lessons(11), lessons(5, 1), **LONG)
    assert run(training, stop_after).stopped == "interrupted"
    assert checkpoints(tmp_path)[-1] == f"step-{stop_after:06d}"
    training, told = begin(tmp_path, lessons(11), lessons(5, 1), **LONG)
    assert training.resume()
    trained = run(training)
    assert [settings["step"] for _, settings in told.updates] == list(range(stop_after, 9))
    assert (trained.stopped, trained.steps, trained.epochs) == ("done", 9, 3.0)
    assert_same_end(tmp_path, whole)


def test_stopped_after_every_single_step_it_ends_in_the_same_bytes(begin: Begin, whole: Path, tmp_path: Path) -> None:
    for step in range(1, 10):
        training, _ = begin(tmp_path, lessons(11), lessons(5, 1), **LONG)
        assert training.resume() == (step > 1)
        run(training, step)
    assert_same_end(tmp_path, whole)
    assert len(events(tmp_path, "interrupted")) == len(events(tmp_path, "resumed")) == 8


@pytest.mark.parametrize("step", [4, 8, 9])
def test_killed_between_adapter_and_checkpoint_it_ends_in_the_same_bytes(
    begin: Begin, whole: Path, tmp_path: Path, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = checkpoint.save

    def killed(folder: Path, student: Any, position: checkpoint.Position) -> Path:
        if position.step == step:
            raise Killed
        return save(folder, student, position)

    training, _ = begin(tmp_path, lessons(11), lessons(5, 1), **LONG)
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save", killed)
        with pytest.raises(Killed):
            run(training)
    assert adapter(tmp_path), "the adapter of that step is there, its checkpoint is not"
    training, _ = begin(tmp_path, lessons(11), lessons(5, 1), **LONG)
    assert training.resume()
    assert training.position.step == {4: 2, 8: 4, 9: 8}[step], "the best, of step 2, has a checkpoint beside those of every fourth step"
    run(training)
    assert_same_end(tmp_path, whole)


def test_a_finished_run_is_not_touched_again(begin: Begin, whole: Path, tmp_path: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in whole.rglob("*")}
    training, told = begin(whole, lessons(11), lessons(5, 1), **LONG)
    assert training.resume()
    trained = run(training)
    assert (trained.stopped, trained.steps, told.updates, told.losses) == ("done", 9, [], [])
    assert trained.valid_loss == min(event["valid_loss"] for event in events(whole, "validated"))
    assert {path: path.stat().st_mtime_ns for path in whole.rglob("*")} == before


def test_nothing_at_all_can_be_resumed(begin: Begin, tmp_path: Path) -> None:
    training, _ = begin(tmp_path, lessons(4), epochs=1)
    assert not training.resume()
    assert run(training).stopped == "done"


def test_an_early_end_stays_the_end_until_more_patience_is_asked_for(begin: Begin, tmp_path: Path) -> None:
    train, valid = opposed()
    ends = []
    for patience in (1, 1, 3):
        training, told = begin(tmp_path, train, valid, epochs=20, early_stopping=StoppingSpec(patience=patience))
        training.resume()
        trained = run(training)
        ends.append((trained.steps, len(told.updates)))
        assert trained.stopped == "early"
    assert ends[1] == (ends[0][0], 0)
    assert ends[2][0] == ends[0][0] + ends[2][1] > ends[0][0]


def test_more_epochs_go_on_and_fewer_are_the_end(begin: Begin, tmp_path: Path) -> None:
    train, valid = lessons(8), lessons(3, 1)
    for epochs, stop_after, steps, updates in ((1, None, 2, 2), (3, None, 6, 4), (9, 8, 8, 2), (2, None, 8, 0), (2, None, 8, 0)):
        training, told = begin(tmp_path, train, valid, epochs=epochs)
        training.resume()
        trained = run(training, stop_after)
        assert (trained.steps, len(told.updates)) == (steps, updates)
        assert trained.stopped == ("interrupted" if stop_after else "done")


def test_the_one_before_a_damaged_checkpoint_goes_on_and_ends_in_the_same_bytes(begin: Begin, whole: Path, tmp_path: Path) -> None:
    train, valid = lessons(11), lessons(5, 1)
    run(begin(tmp_path, train, valid, **LONG)[0], 7)
    assert checkpoints(tmp_path) == ["step-000002", "step-000007"], "the best and the last"
    (tmp_path / "checkpoints" / "step-000007" / "optimizer.safetensors").write_bytes(b"damage")
    training, _ = begin(tmp_path, train, valid, **LONG)
    assert training.resume() and training.position.step == 2
    (resumed,) = events(tmp_path, "resumed")
    assert resumed["step"] == 2 and "step-000007" in resumed["damaged"][0] and "optimizer.safetensors" in resumed["damaged"][0]
    run(training)
    assert_same_end(tmp_path, whole)
    assert [event["step"] for event in events(tmp_path, "step")] == list(range(1, 10)), "each is told once"


def test_where_no_checkpoint_is_whole_the_way_out_is_named(begin: Begin, tmp_path: Path) -> None:
    run(begin(tmp_path, lessons(11), lessons(5, 1), **LONG)[0])
    for name in checkpoints(tmp_path):
        (tmp_path / "checkpoints" / name / "optimizer.safetensors").write_bytes(b"damage")
    with pytest.raises(CheckpointError) as caught:
        begin(tmp_path, lessons(11), lessons(5, 1), **LONG)[0].resume()
    assert "step-000009" in str(caught.value) and "delete this checkpoint's folder" in str(caught.value.hint)


# steps that are not finite


def poisoned(rows: list[Lesson], *names: str) -> list[Lesson]:
    def bad(row: TokenRow) -> TokenRow:
        return replace(row, weight=np.full_like(row.weight, np.nan))

    return [replace(lesson, row=bad(lesson.row)) if lesson.row.id in names else lesson for lesson in rows]


def test_a_step_that_is_not_finite_is_left_out_and_named(begin: Begin, tmp_path: Path) -> None:
    train = poisoned(lessons(8), "row 3")
    training, _ = begin(tmp_path, train, epochs=4, batch_size=1, accumulate=1)
    trained = run(training)
    assert trained.steps == 32 and trained.train_loss is not None
    assert [event["rows"] for event in events(tmp_path, "skipped")] == [["row 3"]] * 4
    assert len(events(tmp_path, "step")) == 28


def test_three_such_steps_in_a_row_end_the_run_with_their_rows(begin: Begin, tmp_path: Path) -> None:
    train = poisoned(lessons(8), *(f"row {i}" for i in range(8)))
    training, told = begin(tmp_path, train, epochs=4)
    with pytest.raises(DataError, match="3 steps in a row") as caught:
        run(training)
    assert len(told.updates) == 3
    named = [row.id for groups, _ in told.updates[2:] for group in groups for row in group.rows]
    assert named and all(name in caught.value.message for name in named)
    assert "train.learning_rate" in str(caught.value.hint) and caught.value.file == str(tmp_path)


@pytest.mark.parametrize("most", [1, 2, 5])
def test_the_recipe_says_how_many_steps_may_be_skipped_in_a_row(begin: Begin, tmp_path: Path, most: int) -> None:
    train = poisoned(lessons(8), *(f"row {i}" for i in range(8)))
    training, told = begin(tmp_path, train, epochs=4, max_skipped=most)
    with pytest.raises(DataError, match=f"{most} steps in a row"):
        run(training)
    assert len(told.updates) == len(events(tmp_path, "skipped")) == most


def test_a_step_that_is_not_finite_reaches_neither_weights_nor_optimizer(begin: Begin, tmp_path: Path) -> None:
    training, told = begin(tmp_path, poisoned(lessons(4), "row 1"), epochs=1, batch_size=4, accumulate=1)
    told.save_state(tmp_path / "before")
    run(training)
    told.save_state(tmp_path / "after")
    for file in ("adapter_model.safetensors", "optimizer.safetensors"):
        assert (tmp_path / "before" / file).read_bytes() == (tmp_path / "after" / file).read_bytes()
    training, told = begin(tmp_path / "sound", lessons(4), epochs=1, batch_size=4, accumulate=1)
    run(training)
    told.save_state(tmp_path / "after")
    assert (tmp_path / "before" / file).read_bytes() != (tmp_path / "after" / file).read_bytes(), "a sound one does"


def test_skipped_steps_are_counted_across_a_resume(begin: Begin, tmp_path: Path) -> None:
    train = poisoned(lessons(8), *(f"row {i}" for i in range(8)))
    training, _ = begin(tmp_path, train, epochs=4)
    run(training, 2)
    training, told = begin(tmp_path, train, epochs=4)
    training.resume()
    with pytest.raises(DataError, match="step 3"):
        run(training)
    assert len(told.updates) == 1


# what is told


def test_the_events_tell_the_whole_story(begin: Begin, tmp_path: Path) -> None:
    training, _ = begin(tmp_path, lessons(8), lessons(3, 1), epochs=2, checkpoint_every=4)
    training.run(lambda: False)
    told = list(read_events(tmp_path / "events.jsonl"))
    assert [event["name"] for event in told] == ["step", "step", "validated", "checkpoint"] * 2
    first = told[0]
    assert first.keys() == {
        "name", "time", "step", "steps", "epoch", "loss", "learning_rate", "grad_norm", "tokens", "rows", "seconds", "memory", "computed",
        "padded", "compilations",
    }  # fmt: skip
    assert first["step"] == 1 and first["learning_rate"] == 0.01 and first["loss"] > 0 < first["grad_norm"]
    assert (first["steps"], first["epoch"], first["rows"]) == (4, 0.5, 4)
    assert first["memory"] > 0 and first["seconds"] > 0
    assert told[2].keys() == {"name", "time", "step", "train_loss", "valid_loss", "best", "seconds"}
    assert told[-1]["step"] == 4 and told[-1]["path"] == "step-000004"
    assert [event["tokens"] for event in told if event["name"] == "step"][-1] == training.position.tokens


def test_what_was_computed_and_what_of_it_was_padding_is_told(begin: Begin, tmp_path: Path) -> None:
    training, told = begin(tmp_path, lessons(11), epochs=2)
    update = told.update
    told.update = lambda groups, **settings: replace(update(groups, **settings), computed=40, padded=10)  # type: ignore[method-assign]
    trained = run(training)
    assert [(event["computed"], event["padded"]) for event in events(tmp_path, "step")] == [(40, 10)] * 6
    assert trained.padded_share == 0.25 and (training.position.computed, training.position.padded) == (240, 60)
    assert [event["rows"] for event in events(tmp_path, "step")][2::3] == [11, 22], "every row, each epoch"
    assert [event["epoch"] for event in events(tmp_path, "step")] == pytest.approx([1 / 3, 2 / 3, 1, 4 / 3, 5 / 3, 2], abs=1e-4)


# what the adapter is kept by, and what it answers on the way


@dataclass
class Exam:
    """Figures that follow from the step alone. `asked` are the steps at which it was."""

    figures: list[float]
    lower_is_better: bool = False
    training: Any = None
    asked: list[int] = field(default_factory=list)
    sampled: list[int] = field(default_factory=list)

    def metrics(self) -> dict[str, float]:
        self.asked.append(self.training.position.step)
        return {"accuracy": self.figures[self.asked[-1] - 1], "other": 1.0}

    def samples(self) -> list[dict[str, Any]]:
        self.sampled.append(self.training.position.step)
        return [{"id": "row 1", "reference": {"high": True}, "answer": {"high": False}}]


def examined(begin: Begin, folder: Path, exam: Exam, **changes: Any) -> Training:
    settings = {"epochs": 4, "validate_every": 1, "keep": "accuracy", **changes}
    training, _ = begin(folder, lessons(8), lessons(4, 1), exam=exam, **settings)
    exam.training = training
    return training


RISING_AND_FALLING = [0.2, 0.5, 0.4, 0.7, 0.7, 0.6, 0.1, 0.3]


@pytest.mark.parametrize(("lower", "best"), [(False, 4), (True, 7)])
def test_the_adapter_is_kept_by_the_metric_that_the_recipe_names(begin: Begin, tmp_path: Path, lower: bool, best: int) -> None:
    trained = run(examined(begin, tmp_path, Exam(RISING_AND_FALLING, lower)))
    told = events(tmp_path, "validated")
    assert [event["metrics"] for event in told] == [{"accuracy": figure, "other": 1.0} for figure in RISING_AND_FALLING]
    assert [event["step"] for event in told if event["best"]][-1] == best
    assert trained.kept == {"name": "accuracy", "value": RISING_AND_FALLING[best - 1], "step": best}
    assert trained.valid_loss == told[best - 1]["valid_loss"], "the loss of what is kept"
    assert checkpoints(tmp_path) == [f"step-{best:06d}", "step-000008"]
    assert adapter(tmp_path) == (tmp_path / "checkpoints" / f"step-{best:06d}" / "adapter_model.safetensors").read_bytes()


def test_it_stops_early_by_the_metric_too(begin: Begin, tmp_path: Path) -> None:
    trained = run(examined(begin, tmp_path, Exam(RISING_AND_FALLING), early_stopping=StoppingSpec(patience=2)))
    assert (trained.stopped, trained.steps, trained.kept) == ("early", 6, {"name": "accuracy", "value": 0.7, "step": 4})
    patient = StoppingSpec(patience=2, min_delta=0.25)  # 0.5 is better than 0.2 by that, 0.7 than 0.5 is not
    trained = run(examined(begin, tmp_path / "patient", Exam(RISING_AND_FALLING), early_stopping=patient))
    assert (trained.stopped, trained.steps) == ("early", 4)


def test_a_metric_that_is_not_known_is_never_the_best(begin: Begin, tmp_path: Path) -> None:
    trained = run(examined(begin, tmp_path, Exam([float("nan"), 0.1] * 4)))
    assert trained.kept == {"name": "accuracy", "value": 0.1, "step": 2}


def test_where_the_loss_decides_nobody_is_examined(begin: Begin, tmp_path: Path) -> None:
    exam = Exam(RISING_AND_FALLING)
    trained = run(examined(begin, tmp_path, exam, keep="valid_loss", sample_every=3))
    assert exam.asked == [] and exam.sampled == [3, 6]
    losses = [event["valid_loss"] for event in events(tmp_path, "validated")]
    assert trained.kept == {"name": "valid_loss", "value": min(losses), "step": losses.index(min(losses)) + 1}
    told = events(tmp_path, "samples")
    assert [event["step"] for event in told] == [3, 6] and told[0]["rows"] == exam.samples()


def test_with_a_metric_samples_and_replay_a_resume_ends_in_the_same_bytes(begin: Begin, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"epochs": 4, "validate_every": 1, "checkpoint_every": 2, "keep": "accuracy", "sample_every": 2}

    def go(folder: Path, until: int | None) -> Trained:
        exam = Exam(RISING_AND_FALLING)
        exam.training, _ = begin(folder, lessons(8), lessons(4, 1), exam=exam, replay=general(), **settings)
        exam.training.resume()
        return run(exam.training, until)

    whole = go(tmp_path / "whole", None)
    for stop in (1, 3, 4, 6):
        assert go(tmp_path / "parts", stop).stopped == "interrupted"
    assert replace(go(tmp_path / "parts", None), seconds=0) == replace(whole, seconds=0)
    assert adapter(tmp_path / "parts") == adapter(tmp_path / "whole")
    for file in ("adapter_model.safetensors", "optimizer.safetensors"):
        ours, theirs = (tmp_path / name / "checkpoints" / "step-000008" / file for name in ("parts", "whole"))
        assert ours.read_bytes() == theirs.read_bytes()


# general data beside the task's


def general(share: float = 0.5) -> Replay:
    generator = np.random.default_rng(11)
    rows = [plain.random_row(generator, f"replay:{i}", 3 + i) for i in range(3)]
    ones = [replace(row, weight=np.ones(len(row.targets), np.float32)) for row in rows]
    return Replay(ones, np.array([50, 51], np.int32), [], share, seed=5)


def test_general_rows_are_learned_in_every_step_and_their_loss_is_told_apart(begin: Begin, tmp_path: Path) -> None:
    train = lessons(8)
    training, told = begin(tmp_path, train, lessons(3, 1), replay=general(), epochs=2)
    steps: list[Step] = []
    update = told.update
    told.update = lambda groups, **settings: steps.append(update(groups, **settings)) or steps[-1]  # type: ignore[method-assign, func-returns-value]
    trained = run(training)
    own: list[LossSum] = []
    for (groups, _), step, event in zip(told.updates, steps, events(tmp_path, "step"), strict=True):
        extra = [row for group in groups for row in group.rows if row.id.startswith("replay:")]
        assert len(extra) == 4 and {tuple(group.prefix.tolist()) for group in groups if group.rows[0] in extra} == {(50, 51)}
        assert event["loss"] == pytest.approx(step.loss.mean, rel=1e-12), "of all rows"
        apart = sum((step.row_losses[row.id] for row in extra), LossSum())
        assert event["replay_loss"] == pytest.approx(apart.mean, rel=1e-12)
        own.append(sum((loss for name, loss in step.row_losses.items() if not name.startswith("replay:")), LossSum()))
        assert len(step.row_losses) == 8
    weights = [
        sum(float(row.weight.sum()) for group in groups for row in group.rows if row.id[:7] == "replay:") for groups, _ in told.updates
    ]
    mean = float(np.mean([lesson.row.weight.sum() for lesson in train]))
    assert np.mean(weights) == pytest.approx(4 * mean, rel=0.3), "as much as the task's rows"
    assert trained.train_loss == pytest.approx(sum(own[2:], LossSum()).mean, rel=1e-9), "to be compared with the validation's"
    assert training.position.rows == 32
