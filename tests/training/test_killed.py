"""Killed between any two things that it does to the disk, a training leaves a folder that is whole, and goes on to the same bytes.

The real command runs once, in this process, and before each call that changes the disk (and in the middle of some lines of events) the
folder is looked at: that is what a SIGKILL at that moment would leave. Every state that differs from the one before is checked, and gone
on with by the real command. What is hidden is not whole yet: how far it is does not matter, that it is there does.
"""

from __future__ import annotations

import errno
import os
import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from mlx_distill import files
from mlx_distill.observe import events
from tests.checkpoints import make_checkpoint
from tests.runs import differences, faults, leftovers, newest, story
from tests.students import Called, call, class_of, recipe, water, write_lines

CALLS = ("open", "fsync", "replace", "rename", "mkdir", "unlink", "rmdir", "ftruncate")


@dataclass
class States:
    """Folders as a kill would have left them, each under what distinguishes it from the others."""

    folder: Path
    kept: Path
    seen: dict[tuple[Any, ...], Path] = field(default_factory=dict)
    calls: int = 0
    lines: int = 0
    looking: bool = False

    def look(self) -> None:
        if self.looking:
            return
        self.looking, self.calls = True, self.calls + 1
        self._look()
        self.looking = False

    def _look(self) -> None:
        paths = sorted(self.folder.rglob("*"))
        hidden = {path.parent for path in paths if path.name.startswith(".mlx-distill.")}
        visible = [path for path in paths if not any(part.startswith(".") for part in path.relative_to(self.folder).parts)]
        key = (tuple((path, path.is_file() and path.read_bytes()) for path in visible), frozenset(hidden))
        if key not in self.seen:
            self.seen[key] = Path(shutil.copytree(self.folder, self.kept / f"{len(self.seen):03}"))

    def watch(self, patch: pytest.MonkeyPatch) -> None:
        for name in CALLS:
            patch.setattr(os, name, self._after_a_look(getattr(os, name)))
        patch.setattr(events, "append_line", self._torn)

    def _after_a_look(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def looked(*arguments: Any, **named: Any) -> Any:
            self.look()
            return call(*arguments, **named)

        return looked

    def _torn(self, file: Any, line: bytes) -> None:
        """Before every line, and in the middle of every fourth."""
        self.look()
        self.lines += 1
        if self.lines % 4 == 1:
            files.append_line(file, line[: len(line) // 2])
            self.look()
            file.truncate(os.fstat(file.fileno()).st_size - len(line) // 2)
        files.append_line(file, line)


@pytest.fixture(scope="module", autouse=True)
def _fast(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A cache of its own; and no waiting for the disk, whose moods a process that is killed does not know (tests/test_files.py does)."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLX_DISTILL_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """recipe.yaml: 4 steps, validated after 2 and 4; checkpoints after 2 (a best one), 3 and 4, of which some are pruned."""
    folder = tmp_path_factory.mktemp("place")
    make_checkpoint(folder / "checkpoint", num_hidden_layers=1, hidden_size=32, intermediate_size=32)
    write_lines(folder / "rows.jsonl", water(8))
    train = {"epochs": 2, "batch_size": 2, "accumulate": 1, "checkpoint_every": 3, "validate_every": 2}
    return recipe(folder / "recipe.yaml", base={"model": "checkpoint"}, lora={"rank": 2, "targets": ["q_proj"]}, train=train).parent


def train(place: Path, run: Path, *more: object) -> Called:
    return call("train", place / "recipe.yaml", "--out", run, "--resume", *more)


@pytest.fixture(scope="module")
def whole(place: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that nobody disturbed."""
    run = tmp_path_factory.mktemp("whole") / "run"
    assert train(place, run).code == 0
    assert (faults(run), leftovers(run)) == ([], [])
    return run


@pytest.fixture(scope="module")
def killed(place: Path, whole: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Every state of a folder in which `run` is trained from nothing to its end, in their order. Not to be changed."""
    folder = tmp_path_factory.mktemp("killed")
    (folder / "now").mkdir()
    found = States(folder / "now", folder / "states")
    with pytest.MonkeyPatch.context() as patch:
        found.watch(patch)
        assert train(place, folder / "now" / "run").code == 0
    assert differences(folder / "now" / "run", whole) == [], "being looked at changes nothing"
    assert found.calls > 150 and len(found.seen) > 30, "else nobody was looking"
    return list(found.seen.values())


def lines(run: Path) -> list[dict[str, Any]]:
    return list(events.read_events(run / "events.jsonl")) if (run / "events.jsonl").exists() else []


def assert_same_end(run: Path, whole: Path, done: Called) -> None:
    assert (done.code, faults(run), leftovers(run), differences(run, whole)) == (0, [], [], []), done.err


def test_killed_at_any_moment_it_leaves_a_whole_folder_and_ends_in_the_same_bytes(
    place: Path, whole: Path, killed: list[Path], tmp_path: Path
) -> None:
    for state in killed:
        run = Path(shutil.copytree(state, tmp_path / state.name)) / "run"
        assert faults(run) == []
        assert_same_end(run, whole, train(place, run))


def test_every_step_is_told_once_and_in_order_however_often_it_was_computed(place: Path, whole: Path, killed: list[Path]) -> None:
    """`story` is compared byte for byte in the test above; this says what it is."""
    told = story(whole)
    assert [event["step"] for event in told if event["name"] == "step"] == [1, 2, 3, 4]
    assert [event["step"] for event in told if event["name"] == "validated"] == [2, 4]
    assert [event["name"] for event in told][-1] == "trained"
    late = [state for state in killed if (found := newest(state / "run")) and lines(state / "run")[-1].get("step", 0) > int(found.name[5:])]
    assert len(late) > 3, "some were killed when more had been told than the last checkpoint knows"


def newer_adapter(killed: list[Path]) -> Path:
    """Killed when a later adapter than the last checkpoint's best lay there already."""
    for state in reversed(killed):
        found = newest(state / "run")
        if found and found.name == "step-000003":
            return state
    raise AssertionError("no run was killed between the last two checkpoints")


def adapter(folder: Path) -> bytes:
    return (folder / "adapter_model.safetensors").read_bytes()


def test_killed_while_it_goes_on_with_more_epochs_it_still_ends_in_the_same_bytes(place: Path, killed: list[Path], tmp_path: Path) -> None:
    """More epochs are another schedule: what was learned after the last checkpoint does not come again, nor does its adapter."""
    before = newer_adapter(killed)
    more = ("--set", "train.epochs=3")
    undisturbed = Path(shutil.copytree(before, tmp_path / "undisturbed")) / "run"
    best = adapter(undisturbed / "checkpoints" / "step-000002")
    assert adapter(undisturbed / "adapter") != best
    assert train(place, undisturbed, *more).code == 0
    assert [event["step"] for event in story(undisturbed) if event["name"] == "step"] == [1, 2, 3, 4, 5, 6]

    found = States(Path(shutil.copytree(before, tmp_path / "now")), tmp_path / "states")
    with pytest.MonkeyPatch.context() as patch:
        found.watch(patch)
        patch.setattr(class_of("Student"), "update", _interrupted)  # until it goes on: after that it is as above
        assert train(place, tmp_path / "now" / "run", *more).code == 130
    assert adapter(tmp_path / "now" / "run" / "adapter") == best, "it is given back"
    assert len(found.seen) > 5
    for state in found.seen.values():
        assert faults(state / "run") == []
        assert_same_end(state / "run", undisturbed, train(place, state / "run", *more))


def _interrupted(*_: Any, **__: Any) -> Any:
    raise KeyboardInterrupt


class Breaking:
    """From the `at`-th call on that needs room on the disk, each raises `error`; the calls before are counted."""

    def __init__(self, patch: pytest.MonkeyPatch, at: int, error: BaseException):
        self.at, self.count, self._error = at, 0, error
        for place, name in ((os, "open"), (os, "mkdir"), (os, "fsync"), (events, "append_line")):
            patch.setattr(place, name, self._breaking(name, getattr(place, name)))

    def _breaking(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def broken(*arguments: Any, **named: Any) -> Any:
            if name == "open" and not arguments[1] & os.O_CREAT:
                return call(*arguments, **named)
            self.count += 1
            if self.count >= self.at:
                raise self._error
            return call(*arguments, **named)

        return broken


def moments(place: Path, run: Path, number: int) -> list[int]:
    """The first and the last call that needs room, and seeded ones between."""
    with pytest.MonkeyPatch.context() as patch:
        counted = Breaking(patch, 10**9, KeyboardInterrupt())
        assert train(place, run).code == 0
    assert counted.count > 100
    return sorted({1, counted.count, *random.Random(4).sample(range(2, counted.count), number - 2)})


def broken_off(place: Path, run: Path, at: int, error: BaseException) -> Called:
    with pytest.MonkeyPatch.context() as patch:
        Breaking(patch, at, error)
        return train(place, run, "--json")


def test_a_disk_that_fills_up_is_named_and_with_room_again_it_ends_in_the_same_bytes(place: Path, whole: Path, tmp_path: Path) -> None:
    for at in moments(place, tmp_path / "counted" / "run", 9):
        run = tmp_path / str(at) / "run"
        full = broken_off(place, run, at, OSError(errno.ENOSPC, "No space left on device"))
        error = full.document["error"]
        assert (full.code, error["kind"], faults(run)) == (2, "DoesNotFit", []), full
        assert str(tmp_path / str(at)) in error["file"] and "free some space" in error["hint"] and "Traceback" not in full.err
        saved = [event for event in lines(run) if event["name"] == "checkpoint"]
        found = newest(run)
        assert not saved or (found and int(found.name[5:]) >= saved[-1]["step"]), "what was saved is still there"
        assert_same_end(run, whole, train(place, run))


def test_broken_off_by_a_second_ctrl_c_it_leaves_a_whole_folder_and_ends_in_the_same_bytes(
    place: Path, whole: Path, tmp_path: Path
) -> None:
    for at in moments(place, tmp_path / "counted" / "run", 7):
        run = tmp_path / str(at) / "run"
        stopped = broken_off(place, run, at, KeyboardInterrupt())
        assert (stopped.code, stopped.document["error"]["kind"], faults(run), leftovers(run)) == (130, "Interrupted", [], []), stopped
        assert_same_end(run, whole, train(place, run))
