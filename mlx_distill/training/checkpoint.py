"""A training's position on disk: a folder that is there whole or not at all, and that says so itself.

    checkpoints/step-000120/    adapter and optimizer (the backend's), position.json (ours)

position.json has the SHA-256 of every other file, and of itself: a disk that changes a bit, or a copy that lacks one, is noticed before
anything goes on from it. Then the checkpoint before goes on (the last and the best are kept). It knows folders and JSON; what the weights
are is the student's business.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mlx_distill.backends import full, lora
from mlx_distill.backends.base import Student
from mlx_distill.errors import CheckpointError
from mlx_distill.files import atomic_folder, copy_file, remove_folder, sha256, write_json

POSITION = "position.json"
WAY_OUT = "delete this checkpoint's folder: the one before it goes on, or else training begins anew"
ADAPTER = (lora.CONFIG, lora.WEIGHTS, full.CONFIG, full.WEIGHTS)
"""Which files of a checkpoint are the adapter's (or, without LoRA, the weights'), whatever else the backend keeps there."""
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
    """Learned, of `rows` rows."""
    rows: int = 0
    computed: int = 0
    """Tokens forwarded, of which `padded` were padding."""
    padded: int = 0
    seconds: float = 0.0
    last_train: float | None = None
    kept_loss: float | None = None
    """Validation loss of the kept adapter."""
    finished: str | None = None
    """done, or early; None while there is more to do."""


class _Damaged(Exception):
    """A checkpoint that is not what was written, and why."""


@dataclass(frozen=True, slots=True)
class Resumed:
    position: Position
    damaged: list[str]
    """Checkpoints of more steps that are not what was written: why, one each."""


def save(folder: Path, student: Student, position: Position) -> Path:
    """Write checkpoints/step-N whole. Of one that is there already the weights are the same, and only the position is written anew."""
    path = _path(folder, position.step)
    if path.exists():
        try:
            files, _ = _verified(path)
            _write_position(path, position, files)
            return path
        except _Damaged:
            remove_folder(path)  # passed over when the run was resumed from one before it
    with atomic_folder(path) as staging:
        student.save_state(staging)
        _write_position(staging, position, {file.name: sha256(file) for file in sorted(staging.iterdir())})
    return path


def resume(folder: Path, student: Student) -> Resumed | None:
    """Put the newest whole checkpoint into the student. None where there is none at all.

    Raises CheckpointError where none is whole, where it is another student's, and where the disk does not let it be read: that need not
    be damage, and what was learned since the one before is not thrown away for it.
    """
    damaged: list[CheckpointError] = []
    for path in sorted(checkpoints(folder), key=_step, reverse=True):
        try:
            position = _verified(path)[1]
            student.load_state(path)
            return Resumed(position, [f"{error.file}: {error.message}" for error in damaged])
        except _Damaged as why:
            damaged.append(CheckpointError(f"the checkpoint cannot be read: {why}", file=path, hint=WAY_OUT))
        except CheckpointError as error:
            raise CheckpointError(error.message, file=error.file, hint=WAY_OUT) from None
        except OSError as error:
            hint = "are you allowed to read it, and is its disk sound?"
            raise CheckpointError(f"cannot be read: {error.strerror}", file=error.filename or path, hint=hint) from None
    if damaged:
        raise damaged[0]
    return None


def restore(folder: Path, step: int, adapter: Path) -> None:
    """Give `adapter` the files of the checkpoint of `step`, the best.

    What was killed between two checkpoints may have left a later one there, which need not come again: with other `epochs`, say. Where
    that checkpoint is not whole, the adapter stays what it is.
    """
    path = _path(folder, step)
    try:
        files, _ = _verified(path)
    except _Damaged:
        return
    for name in (name for name in ADAPTER if name in files):
        kept = adapter / name
        if not kept.is_file() or sha256(kept) != files[name]:
            copy_file(path / name, kept)


def prune(folder: Path, keep: set[int]) -> None:
    """Delete all checkpoints but those of the steps in `keep`; each is gone at once."""
    for path in checkpoints(folder):
        if _step(path) not in keep:
            remove_folder(path)


def checkpoints(folder: Path) -> list[Path]:
    return [path for path in folder.glob("step-*") if _NAME.fullmatch(path.name)] if folder.is_dir() else []


def _path(folder: Path, step: int) -> Path:
    return folder / f"step-{step:06d}"


def _step(path: Path) -> int:
    return int(path.name[5:])


def _write_position(path: Path, position: Position, files: dict[str, str]) -> None:
    doc = {**asdict(position), "files": files}
    write_json(path / POSITION, {**doc, "sha256": _sha256_of(doc)})


def _verified(path: Path) -> tuple[dict[str, str], Position]:
    """Its files' hashes and its position. Raises _Damaged where anything in it is not what was written."""
    try:
        doc = json.loads((path / POSITION).read_text(encoding="utf-8"))
        if doc.pop("sha256") != _sha256_of(doc):
            raise _Damaged(f"{POSITION} is not what was written")
        files = doc.pop("files")
        for name, digest in files.items():
            if sha256(path / name) != digest:
                raise _Damaged(f"{name} is not what was written")
        return files, Position(**doc)
    except FileNotFoundError as error:
        raise _Damaged(f"{Path(error.filename).name} is not there") from None
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise _Damaged(f"{POSITION} is no position ({error})") from None


def _sha256_of(doc: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(doc, sort_keys=True).encode()).hexdigest()
