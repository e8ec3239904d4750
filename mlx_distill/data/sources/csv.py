"""CSV with a header, UTF-8: commas, or tabs in a file named *.tsv, or what `delimiter` says. Every value is a text.

Quoted cells may hold delimiters, line breaks and NUL. It knows cells and columns, and nothing of what they mean.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from mlx_distill.data.sources import SourceRow, _files
from mlx_distill.errors import DataError
from mlx_distill.recipe.schema import SourceSpec
from mlx_distill.records import BadRow

SUFFIXES = (".csv", ".tsv")
STREAMS = True
LONGEST = 2**31 - 1
"""Characters of a cell: the largest C long that there is everywhere. Python's own limit is 131,072, less than a long article."""
UNDECODED = re.compile("[\udc80-\udcff]")
"""What `surrogateescape` makes of bytes that are not UTF-8. Valid UTF-8 never decodes to it."""


def read(spec: SourceSpec, path: Path) -> Iterator[SourceRow | BadRow]:
    """Rows of a file, or of every such file in a folder, each with its own header. Raises DataError."""
    files = _files.find(path, SUFFIXES, streams=STREAMS)
    return (row for file in files for row in _rows(file, spec.delimiter))


class _Undecoded(NamedTuple):
    line: int
    place: int
    """In bytes, from 1."""
    byte: int

    def within(self, start: int) -> str:
        """Said of a record that begins on the line `start`."""
        where = "the line" if self.line == start else f"line {self.line}"
        return f"not UTF-8: byte 0x{self.byte:02x}, the {self.place}. of {where}"


class _Lines:
    """A file's lines, counted; and the first byte since `begin` that was not UTF-8."""

    def __init__(self, lines: Iterable[str], path: Path):
        self.lines = _files.numbered(lines, path)
        self.file = _files.name(path)
        self.number = 0
        self.undecoded: _Undecoded | None = None

    def begin(self) -> int:
        """The number of the line to come, with which a record begins."""
        self.undecoded = None
        return self.number + 1

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        self.number, line = next(self.lines)
        if self.undecoded is None and not line.isascii() and (found := UNDECODED.search(line)):
            before = len(line[: found.start()].encode("utf-8"))
            self.undecoded = _Undecoded(self.number, before + 1, ord(found.group()) - 0xDC00)
        return line


def _rows(path: Path, delimiter: str | None) -> Iterator[SourceRow | BadRow]:
    # The limit is one for the whole process, so whoever set it last wins: set it where it is needed, each time.
    csv.field_size_limit(LONGEST)
    with _files.opened(path) as file, io.TextIOWrapper(file, encoding="utf-8-sig", errors="surrogateescape", newline="") as text:
        lines = _Lines(text, path)
        reader = _reader(lines, path, delimiter)
        columns = _header(reader, lines, delimiter)
        while True:
            start = lines.begin()
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                yield from _broken(error, start, lines)
                continue
            if reason := _problem(cells, columns, start, lines):
                yield BadRow(reason, start, file=lines.file)
            elif cells:
                yield SourceRow(start, dict(zip(columns, cells, strict=True)), lines.file)


def _reader(lines: _Lines, path: Path, delimiter: str | None) -> Iterator[list[str]]:
    """Strict: a quote in the wrong place is an error, not a guess."""
    delimiter = {r"\t": "\t", None: "\t" if _files.suffix(path) == ".tsv" else ","}.get(delimiter, delimiter)
    try:
        return csv.reader(lines, delimiter=str(delimiter), strict=True)
    except (TypeError, ValueError):
        raise DataError(f"delimiter is one character; got {delimiter!r}", hint='for instance ";"', file=lines.file) from None


def _header(reader: Iterator[list[str]], lines: _Lines, delimiter: str | None) -> list[str]:
    columns: list[str] = []
    start = 1
    try:
        while not columns:
            start = lines.begin()
            columns = next(reader)
    except StopIteration:
        raise DataError("the file is empty: not even a header", hint="its first line names the columns", file=lines.file) from None
    except csv.Error as error:
        raise DataError(f"the header cannot be read: {error}", file=lines.file, line=start) from None
    if lines.undecoded:
        raise DataError("the header is not UTF-8", hint="save the file as UTF-8", file=lines.file, line=lines.undecoded.line)
    if twice := sorted({column for column in columns if columns.count(column) > 1}):
        names = ", ".join(repr(column) if column else "a column without a name" for column in twice)
        raise DataError(f"the header has {names} more than once", hint="give every column a name of its own", file=lines.file, line=start)
    if delimiter is None and len(columns) == 1 and (other := re.search("[;\t|]", columns[0])):
        mark = '"\\t"' if other.group() == "\t" else f'"{other.group()}"'
        hint = f"say what separates columns: --delimiter {mark} on the command line, delimiter: {mark} in the recipe"
        raise DataError(f"the header is a single column, {columns[0]!r}", hint=hint, file=lines.file, line=start)
    return columns


def _problem(cells: list[str], columns: list[str], start: int, lines: _Lines) -> str | None:
    if lines.undecoded:
        return lines.undecoded.within(start)
    if cells and len(cells) != len(columns):
        return f"{_count(len(cells), 'cell')}, and the header has {_count(len(columns), 'column')}"
    return None


def _broken(error: csv.Error, start: int, lines: _Lines) -> Iterator[BadRow]:
    """A quote that is never closed swallows the rest of the file: every line of it counts as lost, or the loss would look like one row."""
    if "unexpected end of data" not in str(error):
        span = f"lines {start} to {lines.number}: " if lines.number > start else ""
        yield BadRow(f"{span}not CSV: {error}", start, file=lines.file)
        return
    yield BadRow("a quote is opened and never closed", start, file=lines.file)
    for line in range(start + 1, lines.number + 1):
        yield BadRow(f"lost in the quote that is opened on line {start} and never closed", line, file=lines.file)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")
