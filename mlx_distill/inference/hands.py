"""A crew's hands: a worker's process with the rows it was given, and a stream's rows that nobody has.

It starts and ends processes, and keeps the account of rows; who gets which, and when, the crew decides.
"""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from multiprocessing.connection import Connection, Pipe
from typing import IO

from mlx_distill.errors import DistillError
from mlx_distill.inference.posts import Post
from mlx_distill.inference.row import Counts
from mlx_distill.inference.worker import LIVES, Chunk, Opening
from mlx_distill.records import BadRow, Example

TOGETHER = (64, 16, 1, 1)
"""Rows that are given out together, by how many workers each has cost. One that cost as many as this has places is rejected.

Of a few hundred rows that a worker had, the one that ended it is found with three more lost, each of which takes long to begin; and who
ends workers from outside must meet the same row alone twice for an innocent one to be rejected.
"""
PATIENCE = 10.0
"""Seconds that a killed process may take to be gone: a device's driver may hold it for a while."""
LAST_WORDS = 2000
"""Bytes at the end of what a worker said."""


@dataclass(slots=True)
class Held:
    """A row that is to be answered. `losses`: workers that ended while they had it."""

    example: Example
    losses: int = 0


class Rest:
    """What of a stream nobody has: `again` had been given out before. `over`: there is no more in `examples`."""

    def __init__(self, student: str, examples: Iterator[Example | BadRow]):
        self.student = student
        self.again: list[Held] = []
        self.over = False
        self._examples = examples

    def fresh(self, rows: int, chars: int) -> tuple[list[Held], list[BadRow]]:
        """So many rows, or so long ones, and bad ones among them, which no worker needs to look at."""
        found: list[Held] = []
        bad: list[BadRow] = []
        for example in self._examples:
            if isinstance(example, BadRow):
                bad.append(example)
            else:
                found.append(Held(example))
                chars -= len(example.text)
            if len(found) + len(bad) == rows or chars <= 0:
                break
        else:
            self.over = True
        return found, bad

    def suspects(self) -> list[Held]:
        """Some of `again`: first those that are to be alone, since what is found there clears the others. A loss puts a row behind them."""
        self.again.sort(key=lambda row: (TOGETHER[row.losses], row.losses))
        losses = self.again[0].losses
        taken = [row for row in self.again[: TOGETHER[losses]] if row.losses == losses]
        del self.again[: len(taken)]
        return taken


class Hand:
    """The worker at a post: one process after another, where they are lost."""

    def __init__(self, post: Post):
        self.post = post
        self.futile = 0
        """Processes in a row that were lost and had answered nothing."""
        self.ready = False
        self.failed: DistillError | str | None = None
        """What the process said when it could not go on."""
        self.counts: dict[str, Counts] = {}
        self.resident = 0
        self.held: dict[int, Held] = {}
        """By the crew's number. Rows that were there when another was lost are never beside others."""
        self.chars = 0
        self._process: subprocess.Popen[bytes] | None = None

    def begin(self, opening: Opening) -> None:
        """Start a process; it opens the students by itself, and says when it is ready."""
        self.ready, self.failed, self.counts, self.resident = False, None, {}, 0
        self.connection, theirs = Pipe()
        self._words = tempfile.TemporaryFile()  # noqa: SIM115  (`end` closes it)
        with theirs:
            self._process = _started(theirs, self.post.environment, self._words)
        self._send(opening)

    def give(self, student: str, rows: Mapping[int, Held]) -> None:
        self.held.update(rows)
        self.chars += sum(len(row.example.text) for row in rows.values())
        self._send(Chunk(student, [(number, row.example) for number, row in rows.items()]))

    def take(self, number: int) -> Held | None:
        """The row is answered. None where nobody wanted it any more."""
        row = self.held.pop(number, None)
        self.chars -= len(row.example.text) if row is not None else 0
        return row

    def drop(self) -> list[Held]:
        """All its rows; it has none afterwards."""
        rows = list(self.held.values())
        self.held, self.chars = {}, 0
        return rows

    @property
    def on_trial(self) -> bool:
        return any(row.losses for row in islice(self.held.values(), 1))

    def leave(self) -> None:
        """The process has nothing left to do for anybody: it is made to end."""
        if self._process is not None:
            self.connection.close()
            self._process.kill()

    def end(self) -> str:
        """Wait until the process is gone, which has been told to, or does by itself. Why."""
        process, self._process = self._process, None
        if process is None:
            return "it was never begun"
        self.connection.close()
        with self._words as words:
            try:
                return _why(process.wait(PATIENCE), self.failed, words)
            except subprocess.TimeoutExpired:
                process.kill()
                return f"it said nothing more, and was not gone {PATIENCE:g} s later"

    def _send(self, thing: object) -> None:
        """To one that is gone too: what it has stays its own until that is heard, where its answers are."""
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.connection.send(thing)


def _started(connection: Connection, environment: Mapping[str, str], words: IO[bytes]) -> subprocess.Popen[bytes]:
    """In a process group of its own: Ctrl-C is for the crew, which then ends its workers."""
    handle = connection.fileno()
    program = LIVES.format(path=sys.path, handle=handle)
    return subprocess.Popen(
        [sys.executable, "-c", program], env=environment, pass_fds=(handle,), process_group=0,
        stdin=subprocess.DEVNULL, stdout=words, stderr=words,
    )  # fmt: skip


def _why(code: int, failed: DistillError | str | None, words: IO[bytes]) -> str:
    """In the worker's own words, or the system's."""
    if failed is not None:
        return str(failed)
    if code < 0:
        name = next((it.name for it in signal.Signals if it == -code), f"signal {-code}")
        return f"killed by {name}" + (", as the system does where memory runs out" if name == "SIGKILL" else "")
    words.seek(max(0, words.seek(0, 2) - LAST_WORDS))
    said = words.read().decode("utf-8", "replace").split("\n")
    last = [line.strip() for line in said if line.strip()][-1:]
    return ": ".join([f"it ended with exit code {code}", *last])
