"""The files behind a path, and opening them: what is missing, empty, unreadable or broken off becomes a DataError that says so.

It knows names, suffixes and lines, not formats.
"""

from __future__ import annotations

import io
import stat
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TypeVar

from mlx_distill.data.sources import STANDARD_INPUT, _packed
from mlx_distill.errors import DataError

Line = TypeVar("Line", str, bytes)
UNPACK = {"gzip": "gzip -dc", "zstd": "zstd -dc"}


def suffix(path: Path) -> str:
    """What tells the format, whatever the file is packed with.

    >>> suffix(Path("a.JSONL")), suffix(Path("a.2024.csv.gz")), suffix(Path("notes.gz"))
    ('.jsonl', '.csv', '')
    """
    packed = path.suffix.lower() in _packed.SUFFIXES
    return Path(path.stem if packed else path.name).suffix.lower()


def is_packed(path: Path) -> bool:
    """By its name."""
    return path.suffix.lower() in _packed.SUFFIXES


def name(path: Path) -> str:
    """How rows and errors call it."""
    return "<stdin>" if path == STANDARD_INPUT else str(path)


def members(folder: Path) -> list[Path]:
    """The files of a folder, without hidden ones, by name."""
    return sorted(file for file in folder.iterdir() if not file.is_dir() and not file.name.startswith("."))


def find(path: Path, suffixes: tuple[str, ...], *, streams: bool) -> list[Path]:
    """The file itself, whatever its name; or a folder's files with these suffixes, by name. None of them is missing or empty.

    `streams`: standard input and pipes will do, and packed files.
    """
    if path == STANDARD_INPUT and streams:
        return [path]
    with reading(path):
        found = _folder(path, suffixes) if path.is_dir() else [path]
        for file in found:
            if not streams:
                _refuse_stream(file, suffixes[0])
            # A pipe has size 0 too, and rows all the same.
            if file.stat().st_size == 0 and file.is_file():
                raise empty(file)
    return found


def empty(path: Path) -> DataError:
    return DataError("the file is empty", file=name(path), hint="write rows into it, or remove it")


@contextmanager
def opened(path: Path) -> Iterator[io.BufferedReader]:
    """The bytes of a file, a pipe or standard input, from front to back, unpacked. Raises DataError."""
    with reading(path), _stream(path) as stream:
        found, packed = _packed.unpacked(stream)
        if packed is None and is_packed(path):
            hint = f"if it is not packed at all, call it {path.stem}; else copy it anew"
            raise DataError(
                f"called {path.suffix}, and it does not begin as {_packed.SUFFIXES[path.suffix.lower()]} does", file=path, hint=hint
            )
        yield found


def numbered(lines: Iterable[Line], path: Path) -> Iterator[tuple[int, Line]]:
    """Lines, from 1. Where a packed file breaks off, a DataError that names the line which is not whole."""
    number = 0
    try:
        for number, line in enumerate(lines, start=1):
            yield number, line
    except _packed.Damaged as damage:
        if damage.cut:
            message, before = f"the file ends in the middle of its {damage.format} data: of this line on it has nothing whole", "is whole"
        else:
            message, before = f"the {damage.format} data are damaged, here or before ({damage.reason})", "may be wrong"
        way = f"keep what can be read, {UNPACK[damage.format]} {path.name} > {path.stem}" if is_packed(path) else "unpack what can be read"
        raise DataError(
            message, file=name(path), line=number + 1, hint=f"what came before {before}; copy the file anew, or {way}"
        ) from None


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Whatever the system says against reading becomes a DataError."""
    try:
        yield
    except FileNotFoundError:
        raise DataError(f"there is no file or folder {path}", hint=_near(path), file=path) from None
    except PermissionError:
        raise DataError("the file may not be read", hint=f"give yourself the right: chmod u+r {path}", file=path) from None
    except OSError as error:
        raise DataError(
            f"the file cannot be read: {error.strerror or error}", hint="is it a file, and is its disk there?", file=name(path)
        ) from error


@contextmanager
def _stream(path: Path) -> Iterator[IO[bytes]]:
    if path != STANDARD_INPUT:
        with path.open("rb") as file:
            yield file
    elif sys.stdin is None:
        raise DataError("there is no standard input", file=name(path), hint="name a file")
    else:
        yield sys.stdin.buffer


def _folder(path: Path, suffixes: tuple[str, ...]) -> list[Path]:
    found = [file for file in members(path) if suffix(file) in suffixes]
    if not found:
        kinds = " or ".join(f"*{suffix}" for suffix in suffixes)
        others = sorted(file.name for file in path.iterdir())[:3]
        hint = f"it has {', '.join(others)}, ..." if others else "it is empty"
        raise DataError(f"the folder has no file {kinds}", hint=hint, file=path)
    _refuse_twins(found)
    return found


def _refuse_twins(files: Iterable[Path]) -> None:
    """A file that lies there packed and unpacked, as zstd leaves it, would be read twice."""
    seen: dict[str, Path] = {}
    for file in files:
        content = file.stem if is_packed(file) else file.name
        if content in seen:
            hint = "remove one of them, or name one as the source"
            raise DataError(f"{seen[content].name} and {file.name} are one file twice, by their names", file=file, hint=hint)
        seen[content] = file


def _refuse_stream(file: Path, suffix: str) -> None:
    kind = suffix.removeprefix(".").capitalize()
    if file == STANDARD_INPUT or stat.S_ISFIFO(file.stat().st_mode):
        hint = f"write it to a file first (cat > texts{suffix}), and name that"
        raise DataError(f"a {kind} file is read from its end, which a pipe does not have yet", file=name(file), hint=hint)
    if is_packed(file):
        hint = f"unpack it into {file.stem}; what it holds is packed already"
        raise DataError(f"a {kind} file is read from its end, and not while it is unpacked", file=file, hint=hint)


def _near(path: Path) -> str:
    """What stands where the file was expected, so that a slip of the pen is seen at once."""
    if not path.parent.is_dir():
        return f"there is no folder {path.parent} either; a relative path starts at the recipe that names it"
    names = sorted(file.name for file in path.parent.iterdir() if not file.name.startswith("."))
    some = f"{path.parent} has {', '.join(names[:5])}{', ...' if len(names) > 5 else ''}" if names else f"{path.parent} is empty"
    return f"{some}; a relative path starts at the recipe that names it"
