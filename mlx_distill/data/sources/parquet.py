"""Parquet, by batches of rows: nested columns are dicts and lists, a null is None.

It knows pyarrow's files, and nothing of what the columns mean.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mlx_distill.data.sources import SourceRow, _files
from mlx_distill.errors import DataError
from mlx_distill.recipe.schema import SourceSpec
from mlx_distill.records import BadRow

SUFFIXES = (".parquet",)
STREAMS = False
BATCH = 64
"""Rows that are plain Python at a time: few, as each may hold a long text."""


def read(spec: SourceSpec, path: Path) -> Iterator[SourceRow | BadRow]:
    """Rows of a file, or of every such file in a folder; `line` is a row's ordinal in its file. Raises DataError."""
    files = _files.find(path, SUFFIXES, streams=STREAMS)
    return (row for file in files for row in _rows(file))


def _rows(path: Path) -> Iterator[SourceRow | BadRow]:
    import pyarrow.parquet

    with _readable(path), path.open("rb") as stream, pyarrow.parquet.ParquetFile(stream) as file:
        _check_columns(file.schema_arrow.names, path)
        line = 0
        for batch in file.iter_batches(batch_size=BATCH):
            for record in _records(batch):
                line += 1
                if isinstance(record, str):
                    yield BadRow(record, line, file=str(path))
                else:
                    yield SourceRow(line, record, str(path))


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """pyarrow's errors, and the system's, as a DataError."""
    import pyarrow

    try:
        yield
    except (pyarrow.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # without a number it is pyarrow's own: a damaged page
            with _files.reading(path):
                raise
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"no Parquet file, or a damaged one: {reason}", hint="write or copy it anew", file=path) from error


def _check_columns(names: list[str], path: Path) -> None:
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise DataError(f"the column {', '.join(map(repr, twice))} stands there more than once", file=path)


def _records(batch: Any) -> Iterator[dict[str, Any] | str]:
    """The batch's rows as dicts. One that has no Python value, such as a text that is not UTF-8, is the reason instead."""
    try:
        yield from batch.to_pylist()
    except ValueError:
        for i in range(batch.num_rows):
            try:
                yield from batch.slice(i, 1).to_pylist()
            except ValueError as error:
                yield f"a value that cannot be read: {error}"
