"""Read a source of any kind, and tell a file's kind by its name. It knows which kinds there are from the catalog, and no format.

What a name says is its suffix, without that of a packed file: texts.csv.gz is `csv`. Standard input has no name, and must be told it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from mlx_distill import catalog
from mlx_distill.data.sources import STANDARD_INPUT, SourceRow, _files
from mlx_distill.errors import DataError
from mlx_distill.recipe.schema import SourceSpec
from mlx_distill.records import BadRow


def read(spec: SourceSpec, path: Path) -> Iterator[SourceRow | BadRow]:
    """Stream the rows of `spec`. `path` is `spec.path` made absolute (hub ids need not exist), or `-`, standard input. Raises DataError."""
    rows: Iterator[SourceRow | BadRow] = catalog.find("data.sources", spec.kind).read(spec, path)
    return rows


def by_name(path: Path, *, format: str | None = None, delimiter: str | None = None) -> SourceSpec:
    """The source that a file's name stands for, or a folder's files, or standard input (`-`). `format`, one of `formats()`, is taken for
    the name's suffix. Raises DataError where nothing reads it, or several do.
    """
    if format is not None:
        return _told(path, format, delimiter)
    if path == STANDARD_INPUT:
        raise DataError("standard input has no name that says what it is", hint=f"say it: --format {' or '.join(_streamed())}")
    known = _suffixes()
    kinds = {known[suffix(file)] for file in (_files.members(path) if path.is_dir() else [path]) if suffix(file) in known}
    if len(kinds) == 1:
        return SourceSpec(kind=kinds.pop(), path=str(path), delimiter=delimiter)
    if kinds:
        raise DataError(f"the folder has files of several kinds: {', '.join(sorted(kinds))}", hint="name one of them", file=path)
    if path.is_dir() and not any(path.iterdir()):
        raise DataError("the folder is empty", hint="put files into it, or name a file", file=path)
    raise _unknown(path)


def files(spec: SourceSpec, path: Path) -> list[Path]:
    """The files behind a source, in the order in which `read` takes them; none behind standard input and pipes. Raises DataError."""
    source = _source(spec.kind)
    found = _files.find(path, source.SUFFIXES, streams=source.STREAMS)
    return [file for file in found if file != STANDARD_INPUT and file.is_file()]


def formats() -> list[str]:
    """What `by_name` may be told: the suffixes of all kinds, without the dot."""
    return sorted(suffix.removeprefix(".") for suffix in _suffixes())


def suffix(path: Path) -> str:
    """What a name says: .csv for texts.csv.gz."""
    return _files.suffix(path)


def _told(path: Path, format: str, delimiter: str | None) -> SourceSpec:
    kind = _suffixes().get(f".{format}")
    if kind is None:
        raise DataError(f"there is no format {format!r}", hint=catalog.nearest(format, formats()))
    # A name that says nothing does not say either that columns are separated by tabs.
    return SourceSpec(kind=kind, path=str(path), delimiter="\t" if format == "tsv" and delimiter is None else delimiter)


def _suffixes() -> dict[str, str]:
    """The kind that reads each."""
    return {suffix: kind for kind in catalog.names("data.sources") for suffix in _source(kind).SUFFIXES}


def _streamed() -> list[str]:
    return [suffix.removeprefix(".") for suffix, kind in sorted(_suffixes().items()) if _source(kind).STREAMS]


def _source(kind: str) -> ModuleType:
    return catalog.find("data.sources", kind)


def _unknown(path: Path) -> DataError:
    streamed = ", ".join(f"*.{name}" for name in _streamed())
    others = ", ".join(f"*.{name}" for name in formats() if name not in _streamed())
    hint = f"known are {streamed}, packed too (.gz, .zst), and {others}; a folder of them is one source"
    if not path.is_dir():
        hint += "; of another name? infer reads it as what --format says it is"
    return DataError(f"no kind of source reads {path.name}", hint=hint, file=path)
