"""A checkpoint is there whole or not at all, goes on where it was, and says the way out where it is damaged."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mlx_distill.backends.base import Backend, LoraShape
from mlx_distill.errors import CheckpointError
from mlx_distill.training import checkpoint
from mlx_distill.training.checkpoint import Position
from tests.conftest import MakeBase

POSITION = Position(step=7, stopping={"best": 1.5, "step": 5, "waited": 1, "bar": 1.5}, nats=3.25, weight=9.0, tokens=40, last_valid=1.75)


@pytest.fixture
def student(backend: Backend, base: MakeBase) -> Any:
    student = backend.open(base(num_hidden_layers=1))
    student.prepare(LoraShape(2, 4, 0.0, ("q_proj",)), optimizer="adamw", weight_decay=0.0, initial=None, seed=0)
    return student


def test_a_position_comes_back_as_it_was(student: Any, tmp_path: Path) -> None:
    path = checkpoint.save(tmp_path, student, POSITION)
    assert path.name == "step-000007"
    assert sorted(file.name for file in path.iterdir()) == [
        "adapter_config.json", "adapter_model.safetensors", "optimizer.safetensors", "position.json",
    ]  # fmt: skip
    assert checkpoint.load(path, student) == POSITION
    assert [path.name for path in tmp_path.iterdir()] == ["step-000007"], "nothing else is left behind"


def test_the_latest_has_the_most_steps_whatever_else_lies_there(student: Any, tmp_path: Path) -> None:
    assert checkpoint.latest(tmp_path / "nowhere") is None
    assert checkpoint.latest(tmp_path) is None
    for name in ("step-000009", "step-1000000", "step-000120", ".step-2000000.partial", "step-x", "step-12"):
        (tmp_path / name).mkdir()
    latest = checkpoint.latest(tmp_path)
    assert latest is not None and latest.name == "step-1000000"


def test_pruning_keeps_what_it_is_told_and_touches_nothing_foreign(tmp_path: Path) -> None:
    for name in ("step-000005", "step-000010", "step-000015", "notes", "step-12"):
        (tmp_path / name).mkdir()
    checkpoint.prune(tmp_path, {15, 5, -1})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["notes", "step-000005", "step-000015", "step-12"]


def test_saved_again_the_weights_stay_and_the_position_is_new(student: Any, tmp_path: Path) -> None:
    path = checkpoint.save(tmp_path, student, POSITION)
    before = {file.name: file.stat().st_ino for file in path.iterdir()}
    checkpoint.save(tmp_path, student, Position(step=7, finished="done"))
    assert checkpoint.load(path, student) == Position(step=7, finished="done")
    assert {name for name, inode in before.items() if (path / name).stat().st_ino != inode} == {"position.json"}


def test_a_failure_while_saving_leaves_nothing(student: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(folder: Path) -> None:
        (folder / "half.safetensors").write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(student, "save_state", fails)
    with pytest.raises(KeyboardInterrupt):
        checkpoint.save(tmp_path, student, POSITION)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("file", "damage"),
    [
        ("position.json", lambda path: path.write_text("{")),
        ("position.json", lambda path: path.write_text("null")),
        ("position.json", lambda path: path.write_text(json.dumps({"step": 7, "unknown": 1}))),
        ("position.json", lambda path: path.unlink()),
        ("adapter_model.safetensors", lambda path: path.write_bytes(path.read_bytes()[:-4])),
        ("adapter_config.json", lambda path: path.write_text("[]")),
        ("optimizer.safetensors", lambda path: path.write_bytes(b"")),
        ("optimizer.safetensors", lambda path: path.unlink()),
    ],
)
def test_damage_is_named_with_the_place_and_a_way_out(student: Any, tmp_path: Path, file: str, damage: Callable[[Path], Any]) -> None:
    path = checkpoint.save(tmp_path, student, POSITION)
    damage(path / file)
    with pytest.raises(CheckpointError) as caught:
        checkpoint.load(path, student)
    assert "step-000007" in str(caught.value.file) and "delete this checkpoint's folder" in str(caught.value.hint)
