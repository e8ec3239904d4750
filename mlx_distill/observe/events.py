"""What happened, as one JSON line an event: name, time, and figures.

The file tells one story, that of the weights: each step stands in it once, in order. A run that was killed goes on from its last
checkpoint, and computes the steps after that again; what the file had told of them is taken out (`rewind`) before it is told again, to
the same figures, so that a curve drawn from the lines as they stand never zigzags. `resumed` marks the places, and says from which step
it went on; a subscriber that cannot forget, such as a tracker, treats what it was told of later steps as void.

An event is on the way to the disk as soon as it is emitted (a killed process loses none), and on the disk before the checkpoint is that
comes after it (nor does a power cut). It knows files and JSON, and who asked to be told; nothing of what an event means, but for `step`.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from mlx_distill.errors import DataError
from mlx_distill.files import append_line, drop_torn_line, write_bytes, writing

Event = Mapping[str, Any]
Subscriber = Callable[[Event], None]


class Events:
    """Appends to a file; without one, only tells its subscribers. Opened again, it goes on after the last whole line."""

    def __init__(self, path: Path | None = None, *, subscribers: Sequence[Subscriber] = ()) -> None:
        self.subscribers = list(subscribers)
        self._path = path
        self._file = _opened(path) if path is not None else None

    def emit(self, name: str, /, **figures: Any) -> None:
        """Write one event, so that a kill loses nothing. What is not a finite number is written as null."""
        assert not {"name", "time"} & figures.keys(), "name and time are the event's own"
        time = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        event: Event = {"name": name, "time": time, **{key: _plain(value) for key, value in figures.items()}}
        if self._file is not None and self._path is not None:
            line = json.dumps(event, ensure_ascii=False, allow_nan=False) + "\n"
            with writing(self._path):
                append_line(self._file, line.encode("utf-8", "backslashreplace"))
        for subscriber in self.subscribers:
            subscriber(event)

    def rewind(self, step: int) -> int:
        """Take out what was told of steps after `step`, and lines that are no events. How many lines that were; atomic."""
        if self._file is None or self._path is None:
            return 0
        lines = self._path.read_bytes().splitlines(keepends=True)
        kept = [line for line in lines if _step(line) <= step]
        if len(kept) < len(lines):
            self.close()
            write_bytes(self._path, b"".join(kept))
            self._file = _opened(self._path)
        return len(lines) - len(kept)

    def sync(self) -> None:
        """Wait until everything that was emitted is on the disk."""
        if self._file is not None and self._path is not None:
            with writing(self._path):
                os.fsync(self._file.fileno())

    def close(self) -> None:
        if self._file is not None and self._path is not None:
            with writing(self._path):
                self._file.close()
            self._file = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def read_events(path: Path) -> Iterator[dict[str, Any]]:
    """The events of a file in their order, without a torn last line. Raises DataError on any other line that is no event."""
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                return
            event = _parsed(line)
            if event is None:
                raise DataError("is no event", file=path, line=number, hint="remove the line")
            yield event


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        event = json.loads(line)
    except ValueError:
        return None
    return event if isinstance(event, dict) else None


def _step(line: bytes) -> float:
    """The step that an event tells of; 0 where it tells of none, infinity where it is no event."""
    event = _parsed(line)
    if event is None:
        return math.inf
    step = event.get("step", 0)
    return step if isinstance(step, (int, float)) else 0


def _opened(path: Path) -> FileIO:
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        drop_torn_line(path)
        return path.open("ab", buffering=0)


def _plain(value: Any) -> Any:
    """NumPy's scalars and arrays as Python's; NaN and infinities, which JSON lacks, as None."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    return str(value) if isinstance(value, Path) else value
