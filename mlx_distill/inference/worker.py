"""One of several processes that answer a job's rows: it opens students of its own, and answers what its crew sends.

    crew to worker      what opens the students, then chunks of rows, as far ahead as the crew likes
    worker to crew      Ready, then an Answer as soon as a row is done, a Note now and then; Failed where it cannot go on

It lives as long as its crew: when the other end of its connection is gone, however that came, it ends, whatever it is computing. It reads
and writes no file of the job.
"""

from __future__ import annotations

import os
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from queue import Empty, SimpleQueue
from typing import Protocol

from mlx_distill.errors import DistillError
from mlx_distill.inference.row import Counts
from mlx_distill.memory import resident_bytes
from mlx_distill.records import BadRow, Example, Prediction

LIVES = "import sys; sys.path[:] = {path!r}; from mlx_distill.inference.worker import work; work({handle})"
"""A worker's whole program. It looks for modules where its crew does, and knows nothing of the program that its crew is part of."""


class Answering(Protocol):
    """What a worker asks of an Engine."""

    counts: Counts

    def numbered(self, examples: Iterable[Example | BadRow | None]) -> Iterator[tuple[int, Prediction | BadRow]]: ...


@dataclass(frozen=True, slots=True)
class Opened:
    """`peak`: bytes that the process has taken at most, on its device or beside it; `said`, `notes`: for who started the job,
    the one when all is open, the other as they come up (see Student.notes).
    """

    engines: Mapping[str, Answering]
    peak: Callable[[], int]
    notes: Callable[[], Sequence[str]]
    said: str = ""


Opening = Callable[[], Opened]
"""Called in the worker; it gets there by pickle, and brings no more than paths and settings."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """Rows for one student, each with the crew's number."""

    student: str
    rows: Sequence[tuple[int, Example]]


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes of the process, at most and now."""

    peak: int
    resident: int


@dataclass(frozen=True, slots=True)
class Ready:
    said: str
    memory: Memory


@dataclass(frozen=True, slots=True)
class Answer:
    number: int
    result: Prediction | BadRow
    student: str
    counts: Counts
    """Of this student, of all that this process has answered."""
    memory: Memory


@dataclass(frozen=True, slots=True)
class Note:
    """For who started the job; it is sent before the answer that it came with, for nobody hears more than all answers."""

    text: str


@dataclass(frozen=True, slots=True)
class Failed:
    """A DistillError is what one process alone would have said; a text is what nobody foresaw."""

    error: DistillError | str


class Inbox:
    """The rows that have come, read by a thread of their own: a crew that sends never waits for what is being computed."""

    def __init__(self, connection: Connection):
        self._connection = connection
        self._chunks: SimpleQueue[Chunk] = SimpleQueue()
        self._next: Chunk | None = None
        """Taken, and of a student whose turn it is not yet."""
        self._numbers: dict[int, int] = {}
        """The crew's number of each row that is being answered, by the engine's."""
        threading.Thread(target=self._listen, name="inbox", daemon=True).start()

    def _listen(self) -> None:
        try:
            while True:
                self._chunks.put(self._connection.recv())
        except (EOFError, ConnectionResetError):  # nobody is left to be answered
            os._exit(0)
        except BaseException:  # rows that memory has no room for, say: without this thread the process would wait for ever
            traceback.print_exc()
            os._exit(1)

    def students(self) -> Iterator[str]:
        """Whose rows come next. All that came for one is answered before rows for another are waited for."""
        while True:
            self._next = self._next or self._chunks.get()
            yield self._next.student

    def rows(self, student: str) -> Iterator[Example | None]:
        """One student's, until there are another's. None: no more have come yet, while some are being answered."""
        count = 0
        while True:
            chunk = self._take()
            if chunk is not None and chunk.student != student:
                self._next = chunk
                return
            for number, example in chunk.rows if chunk is not None else ():
                self._numbers[count] = number
                count += 1
                yield example
            if chunk is None:
                yield None

    def answered(self, count: int) -> int:
        """The crew's number of the engine's `count`th row, which is not waited for any more."""
        return self._numbers.pop(count)

    def _take(self) -> Chunk | None:
        chunk, self._next = self._next, None
        try:
            return chunk or self._chunks.get(block=not self._numbers)
        except Empty:
            return None


def work(handle: int) -> None:
    """A worker's life, to its end; `handle` is its end of the connection."""
    connection = Connection(handle)
    try:
        _answer(connection)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        os._exit(0)
    except BaseException as error:
        traceback.print_exc()
        connection.send(Failed(error if isinstance(error, DistillError) else _words(error)))
    os._exit(1)  # what a broken device would do at its end is of no interest


def _answer(connection: Connection) -> None:
    opening: Opening = connection.recv()
    inbox = Inbox(connection)
    opened = opening()
    connection.send(Ready(opened.said, _memory(opened)))
    noted: set[str] = set()
    for student in inbox.students():
        engine = opened.engines[student]
        for count, result in engine.numbered(inbox.rows(student)):
            for text in opened.notes():
                if text not in noted:
                    connection.send(Note(text))
                    noted.add(text)
            connection.send(Answer(inbox.answered(count), result, student, engine.counts, _memory(opened)))


def _memory(opened: Opened) -> Memory:
    return Memory(opened.peak(), resident_bytes() or 0)


def _words(error: BaseException) -> str:
    """
    >>> _words(RuntimeError("CUDA error: out of memory" + chr(10) + "Compile with ..."))
    'RuntimeError: CUDA error: out of memory'
    """
    first = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {first}" if first else type(error).__name__
