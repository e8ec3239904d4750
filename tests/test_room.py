"""A training that cannot fit is not begun: what fits is said, and is true; activations are computed again exactly where that is needed."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from mlx_distill.backends.base import Backend
from mlx_distill.data.batches import groups
from mlx_distill.errors import DoesNotFit
from mlx_distill.observe.progress import Progress
from mlx_distill.records import Group, Ids, LossSum
from mlx_distill.training.validation import LOSS, Validation
from mlx_distill.workflows.learning import _shape
from mlx_distill.workflows.preparation import Prepared
from mlx_distill.workflows.room import PROCESS, Room, room
from mlx_distill.workflows.setting import Setting
from tests.backends import plain
from tests.students import call, recipe, tiny_base, water, write_lines

ALWAYS, NEVER = ("--set", "train.checkpoint_activations=always"), ("--set", "train.checkpoint_activations=never")


class Place:
    """A recipe of batches of 8 rows over a tiny base of 12 layers, and the room for it under other settings."""

    def __init__(self, folder: Path, backend: Backend):
        self.backend, self.base = backend, tiny_base(folder, num_hidden_layers=12)
        rows = [row | {"text": f"{row['text']} " * (1 + i % 7)} for i, row in enumerate(water())]
        write_lines(folder / "rows.jsonl", rows)
        self.recipe = recipe(folder / "recipe.yaml", train={"batch_size": 8})
        self._setting = Setting(progress=Progress(quiet=True), cache=folder / "cache")

    def prepared(self, *sets: str) -> Prepared:
        loaded = self._setting.load(self.recipe, [value for value in sets if value != "--set"])
        assert loaded.recipe is not None, loaded.problems
        prepared = Prepared.of(loaded.recipe)
        prepared.read(self.base)
        return prepared

    def room(self, *sets: str, limit: int | None = None) -> Room:
        prepared = self.prepared(*sets, *([f"train.memory_limit={limit / 2**30:.12f}"] if limit is not None else []))
        lora = prepared.recipe.lora
        return room(prepared.recipe, prepared, self.base, self.backend, None if lora is None else _shape(lora, self.base))

    def refused(self, *sets: str, limit: int) -> DoesNotFit:
        with pytest.raises(DoesNotFit) as caught:
            self.room(*sets, limit=limit)
        return caught.value


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, backend: Backend) -> Place:
    return Place(tmp_path_factory.mktemp("room"), backend)


def test_activations_are_computed_again_exactly_where_that_is_needed(place: Place) -> None:
    kept, again = place.room(*NEVER).memory.total, place.room(*ALWAYS).memory.total
    assert again < 0.7 * kept
    for limit, recompute in ((kept + 100, False), (kept - 100, True), (again + 100, True)):
        found = place.room(limit=limit)
        assert (found.recompute, found.memory.total) == (recompute, again if recompute else kept)
        assert found.limit == pytest.approx(limit, abs=2)
    assert not place.room().recompute and place.room(*ALWAYS).recompute and not place.room(*NEVER).recompute
    place.refused(limit=again - 100)
    place.refused(*NEVER, limit=kept - 100)


def test_what_is_foretold_is_said_with_what_there_is(place: Place) -> None:
    found = place.room(limit=1 << 30)
    assert re.fullmatch(r"memory: about \d+ MiB at the peak, of 1.00 GiB", found.foretold())
    assert found.foretold() + "; activations are computed again in the backward pass" == replace(found, recompute=True).foretold()
    assert found.came(5 << 20).startswith("memory: 5 MiB at the peak; ")
    assert replace(found, counted=False).came(5 << 20).startswith("memory: the process grew by 5 MiB at the peak, ")


def test_without_a_limit_the_machine_s_memory_is_shared_with_the_process(place: Place) -> None:
    assert place.room().limit == place.backend.machine().memory - PROCESS


@pytest.mark.parametrize("sets", [(), NEVER, ALWAYS, ("--set", "lora.layers=last 2"), ("--set", "lora=none")], ids=str)
def test_what_is_said_to_fit_fits(place: Place, sets: tuple[str, ...]) -> None:
    """Down to where a single row does not."""
    alone = place.room(*sets, *ALWAYS, "--set", "train.batch_size=1").memory.total
    whole = place.room(*sets).memory.total
    followed = set()
    for limit in np.linspace(alone + 100, whole - 100, 7).astype(int).tolist():
        try:
            place.room(*sets, limit=limit)
        except DoesNotFit as error:
            said = re.findall(r"(--set) (\S+)", error.hint or "")
            assert said, error.hint
            found = place.room(*sets, *(word for pair in said for word in pair), limit=limit)
            assert found.memory.total <= limit
            followed.add(error.hint)
    assert followed or "lora.layers=last 2" in sets or "lora=none" in sets
    assert "a single row needs" in str(place.refused(*sets, limit=alone - 1000).hint)


def test_fewer_rows_at_a_time_make_the_same_steps(place: Place) -> None:
    hint = place.refused(limit=place.room(*ALWAYS).memory.total - 100).hint or ""
    (rows, times) = map(int, re.findall(r"train\.(?:batch_size|accumulate)=(\d+)", hint))
    assert rows < 8 <= rows * times < 8 + rows


def test_a_command_that_cannot_fit_begins_nothing(place: Place, tmp_path: Path) -> None:
    done = call("train", place.recipe, "--out", tmp_path / "run", "--set", "train.memory_limit=0.001", "--json")
    assert done.code == 2, done
    error = json.loads(done.out)["error"]
    assert error["kind"] == "DoesNotFit" and "train.memory_limit is 1 MiB" in error["message"] and error["hint"]
    left = [path.name for path in (tmp_path / "run").rglob("*")] if (tmp_path / "run").exists() else []
    assert not {"recipe.lock.yaml", "events.jsonl", "adapter", "checkpoints", "split.json"} & set(left), left


# validation


class Watched:
    """A student that notes how many tokens it was given at a time."""

    def __init__(self) -> None:
        self.given: list[int] = []

    def loss(self, made: list[Group]) -> dict[str, LossSum]:
        self.given.append(sum(len(row.tokens) for group in made for row in group.rows))
        return {row.id: LossSum(1.0, 1.0) for group in made for row in group.rows}


@pytest.mark.parametrize("tokens", [100, 1000, 1 << 30])
def test_validation_forwards_at_most_twice_what_a_micro_batch_holds(place: Place, tokens: int) -> None:
    prepared, student = place.prepared(), Watched()
    rows = [*prepared.lessons["train"].rows, *prepared.lessons["valid"].rows] * 20
    longest = max(len(lesson.row.tokens) for lesson in rows)
    Validation(student, rows, prepared.prompt.prefix, keep=LOSS, tokens=tokens).measure()  # type: ignore[arg-type]
    assert sum(student.given) == sum(len(lesson.row.tokens) for lesson in rows)
    assert max(student.given) <= max(longest, min(2 * tokens, 16384))
    assert max(student.given) > 0.6 * min(2 * tokens, 16384), "and not much less"


def test_a_validation_needs_no_more_memory_than_a_step_that_computes_activations_again(place: Place) -> None:
    prepared = place.prepared()
    prefix: Ids = prepared.prompt.prefix
    rows = sorted(prepared.lessons["train"].rows, key=lambda lesson: -len(lesson.row.tokens))
    student = place.backend.open(place.base)
    student.prepare(plain.shape_of(), optimizer="adamw", weight_decay=0.0, initial=None, seed=0, recompute=True)
    step = groups([rows[:8]], prefix)
    student.update(step, learning_rate=1e-4, clip_norm=1.0, step=0)
    mx.reset_peak_memory()
    student.update(step, learning_rate=1e-4, clip_norm=1.0, step=1)
    trained = student.peak_memory()
    mx.reset_peak_memory()
    tokens = sum(len(lesson.row.tokens) for lesson in rows[:8])
    Validation(student, rows * 3, prefix, keep=LOSS, tokens=tokens).measure()
    assert student.peak_memory() <= 1.05 * trained, (student.peak_memory(), trained)
