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

POSITION = "position.json"
WAY_OUT = "delete this checkpoint's folder: the one before it goes on, or else training begins anew"
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
    """Write checkpoints/step-N whole. Of one that is there already the weights are the same, and only the position is written anew."""
    path = folder / f"step-{position.step:06d}"
    if path.exists():
        write_json(path / POSITION, asdict(position))
        return path
    with atomic_folder(path) as staging:
        student.save_state(staging)
        write_json(staging / POSITION, asdict(position))
    return path


def latest(folder: Path) -> Path | None:
    """The checkpoint with the most steps."""
    return max(checkpoints(folder), key=lambda path: int(path.name[5:]), default=None)


def load(path: Path, student: Student) -> Position:
    """Put a checkpoint's weights and optimizer into the student. Raises CheckpointError where it is damaged."""
    try:
        position = Position(**json.loads((path / POSITION).read_text(encoding="utf-8")))
        student.load_state(path)
    except (OSError, ValueError, TypeError) as error:
        raise CheckpointError(f"the checkpoint cannot be read: {error}", file=path, hint=WAY_OUT) from None
    except CheckpointError as error:
        raise CheckpointError(error.message, file=error.file, hint=WAY_OUT) from None
    return position


def prune(folder: Path, keep: set[int]) -> None:
    """Delete all checkpoints but those of the steps in `keep`."""
    for path in checkpoints(folder):
        if int(path.name[5:]) not in keep:
            shutil.rmtree(path, ignore_errors=True)


def checkpoints(folder: Path) -> list[Path]:
    return [path for path in folder.glob("step-*") if _NAME.fullmatch(path.name)] if folder.is_dir() else []
