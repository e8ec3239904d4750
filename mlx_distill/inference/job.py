"""A file of texts becomes a file of answers: streamed, in windows, with rejects beside them, resumed where it stopped.

    OUTPUT                  one result a line, in the order of the input
    OUTPUT.rejects.jsonl    one bad row a line, with its line and reason

Both are append-only; a line torn by a kill is dropped on resume. The job knows rows and files; nothing of models.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlx_distill.errors import OutputError
from mlx_distill.files import drop_torn_line, writing
from mlx_distill.inference.engine import Engine
from mlx_distill.observe.progress import Step as Bar
from mlx_distill.records import BadRow, Example, Prediction

WINDOW = 256
"""Rows that are read before they are answered: enough for like lengths to meet."""
SYNC_SECONDS = 1.0


@dataclass(slots=True)
class Done:
    rows: int = 0
    done: int = 0
    rejected: int = 0
    skipped: int = 0
    """Rows that an earlier run had answered or rejected."""


def result_line(prediction: Prediction) -> dict[str, Any]:
    """A result as `infer` writes it."""
    line: dict[str, Any] = {
        "id": prediction.id,
        "answer": prediction.answer,
        "confidence": {name: round(value, 4) for name, value in prediction.confidence.items()},
    }
    if prediction.overall is not None:
        line["overall"] = prediction.overall
    if prediction.tier is not None:
        line["tier"] = prediction.tier
    if prediction.trimmed:
        line["trimmed"] = True
    return line


def rejects_of(output: Path) -> Path:
    return output.with_name(output.name + ".rejects.jsonl")


def refuse(source: Path, output: Path, *, resume: bool) -> None:
    """Raises OutputError where results cannot be written to OUTPUT: before anything slow is begun."""
    files = (output, rejects_of(output))
    if output.is_dir():
        raise OutputError("OUTPUT is a folder", file=output, hint="name a new file in it, such as answers.jsonl")
    if any(file.exists() and source.exists() and file.samefile(source) for file in files):
        raise OutputError("INPUT and OUTPUT are the same file", file=output, hint="name a new file, such as answers.jsonl")
    if output.suffix.lower() not in (".jsonl", ".ndjson"):
        called = f"{output.suffix} files" if output.suffix else "a file without a suffix"
        raise OutputError(f"results are written as JSON lines, not {called}", file=output, hint="let its name end in .jsonl")
    if not resume and (taken := next((file for file in files if file.exists()), None)):
        raise OutputError("there are results already", file=taken, hint="--resume goes on with them; or name another file")


def run(rows: Iterable[Example | BadRow], engine: Engine, output: Path, bar: Bar, *, resume: bool) -> Done:
    """Answer every row that is not answered yet. Without `resume` there is no such file yet (`refuse`)."""
    rejects = rejects_of(output)
    done = Done()
    with _Lines(output, key=lambda line: str(line["id"])) as answers, _Lines(rejects, key=_place) as refused:
        known = {(name, line) for name, line, _ in refused.before}
        for window in _windows(rows):
            bad = [row for row in window if isinstance(row, BadRow)]
            over = all(isinstance(row, BadRow) or row.id in answers.before or (row.id, row.line) in known for row in window)
            # A window that was left half done is answered whole: the company that a row is computed in shows in its last digits.
            for result, line in _results(bad if over else window, engine):
                if isinstance(result, Prediction) and result.id not in answers.before:
                    answers.write(result_line(result))
                    done.done += 1
                elif isinstance(result, BadRow) and _place(reject := _reject(result, line)) not in refused.before:
                    refused.write(reject)
                    done.rejected += 1
            done.rows += len(window)
            bar.advance(len(window))
    done.skipped = done.rows - done.done - done.rejected
    if not refused.wrote and not refused.before:
        rejects.unlink(missing_ok=True)
    return done


def _results(rows: Sequence[Example | BadRow], engine: Engine) -> Iterator[tuple[Prediction | BadRow, int | None]]:
    """In the order of the rows."""
    answers = engine.answers([row for row in rows if isinstance(row, Example)])
    for row in rows:
        yield (row if isinstance(row, BadRow) else next(answers)), row.line


def _reject(bad: BadRow, line: int | None) -> dict[str, Any]:
    return {"id": bad.id, "line": bad.line if bad.line is not None else line, "reason": bad.reason}


def _place(reject: Mapping[str, Any]) -> tuple[Any, Any, Any]:
    return reject.get("id"), reject.get("line"), reject.get("reason")


def _windows(rows: Iterable[Example | BadRow]) -> Iterator[list[Example | BadRow]]:
    window: list[Example | BadRow] = []
    for row in rows:
        window.append(row)
        if len(window) == WINDOW:
            yield window
            window = []
    if window:
        yield window


class _Lines:
    """An append-only file of JSON lines that reaches the disk at least every second. `before`: the keys of what stood in it."""

    def __init__(self, path: Path, *, key: Callable[[Mapping[str, Any]], Any]):
        self._path, self._key = path, key
        self.before: set[Any] = set()
        self.wrote = False
        self._synced = time.monotonic()

    def __enter__(self) -> _Lines:
        with writing(self._path):
            if self._path.exists():
                drop_torn_line(self._path)
                with self._path.open("rb") as lines:
                    self.before = {self._key(self._parsed(number, line)) for number, line in enumerate(lines, start=1)}
            self._file = self._path.open("ab", buffering=0)  # a line is with the system at once, whatever ends this process
        return self

    def __exit__(self, *_: object) -> None:
        with writing(self._path), self._file:
            self._sync()

    def write(self, document: Mapping[str, Any]) -> None:
        line = json.dumps(document, ensure_ascii=False, allow_nan=False) + "\n"
        self.wrote = True
        rest = memoryview(line.encode("utf-8", "backslashreplace"))
        with writing(self._path):
            while rest:
                rest = rest[self._file.write(rest) :]
            if time.monotonic() - self._synced >= SYNC_SECONDS:
                self._sync()

    def _sync(self) -> None:
        os.fsync(self._file.fileno())
        self._synced = time.monotonic()

    def _parsed(self, number: int, line: bytes) -> dict[str, Any]:
        try:
            document = json.loads(line)
            assert isinstance(document, dict) and "id" in document
        except (ValueError, AssertionError):
            raise OutputError(
                "this line is no result", file=self._path, line=number, hint="the file is not this command's; name another"
            ) from None
        return document
