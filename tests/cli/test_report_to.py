"""--report-to on the commands that train."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.students import call


@pytest.mark.parametrize("command", ["train", "run"])
def test_help_names_the_trackers_with_an_example(command: str) -> None:
    said = call(command, "--help").out
    assert "--report-to NAME" in said
    assert "mlflow|tensorboard|wandb" in said
    assert f"mlx-distill {command} " in next(line for line in said.splitlines() if "--report-to" in line)


def test_a_tracker_that_there_is_not_is_exit_2(fresh: Path, tmp_path: Path) -> None:
    called = call("train", fresh, "--out", tmp_path / "run", "--report-to", "wandbb")
    assert (called.code, called.out) == (2, "")
    assert "'wandbb' is not one of 'mlflow', 'tensorboard', 'wandb'" in called.err


def test_a_missing_library_is_said_before_anything_is_done(fresh: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    called = call("train", fresh, "--out", tmp_path / "run", "--report-to", "wandb", "--json")
    assert called.code == 2
    assert called.document["error"]["hint"] == "pip install 'mlx-distill[wandb]'"
    assert not (tmp_path / "run").exists()


def test_a_training_that_goes_on_stands_in_tensorboard_as_one(fresh: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    words = ("train", fresh, "--out", tmp_path / "run", "--report-to", "tensorboard", "--json")
    first = call(*words)
    assert (first.code, first.err) == (0, ""), "with --json nothing is said of how it goes"
    assert call(*words, "--resume", "--set", "train.epochs=3").code == 0
    held = EventAccumulator(str(tmp_path / "run" / "tensorboard"), size_guidance={"scalars": 0})
    held.Reload()
    steps = [event.step for event in held.Scalars("train/loss")]
    assert steps == list(range(1, len(steps) + 1))
    assert len(steps) == first.document["steps"] * 3 // 2
