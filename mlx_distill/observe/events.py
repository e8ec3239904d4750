"""What happened, as one JSON line an event: name, time, and figures.

It knows files and JSON, and who asked to be told; nothing of what an event means.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

from mlx_distill.errors import DataError
from mlx_distill.files import drop_torn_line, writing

Event = Mapping[str, Any]
Subscriber = Callable[[Event], None]


class Events:
    """Appends to a file; without one, only tells its subscribers. Opened again, it goes on after the last whole line."""

    def __init__(self, path: Path | None = None, *, subscribers: Sequence[Subscriber] = ()) -> None:
        self.subscribers = list(subscribers)
        self._path = path
        self._file = _opened(path) if path is not None else None

    def emit(self, name: str, /, **figures: Any) -> None:
        """Write one event and flush it, so that a kill loses nothing. What is not a finite number is written as null."""
        assert not {"name", "time"} & figures.keys(), "name and time are the event's own"
        time = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        event: Event = {"name": name, "time": time, **{key: _plain(value) for key, value in figures.items()}}
        if self._file is not None and self._path is not None:
            line = json.dumps(event, ensure_ascii=False, allow_nan=False) + "\n"
            with writing(self._path):
                self._file.write(line.encode("utf-8", "backslashreplace"))
                self._file.flush()
        for subscriber in self.subscribers:
            subscriber(event)

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
            try:
                event = json.loads(line)
            except ValueError:
                event = None
            if not isinstance(event, dict):
                raise DataError("is no event", file=path, line=number, hint="remove the line")
            yield event


def _opened(path: Path) -> BinaryIO:
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        drop_torn_line(path)
        return path.open("ab")


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
