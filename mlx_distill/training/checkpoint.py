"""A training's position on disk: a folder that is there whole or not at all.

    checkpoints/step-000120/    adapter and optimizer (the backend's), position.json (ours)

It knows folders and JSON; what the weights are is the student's business.
"""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mlx_distill.backends.base import Student
from mlx_distill.errors import CheckpointError
from mlx_distill.files import atomic_folder, write_json

_NAME = re.compile(r"step-(\d{6,})")


@dataclass(slots=True)
class Position:
    """After `step` steps. What follows from seed and step (batches, dropout, learning rate) is not stored."""

    step: int = 0
    stopping: dict[str, Any] = field(default_factory=dict)
    nats: float = 0.0
    weight: float = 0.0
    """Weighted nats, and their weight, of the steps since the last validation."""
    skipped: int = 0
    """Steps in a row that were not applied."""
    tokens: int = 0
    seconds: float = 0.0
    last_train: float | None = None
    last_valid: float | None = None
    finished: str | None = None
    """done, or early; None while there is more to do."""


def save(folder: Path, student: Student, position: Position) -> Path:
    """Write checkpoints/step-N whole; one that is there already stays."""
    path = folder / f"step-{position.step:06d}"
    if not path.exists():
        with atomic_folder(path) as staging:
            student.save_state(staging)
            write_json(staging / "position.json", asdict(position))
    return path


def latest(folder: Path) -> Path | None:
    """The checkpoint with the most steps."""
    return max(checkpoints(folder), key=lambda path: int(path.name[5:]), default=None)


def load(path: Path, student: Student) -> Position:
    try:
        position = Position(**json.loads((path / "position.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise CheckpointError(
            f"the checkpoint cannot be read: {error}", file=path, hint="delete this folder: the one before it goes on"
        ) from None
    student.load_state(path)
    return position


def prune(folder: Path, keep: set[int]) -> None:
    """Delete all checkpoints but those of the steps in `keep`."""
    for path in checkpoints(folder):
        if int(path.name[5:]) not in keep:
            shutil.rmtree(path, ignore_errors=True)


def checkpoints(folder: Path) -> list[Path]:
    return [path for path in folder.glob("step-*") if _NAME.fullmatch(path.name)] if folder.is_dir() else []
