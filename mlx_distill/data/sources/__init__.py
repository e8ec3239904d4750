"""Where rows come from: one file a kind of source, found by its name (`catalog.find("data.sources", spec.kind)`).

Each of them has

    SUFFIXES: tuple[str, ...]                                         the files that it takes from a folder
    STREAMS: bool                                                     read from front to back: so files may be packed, and pipes will do
    def read(spec: SourceSpec, path: Path) -> Iterator[SourceRow | BadRow]

which streams: rows come out before the file is at its end, and the file is never in memory as a whole. What cannot be read as the
source's format is a `BadRow` with its line and reason, and reading goes on behind it. What leaves nothing to read (no such file, an
empty one, a header with the same column twice, a packed file that breaks off) is a `DataError`: for paths at once, for contents when the
reader gets there, after every row before.
Sources know formats; nothing of tasks, templates, labels or ids.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

STANDARD_INPUT = Path("-")
"""Not a file of that name, which is `./-` made absolute."""


@dataclass(frozen=True, slots=True)
class SourceRow:
    """One record as its source gave it: flat or nested, texts of any content."""

    line: int
    """Where it begins in its file, from 1; in sources without lines, its ordinal."""
    record: dict[str, Any]
    file: str | None = None
    """The file it stands in; None where there are no files (hf)."""
