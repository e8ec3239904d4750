"""A checkpoint is there whole or not at all, goes on where it was, and says the way out where it is damaged."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mlx_distill.backends.base import Backend, LoraShape
from mlx_distill.errors import CheckpointError
from mlx_distill.files import sweep
from mlx_distill.training import checkpoint
from mlx_distill.training.checkpoint import Position
from tests.conftest import MakeBase

POSITION = Position(step=7, stopping={"best": 1.5, "step": 5, "waited": 1, "bar": 1.5}, nats=3.25, weight=9.0, tokens=40, kept_loss=1.75)


@pytest.fixture
def student(backend: Backend, base: MakeBase) -> Any:
    student = backend.open(base(num_hidden_layers=1))
    student.prepare(LoraShape(2, 4, 0.0, ("q_proj",)), optimizer="adamw", weight_decay=0.0, initial=None, seed=0)
    return student


def resumed(folder: Path, student: Any) -> Position:
    found = checkpoint.resume(folder, student)
    assert found is not None and found.damaged == []
    return found.position


def weights(student: Any, folder: Path) -> bytes:
    student.save_adapter(folder)
    return (folder / "adapter_model.safetensors").read_bytes()


def test_a_position_comes_back_as_it_was(student: Any, tmp_path: Path) -> None:
    path = checkpoint.save(tmp_path, student, POSITION)
    assert path.name == "step-000007"
    assert sorted(file.name for file in path.iterdir()) == [
        "adapter_config.json", "adapter_model.safetensors", "optimizer.safetensors", "position.json",
    ]  # fmt: skip
    assert resumed(tmp_path, student) == POSITION
    assert [path.name for path in tmp_path.iterdir()] == ["step-000007"], "nothing else is left behind"


def test_the_one_with_the_most_steps_goes_on_whatever_else_lies_there(student: Any, tmp_path: Path) -> None:
    assert checkpoint.resume(tmp_path / "nowhere", student) is None
    assert checkpoint.resume(tmp_path, student) is None
    for step in (9, 1_000_000, 120):
        checkpoint.save(tmp_path, student, Position(step=step))
    for name in (".step-2000000.partial", "step-x", "step-12"):
        (tmp_path / name).mkdir()
    assert resumed(tmp_path, student).step == 1_000_000


def test_pruning_keeps_what_it_is_told_and_touches_nothing_foreign(tmp_path: Path) -> None:
    for name in ("step-000005", "step-000010", "step-000015", "notes", "step-12"):
        (tmp_path / name).mkdir()
    checkpoint.prune(tmp_path, {15, 5, -1})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["notes", "step-000005", "step-000015", "step-12"]


def test_saved_again_the_weights_stay_and_the_position_is_new(student: Any, tmp_path: Path) -> None:
    path = checkpoint.save(tmp_path, student, POSITION)
    before = {file.name: file.stat().st_ino for file in path.iterdir()}
    checkpoint.save(tmp_path, student, Position(step=7, finished="done"))
    assert resumed(tmp_path, student) == Position(step=7, finished="done")
    assert {name for name, inode in before.items() if (path / name).stat().st_ino != inode} == {"position.json"}


def test_a_failure_while_saving_leaves_nothing(student: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(folder: Path) -> None:
        (folder / "half.safetensors").write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(student, "save_state", fails)
    with pytest.raises(KeyboardInterrupt):
        checkpoint.save(tmp_path, student, POSITION)
    assert list(tmp_path.iterdir()) == []


def flip(path: Path, at: int) -> None:
    """One bit, as a disk may do it."""
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


DAMAGE: list[tuple[str, Callable[[Path], Any]]] = [
    ("position.json", lambda path: path.write_text("{")),
    ("position.json", lambda path: path.write_text("null")),
    ("position.json", lambda path: path.write_text(json.dumps({"step": 7}))),
    ("position.json", lambda path: path.write_bytes(b"")),
    ("position.json", lambda path: path.write_text(path.read_text().replace('"tokens": 40', '"tokens": 41'))),
    ("position.json", lambda path: path.unlink()),
    ("adapter_model.safetensors", lambda path: path.write_bytes(path.read_bytes()[:-4])),
    ("adapter_model.safetensors", lambda path: flip(path, -1)),
    ("adapter_config.json", lambda path: path.write_text("[]")),
    ("optimizer.safetensors", lambda path: path.write_bytes(b"")),
    ("optimizer.safetensors", lambda path: flip(path, -100)),
    ("optimizer.safetensors", lambda path: path.unlink()),
]


@pytest.mark.parametrize(("file", "damage"), DAMAGE)
def test_damage_is_named_with_the_place_and_a_way_out(student: Any, tmp_path: Path, file: str, damage: Callable[[Path], Any]) -> None:
    path = checkpoint.save(tmp_path, student, POSITION)
    damage(path / file)
    with pytest.raises(CheckpointError) as caught:
        checkpoint.resume(tmp_path, student)
    assert file in caught.value.message
    assert "step-000007" in str(caught.value.file) and "delete this checkpoint's folder" in str(caught.value.hint)


@pytest.mark.parametrize(("file", "damage"), DAMAGE)
def test_the_one_before_goes_on_instead_of_a_damaged_one(student: Any, tmp_path: Path, file: str, damage: Callable[[Path], Any]) -> None:
    checkpoint.save(tmp_path, student, Position(step=5))
    damage(checkpoint.save(tmp_path, student, POSITION) / file)
    found = checkpoint.resume(tmp_path, student)
    assert found is not None and found.position == Position(step=5)
    (why,) = found.damaged
    assert "step-000007" in why and file in why
    checkpoint.save(tmp_path, student, POSITION)  # when the same step is reached again
    assert resumed(tmp_path, student) == POSITION
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-000005", "step-000007"]


def test_a_disk_that_cannot_be_read_is_no_damage_and_throws_nothing_away(student: Any, tmp_path: Path) -> None:
    checkpoint.save(tmp_path, student, Position(step=5))
    file = checkpoint.save(tmp_path, student, POSITION) / "optimizer.safetensors"
    file.unlink()
    file.mkdir()  # reading it is an OSError, for root too
    with pytest.raises(CheckpointError, match=r"optimizer\.safetensors: cannot be read") as caught:
        checkpoint.resume(tmp_path, student)
    assert caught.value.hint


def test_a_checkpoint_of_another_adapter_is_refused_not_passed_over(student: Any, backend: Backend, base: MakeBase, tmp_path: Path) -> None:
    other = backend.open(base(num_hidden_layers=1))
    other.prepare(LoraShape(3, 4, 0.0, ("q_proj",)), optimizer="adamw", weight_decay=0.0, initial=None, seed=0)
    checkpoint.save(tmp_path, student, Position(step=5))
    checkpoint.save(tmp_path, other, POSITION)
    with pytest.raises(CheckpointError, match="step-000007"):
        checkpoint.resume(tmp_path, student)


def test_the_best_adapter_is_given_back_where_a_kill_left_a_later_one(
    student: Any, backend: Backend, base: MakeBase, tmp_path: Path
) -> None:
    best, later = weights(student, tmp_path / "adapter"), backend.open(base(num_hidden_layers=1))
    path = checkpoint.save(tmp_path, student, POSITION)
    later.prepare(LoraShape(2, 4, 0.0, ("q_proj",)), optimizer="adamw", weight_decay=0.0, initial=None, seed=1)
    assert weights(later, tmp_path / "adapter") != best
    (tmp_path / "adapter" / "adapter_config.json").unlink()
    checkpoint.restore(tmp_path, 7, tmp_path / "adapter")
    assert {file.name: file.read_bytes() == (path / file.name).read_bytes() for file in (tmp_path / "adapter").iterdir()} == {
        "adapter_model.safetensors": True, "adapter_config.json": True,
    }  # fmt: skip


def test_nothing_is_given_back_from_a_checkpoint_that_is_damaged_or_gone(student: Any, tmp_path: Path) -> None:
    kept = weights(student, tmp_path / "adapter")
    flip(checkpoint.save(tmp_path, student, POSITION) / "adapter_model.safetensors", -1)
    for step in (7, 5, -1):
        checkpoint.restore(tmp_path, step, tmp_path / "adapter")
    assert (tmp_path / "adapter" / "adapter_model.safetensors").read_bytes() == kept


def test_a_pruned_checkpoint_is_gone_at_once(student: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Never is there a half of it that a resume could take for a damaged one."""
    checkpoint.save(tmp_path, student, POSITION)

    def killed(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "unlink", killed)
    with pytest.raises(KeyboardInterrupt):
        checkpoint.prune(tmp_path, set())
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(".")
    monkeypatch.undo()
    sweep(tmp_path)
    assert list(tmp_path.iterdir()) == []
