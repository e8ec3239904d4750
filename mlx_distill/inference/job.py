"""A file of texts becomes a file of answers: streamed, written as they are finished, with rejects beside them, resumed where it stopped.

One reading of the input serves several students, window by window. What was answered or rejected before is passed over by its id. The
memory is the same however many rows there are. The job knows rows and results; nothing of models, and of files only where they lie.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

from mlx_distill.data.seen import Seen
from mlx_distill.errors import DataError, OutputError
from mlx_distill.inference.journal import Journal, lines_of
from mlx_distill.inference.output import (
    Places,
    deferred_line,
    distributions,
    reject_key,
    reject_line,
    result_key,
    result_line,
    waiting_line,
)
from mlx_distill.inference.row import Counts
from mlx_distill.inference.tally import Tally
from mlx_distill.observe.progress import Step as Bar
from mlx_distill.observe.progress import amount
from mlx_distill.recipe.schema import FieldSpec
from mlx_distill.records import BadRow, Example, Prediction

TURN = 512
"""Rows that a student answers before it is another's turn, where there are several; with several workers, of each."""


class Answering(Protocol):
    """An Engine, or a crew's Desk."""

    @property
    def counts(self) -> Counts: ...

    def stream(self, examples: Iterable[Example | BadRow]) -> Iterator[Prediction | BadRow]: ...


@dataclass(slots=True)
class Done:
    """`rows` of the input; done, rejected and skipped count answers, so that of S students their sum is S * rows."""

    rows: int = 0
    done: int = 0
    rejected: int = 0
    skipped: int = 0
    """What an earlier run had answered or rejected."""
    rejected_before: int = 0
    """Those of `skipped` that it had rejected."""
    rejected_rows: int = 0
    """Rows of the input that were rejected in this run, by however many students."""
    rows_per_hour: int | None = None
    """See `Tally`."""
    deferred: int = 0
    """Answers that the student was not sure enough of, those of earlier runs too."""

    @property
    def answered_before(self) -> int:
        return self.skipped - self.rejected_before


@dataclass(frozen=True, slots=True)
class Asked:
    """A student and what it is to answer. `rows` of all students are the same rows of the input, in the same order."""

    name: str
    engine: Answering
    fields: Mapping[str, FieldSpec]
    rows: Iterator[Example | BadRow]


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the results look like, and when to give up."""

    distributions: bool = False
    max_rejects: int | None = None
    folder: Path | None = None
    """The input, where it is one: rejects then name their file."""
    workers: int = 1
    instead: bool = False
    """Deferred rows are no results yet: who reads `Places.deferred` answers them."""
    by: str | None = None
    """Who answers, where a line is to say so."""


def run(asked: Sequence[Asked], places: Places, tally: Tally, bar: Bar, wanted: Wanted) -> Done:
    """Answer every row that is not answered yet. Raises DataError where more rows are rejected than `wanted` has patience for."""
    with Journal(places.lines) as results, Journal(places.rejects) as rejects, Journal(places.deferred) as deferred:
        job = _Job(places, (results, rejects, deferred), tally, bar, wanted, len(asked))
        turn = TURN * wanted.workers if len(asked) > 1 else None
        more = True
        while more:
            more = sum(job.answer(student, turn) for student in asked) > 0 and turn is not None
    job.done.rows, job.done.rows_per_hour = job.read // len(asked), tally.rows_per_hour
    return job.done


class _Job:
    def __init__(self, places: Places, journals: tuple[Journal, Journal, Journal], tally: Tally, bar: Bar, wanted: Wanted, students: int):
        self._places, self._tally, self._bar = places, tally, bar
        self._results, self._rejects, self._deferred = journals
        self._wanted, self._students, self._several = wanted, students, students > 1
        self.done, self.read = Done(), 0
        self._answered, self._refused = Seen(), Seen()
        self._bad_rows, self._bad = Seen(), 0
        """Rows of the input that were rejected, by any student and in any run, and their number."""
        self._open_rows: dict[str, Example] = {}
        """Those that are being answered."""
        self._handed_back = Seen()
        """What stands among the deferred rows already."""
        self._recall()

    def answer(self, student: Asked, most: int | None) -> int:
        """So many of a student's rows, or all; how many there were."""
        before = self.read
        for result in student.engine.stream(self._open(student, islice(student.rows, most))):
            row = self._open_rows.pop(str(result.id), None)
            if isinstance(result, Prediction):
                self._write(student, result, row)
            else:
                self._reject(student, BadRow(result.reason, result.line, result.id, row.file if row else None))
        return self.read - before

    def _recall(self) -> None:
        """What stands in the files already. Raises OutputError where rows that were handed back are gone."""
        for line in lines_of(self._places.deferred) if self._keeps_deferred else ():
            self._handed_back.put(result_key(line))
            self.done.deferred += self._wanted.instead
        gone = 0
        for line in self._places.results():
            self._answered.put(key := result_key(line))
            self._tally.recall(line.get("task") or "", line.get("tier"))
            if line.get("defer") and not self._wanted.instead:
                self.done.deferred += 1
                gone += self._keeps_deferred and key not in self._handed_back
        if gone:
            what = f"{amount(gone, 'rows')} that had been deferred {'is' if gone == 1 else 'are'} not in it"
            raise OutputError(
                what, file=self._places.deferred, hint="bring the file back; or name another OUTPUT, and answer everything anew"
            )
        for line in lines_of(self._places.rejects):
            self._refused.put(reject_key(line))
            self._is_new(line)
            self._tally.recall_reject()

    @property
    def _keeps_deferred(self) -> bool:
        return self._wanted.instead or self._places.apart is not None

    def _open(self, student: Asked, rows: Iterator[Example | BadRow]) -> Iterator[Example]:
        """The rows that are still to be answered, one by one as the engine asks for them."""
        task = student.name if self._several else None
        for row in rows:
            self.read += 1
            if isinstance(row, BadRow):
                self._reject(student, row)
            elif (key := result_key({"id": row.id, "task": task})) in self._answered or (self._wanted.instead and key in self._handed_back):
                self._skip(rejected=False)
            elif self._was_rejected(row, task):
                self._skip(rejected=True)
            else:
                self._open_rows[row.id] = row
                yield row

    def _was_rejected(self, row: Example, task: str | None) -> bool:
        return reject_key(reject_line(BadRow("", row.line, row.id, row.file), self._wanted.folder, task)) in self._refused

    def _is_new(self, line: Mapping[str, Any]) -> bool:
        """Whether no student has rejected this row before. It is counted now."""
        key = reject_key({**line, "task": None})
        if key in self._bad_rows:
            return False
        self._bad_rows.put(key)
        self._bad += 1
        return True

    def _skip(self, *, rejected: bool) -> None:
        self.done.skipped += 1
        self.done.rejected_before += rejected
        self._tally.skipped()
        self._advance()

    def _write(self, student: Asked, prediction: Prediction, row: Example | None) -> None:
        line = result_line(prediction, student.name if self._several else None)
        if self._wanted.distributions:
            line |= distributions(prediction, student.fields)
        if self._wanted.by is not None:
            line["by"] = self._wanted.by
        if prediction.defer:
            self._defer(prediction, row, line)
        if not (prediction.defer and self._wanted.instead):
            self._results.write(line)
            self.done.done += 1
        self._tally.answered(student.name, prediction.tier)
        self._advance()

    def _defer(self, prediction: Prediction, row: Example | None, line: Mapping[str, Any]) -> None:
        """Before the result is written: what a kill leaves is a row that is handed back and answered again, never one that is neither."""
        self.done.deferred += 1
        if self._keeps_deferred and row is not None and (key := result_key(line)) not in self._handed_back:
            self._deferred.write(waiting_line(row) if self._wanted.instead else deferred_line(row, prediction, line))
            self._handed_back.put(key)

    def _reject(self, student: Asked, bad: BadRow) -> None:
        line = reject_line(bad, self._wanted.folder, student.name if self._several else None)
        if reject_key(line) in self._refused:
            self._skip(rejected=True)
            return
        self._rejects.write(line)
        new = self._is_new(line)
        self.done.rejected += 1
        self.done.rejected_rows += new
        self._tally.rejected(bad, _place(line), again=not new)
        self._advance()
        most = self._wanted.max_rejects
        if most is not None and self._bad > most:
            were = f"{amount(self._bad, 'rows')} {'was' if self._bad == 1 else 'were'} rejected"
            message = f"{were}, more than --max-rejects {most} allows; the last, {_place(line)}: {bad.reason}"
            hint = f"see {self._places.rejects}; --resume with a higher --max-rejects, or without, goes on"
            raise DataError(message, file=bad.file, line=bad.line, hint=hint)

    def _advance(self) -> None:
        waiting = self.done.deferred if self._wanted.instead else 0
        passed = self.done.done + self.done.rejected + self.done.skipped + waiting
        self._bar.advance(int(passed % self._students == 0), **self._tally.figures())


def _place(line: Mapping[str, Any]) -> str:
    file = f"{line['file']}, " if "file" in line else ""
    return f"{file}line {line['line']}" if line["line"] is not None else f"{file}row {line['id']}"
