"""What tells one input from another: of each of its files the bytes, their SHA-256, and how many rows there are, in one reading.

A path tells nothing: files may move. It knows how a format ends its rows; nothing of what they hold.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mlx_distill.data.read import files
from mlx_distill.data.sources import _files
from mlx_distill.recipe.schema import SourceSpec

CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """Of one file."""

    name: str
    """Within the folder that was named; of a file alone, its own."""
    bytes: int
    sha256: str
    rows: int | None
    """Lines that hold one (of broken or empty ones a few more); None where that would cost an unpacking."""
    begins: str | None = None
    """SHA-256 of as many bytes as were asked for, where whole rows end there and others follow."""


def fingerprint(spec: SourceSpec, path: Path, before: Mapping[str, int] | None = None) -> list[Fingerprint] | None:
    """Of every file behind a source, as they are read; None of standard input and of pipes, which can be read once. Raises DataError.

    `before`: the bytes that a file had once, for `begins`. A packed file that was copied in part begins as the whole one does. Parquet
    does not grow at its end.
    """
    found = files(spec, path)
    if not found:
        return None
    return [_of(file, file.name, spec.kind, (before or {}).get(file.name)) for file in found]


def _of(file: Path, name: str, kind: str, mark: int | None) -> Fingerprint:
    grows, packed = kind in ("csv", "jsonl"), _files.is_packed(file)
    lines = None if packed or not grows else _Quoted() if kind == "csv" else _Lines()
    digest, size, begins, ended = hashlib.sha256(), 0, None, True
    with _files.reading(file), file.open("rb") as stream:
        while block := stream.read(CHUNK if mark is None or size >= mark else min(CHUNK, mark - size)):
            if size == mark and not ended and block[:1] not in b"\r\n":
                begins = None  # the last row of then goes on
            digest.update(block)
            size += len(block)
            if lines is not None:
                lines.add(block)
            if size == mark and grows:
                begins, ended = digest.hexdigest(), packed or block.endswith(b"\n")
    rows = lines.rows if lines is not None else _rows(file) if kind == "parquet" else None
    return Fingerprint(name, size, digest.hexdigest(), rows, begins if mark is not None and size > mark else None)


class _Lines:
    """Counts lines, the last one also where nothing ends it."""

    def __init__(self) -> None:
        self._ends, self._whole = 0, True

    def add(self, block: bytes) -> None:
        self._ends += block.count(b"\n")
        self._whole = block.endswith(b"\n")

    @property
    def rows(self) -> int:
        return self._ends + (not self._whole)


class _Quoted(_Lines):
    """Counts the lines behind a header; a line end within quotes ends none. A quote within quotes is doubled, which changes nothing."""

    def __init__(self) -> None:
        super().__init__()
        self._within = 0

    def add(self, block: bytes) -> None:
        pieces = block.split(b'"')  # inside and outside of quotes by turns
        self._ends += sum(piece.count(b"\n") for piece in pieces[self._within :: 2])
        self._within ^= (len(pieces) - 1) & 1
        self._whole = block.endswith(b"\n")

    @property
    def rows(self) -> int:
        return max(0, super().rows - 1)


def _rows(file: Path) -> int | None:
    import pyarrow
    import pyarrow.parquet

    try:
        return int(pyarrow.parquet.read_metadata(file).num_rows)
    except (pyarrow.ArrowException, OSError):
        return None  # whoever reads it will say why
