"""JSON Lines: one object a line, UTF-8, with or without a byte order mark. Empty lines do not count as rows.

It knows JSON, and nothing of what the objects mean. Lines are decoded one by one, so that one bad byte costs one row.
"""

from __future__ import annotations

import codecs
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mlx_distill.data.sources import SourceRow, _files
from mlx_distill.recipe.schema import SourceSpec
from mlx_distill.records import BadRow

SUFFIXES = (".jsonl", ".ndjson")
STREAMS = True


def read(spec: SourceSpec, path: Path) -> Iterator[SourceRow | BadRow]:
    """Rows of a file, or of every such file in a folder. Raises DataError."""
    files = _files.find(path, SUFFIXES, streams=STREAMS)
    return (row for file in files for row in _rows(file))


def _rows(path: Path) -> Iterator[SourceRow | BadRow]:
    line, name = 0, _files.name(path)
    with _files.opened(path) as file:
        for line, raw in _files.numbered(file, path):
            raw = raw.removeprefix(codecs.BOM_UTF8) if line == 1 else raw
            if not raw.strip():
                continue
            try:
                yield SourceRow(line, _parse(raw), name)
            except (ValueError, RecursionError) as error:
                yield BadRow(_reason(error, raw), line, file=name)
    if not line:
        raise _files.empty(path)


def _parse(raw: bytes) -> dict[str, Any]:
    value = json.loads(raw.decode("utf-8"), parse_constant=_no_number)
    if not isinstance(value, dict):
        raise ValueError(f"not an object but {_kind(value)}; JSON Lines has one object a line")
    return value


def _no_number(name: str) -> float:
    """Python's reader takes them, JSON does not know them, and no field has such a value."""
    raise ValueError(f"{name} is no JSON; a value that is not known is null")


def _reason(error: Exception, raw: bytes) -> str:
    if isinstance(error, UnicodeDecodeError):
        return f"not UTF-8: byte 0x{raw[error.start]:02x}, the {error.start + 1}. of the line"
    if isinstance(error, RecursionError):
        return "not JSON that can be read: nested too deeply"
    if "set_int_max_str_digits" in str(error):
        return f"a whole number of more than {sys.get_int_max_str_digits():,} digits; as a text, in quotes, it can be read"
    if not isinstance(error, json.JSONDecodeError):
        return str(error)
    if error.msg.startswith("Unterminated string") or error.pos >= len(error.doc.rstrip()):
        return f"not JSON: the line ends in the middle of a value ({len(error.doc.rstrip())} characters)"
    return f"not JSON: {error.msg}, at character {error.colno}"


def _kind(value: object) -> str:
    if value is None:
        return "null"
    return {list: "a list", str: "a text", bool: "true or false", int: "a number", float: "a number"}[type(value)]
