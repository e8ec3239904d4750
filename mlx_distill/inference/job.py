"""A file of texts becomes a file of answers: streamed, written as they are finished, with rejects beside them, resumed where it stopped.

One reading of the input serves several students, window by window. What was answered or rejected before is passed over by its id. The
memory is the same however many rows there are. The job knows rows and results; nothing of models, and of files only where they lie.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from mlx_distill.data.seen import Seen
from mlx_distill.errors import DataError
from mlx_distill.inference.engine import Engine
from mlx_distill.inference.journal import Journal, lines_of
from mlx_distill.inference.output import Places, distributions, reject_key, reject_line, result_key, result_line
from mlx_distill.inference.tally import Tally
from mlx_distill.observe.progress import Step as Bar
from mlx_distill.recipe.schema import FieldSpec
from mlx_distill.records import BadRow, Example, Prediction

TURN = 512
"""Rows that a student answers before it is another's turn, where there are several."""


@dataclass(slots=True)
class Done:
    """`rows` of the input; the others count answers, so that of S students done + rejected + skipped = S * rows."""

    rows: int = 0
    done: int = 0
    rejected: int = 0
    skipped: int = 0
    """Rows that an earlier run had answered or rejected."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A student and what it is to answer. `rows` of all students are the same rows of the input, in the same order."""

    name: str
    engine: Engine
    fields: Mapping[str, FieldSpec]
    rows: Iterator[Example | BadRow]


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the results look like, and when to give up."""

    distributions: bool = False
    max_rejects: int | None = None
    folder: Path | None = None
    """The input, where it is one: rejects then name their file."""


def run(asked: Sequence[Asked], places: Places, tally: Tally, bar: Bar, wanted: Wanted) -> Done:
    """Answer every row that is not answered yet. Raises DataError where more rows are rejected than `wanted` has patience for."""
    with Journal(places.lines) as results, Journal(places.rejects) as rejects:
        job = _Job(places, results, rejects, tally, bar, wanted, several=len(asked) > 1)
        turn = TURN if len(asked) > 1 else None
        more = True
        while more:
            more = sum(job.answer(student, turn) for student in asked) > 0 and turn is not None
    job.done.rows = job.read // len(asked)
    return job.done


class _Job:
    def __init__(self, places: Places, results: Journal, rejects: Journal, tally: Tally, bar: Bar, wanted: Wanted, *, several: bool):
        self._places, self._results, self._rejects, self._tally, self._bar = places, results, rejects, tally, bar
        self._wanted, self._several = wanted, several
        self.done, self.read = Done(), 0
        self._answered, self._refused, self._before = Seen(), Seen(), 0
        self._files: dict[str, str | None] = {}
        """Of rows that are being answered."""
        self._recall()

    def answer(self, student: Asked, most: int | None) -> int:
        """So many of a student's rows, or all; how many there were."""
        before = self.read
        for result in student.engine.stream(self._open(student, islice(student.rows, most))):
            file = self._files.pop(str(result.id), None)
            if isinstance(result, Prediction):
                self._write(student, result)
            else:
                self._reject(student, BadRow(result.reason, result.line, result.id, file))
        return self.read - before

    def _recall(self) -> None:
        """What stands in the files already."""
        for line in self._places.results():
            self._answered.put(result_key(line))
            self._tally.recall(line.get("task") or "", line.get("tier"))
        for line in lines_of(self._places.rejects):
            self._refused.put(reject_key(line))
            self._tally.recall_reject()
            self._before += 1

    def _open(self, student: Asked, rows: Iterator[Example | BadRow]) -> Iterator[Example]:
        """The rows that are still to be answered, one by one as the engine asks for them."""
        task = student.name if self._several else None
        for row in rows:
            self.read += 1
            if isinstance(row, BadRow):
                self._reject(student, row)
            elif self._is_done(row, task):
                self._skip()
            else:
                self._files[row.id] = row.file
                yield row

    def _is_done(self, row: Example, task: str | None) -> bool:
        if result_key({"id": row.id, "task": task}) in self._answered:
            return True
        return reject_key(reject_line(BadRow("", row.line, row.id, row.file), self._wanted.folder, task)) in self._refused

    def _skip(self) -> None:
        self.done.skipped += 1
        self._tally.skipped()
        self._advance()

    def _write(self, student: Asked, prediction: Prediction) -> None:
        line = result_line(prediction, student.name if self._several else None)
        if self._wanted.distributions:
            line |= distributions(prediction, student.fields)
        self._results.write(line)
        self.done.done += 1
        self._tally.answered(student.name, prediction.tier)
        self._advance()

    def _reject(self, student: Asked, bad: BadRow) -> None:
        line = reject_line(bad, self._wanted.folder, student.name if self._several else None)
        if reject_key(line) in self._refused:
            self._skip()
            return
        self._rejects.write(line)
        self.done.rejected += 1
        self._tally.rejected(bad, _place(line))
        self._advance()
        most = self._wanted.max_rejects
        if most is not None and (count := self._before + self.done.rejected) > most:
            message = f"{count:,} rows were rejected, more than --max-rejects {most} allows; the last, {_place(line)}: {bad.reason}"
            hint = f"they stand in {self._places.rejects}; --resume with a higher --max-rejects, or without, goes on"
            raise DataError(message, file=bad.file, line=bad.line, hint=hint)

    def _advance(self) -> None:
        self._bar.advance(1, **self._tally.figures())


def _place(line: Mapping[str, Any]) -> str:
    file = f"{line['file']}, " if "file" in line else ""
    return f"{file}line {line['line']}" if line["line"] is not None else f"{file}row {line['id']}"
