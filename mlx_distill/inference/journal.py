"""An append-only file of JSON lines that outlives any end of its process.

A line is with the system as soon as it is written, and on the disk SYNC_SECONDS later at most, whatever is being computed meanwhile: a
thread sees to that. What a kill leaves is whole lines and, at the end, perhaps a torn one, which is dropped when the file is opened again.
It knows lines; nothing of what they mean.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator, Mapping
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Any

from mlx_distill.errors import OutputError
from mlx_distill.files import append_line, drop_torn_line, writing

SYNC_SECONDS = 1.0


class Journal:
    """Made with its first line: a journal that nothing is written to leaves no file behind. Raises OutputError, DoesNotFit."""

    def __init__(self, path: Path):
        self._path = path
        self._file: FileIO | None = None
        self._thread: threading.Thread | None = None
        self._dirty, self._over = threading.Event(), threading.Event()
        self._failed: OSError | None = None

    def __enter__(self) -> Journal:
        drop_torn_line(self._path)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Everything is on the disk. Where the block has failed, a disk that fails too is not what the user must hear of."""
        self._over.set()
        self._dirty.set()
        if self._thread is not None:
            self._thread.join()
        if self._file is not None:
            try:
                with writing(self._path), self._file:
                    self._raise()
                    os.fsync(self._file.fileno())
            except Exception:
                if error is None:
                    raise

    def write(self, document: Mapping[str, Any]) -> None:
        """A lone surrogate, which UTF-8 lacks, is written as its escape."""
        line = json.dumps(document, ensure_ascii=False, allow_nan=False) + "\n"
        with writing(self._path):
            self._raise()
            append_line(self._open(), line.encode("utf-8", "backslashreplace"))
        self._dirty.set()

    def _open(self) -> FileIO:
        if self._file is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._path.open("ab", buffering=0)
            self._thread = threading.Thread(target=self._sync, args=(self._file,), name=f"sync {self._path.name}", daemon=True)
            self._thread.start()
        return self._file

    def _sync(self, file: FileIO) -> None:
        """Until it is over. What the disk says against it is raised where the next line is written."""
        while not self._over.is_set():
            self._dirty.wait()
            if self._over.wait(SYNC_SECONDS):
                return
            self._dirty.clear()
            try:
                os.fsync(file.fileno())
            except OSError as error:
                self._failed = error
                return

    def _raise(self) -> None:
        if self._failed is not None:
            raise self._failed


def lines_of(path: Path) -> Iterator[dict[str, Any]]:
    """The whole lines of a journal, each with its `id`. Raises OutputError where it is another's file."""
    if not path.exists():
        return
    with writing(path), path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if line.endswith(b"\n"):
                yield _parsed(path, number, line)


def _parsed(path: Path, number: int, line: bytes) -> dict[str, Any]:
    try:
        document = json.loads(line)
    except ValueError:
        document = None
    if not isinstance(document, dict) or "id" not in document:
        raise OutputError("this line is no result", file=path, line=number, hint="the file is not this command's; name another")
    return document
