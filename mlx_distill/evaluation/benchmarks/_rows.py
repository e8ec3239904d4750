"""Records of a benchmark's files, in whichever of its formats, each with its place; and what is said where one is not as it must be."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

from mlx_distill.data.sources import SourceRow, jsonl, parquet
from mlx_distill.errors import DataError
from mlx_distill.recipe.schema import SourceSpec
from mlx_distill.records import BadRow

LINES, TABLES, WHOLE, CELLS = (".jsonl", ".ndjson"), (".parquet",), (".json",), (".csv",)
PACKED = (".gz", ".zst")


def suffix(path: Path) -> str:
    """What tells the format, packed or not."""
    return Path(path.stem if path.suffix in PACKED else path.name).suffix.lower()


def files(path: Path, suffixes: tuple[str, ...]) -> list[Path]:
    """The file itself, or a folder's files with these suffixes, by name. Raises DataError where there is none."""
    if not path.exists():
        raise DataError(f"there is no file or folder {path}", file=path, hint="a relative path starts at the recipe that names it")
    found = [path]
    if path.is_dir():
        found = sorted(file for file in path.iterdir() if suffix(file) in suffixes and not file.name.startswith("."))
    if not found or suffix(found[0]) not in suffixes:
        what = "the folder has no such file" if path.is_dir() else f"{path.suffix or 'a file without suffix'} is none of its formats"
        raise DataError(what, file=path, hint=f"this benchmark is read from {', '.join(f'*{one}' for one in suffixes)}")
    return found


def rows(path: Path) -> Iterator[SourceRow]:
    """Of JSON Lines (packed too) or Parquet. Raises DataError at the first that cannot be read: a benchmark is whole, or it is none."""
    kind, source = ("parquet", parquet) if suffix(path) in TABLES else ("jsonl", jsonl)
    for row in source.read(SourceSpec(kind=kind, path=str(path)), path):
        if isinstance(row, BadRow):
            raise DataError(row.reason, file=path, line=row.line, hint="download the file anew")
        yield row


def document(path: Path) -> Any:
    """A file that is one JSON value; None where it is JSON Lines under that name."""
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except UnicodeDecodeError as error:
        raise DataError(f"not UTF-8: {error.reason}", file=path, hint="download the file anew") from None
    except json.JSONDecodeError as error:
        if error.msg == "Extra data":
            return None
        raise DataError(f"not JSON: {error.msg}", file=path, line=error.lineno, hint="download the file anew") from None


def text(row: SourceRow, column: str) -> str:
    """Raises DataError where the record has no such text."""
    value = row.record.get(column)
    if not isinstance(value, str) or not value:
        refuse(row, f"no text {column!r}" if value is None or value == "" else f"{column} is {value!r}, no text", needs(row.record))
    return value


def needs(record: Mapping[str, Any]) -> str:
    return f"the row has {', '.join(map(str, record)) or 'nothing'}"


def refuse(row: SourceRow, message: str, hint: str) -> NoReturn:
    raise DataError(message, file=row.file, line=row.line, hint=hint)
