"""Read a source of any kind, and tell a file's kind by its name. It knows which kinds there are from the catalog, and no format."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from mlx_distill import catalog
from mlx_distill.data.sources import SourceRow
from mlx_distill.errors import DataError
from mlx_distill.recipe.schema import SourceSpec
from mlx_distill.records import BadRow


def read(spec: SourceSpec, path: Path) -> Iterator[SourceRow | BadRow]:
    """Stream the rows of `spec`. `path` is `spec.path` made absolute; a hub id's need not exist. Raises DataError."""
    rows: Iterator[SourceRow | BadRow] = catalog.find("data.sources", spec.kind).read(spec, path)
    return rows


def by_name(path: Path, *, delimiter: str | None = None) -> SourceSpec:
    """The source that a file's name stands for, or a folder's files. Raises DataError where none does, or several do."""
    suffixes = {suffix: kind for kind in catalog.names("data.sources") for suffix in catalog.find("data.sources", kind).SUFFIXES}
    names = [file.name for file in path.iterdir()] if path.is_dir() else [path.name]
    kinds = {suffixes[suffix] for name in names if (suffix := Path(name).suffix.lower()) in suffixes}
    if len(kinds) == 1:
        return SourceSpec(kind=kinds.pop(), path=str(path), delimiter=delimiter)
    known = ", ".join(f"*{suffix}" for suffix in sorted(suffixes))
    if kinds:
        raise DataError(f"the folder has files of several kinds: {', '.join(sorted(kinds))}", hint="name one of them", file=path)
    raise DataError(f"no kind of source reads {path.name}", hint=f"known are {known}; a folder of them is one source", file=path)
