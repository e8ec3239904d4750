"""Whatever the datasets library reads: a folder of `save_to_disk`, a folder of data files, or a dataset of the hub.

Folders are streamed where they lie. A hub id is downloaded once; afterwards its cache is enough, without a network.
It knows the library's doors, and nothing of what the columns mean.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mlx_distill.data.sources import SourceRow
from mlx_distill.errors import DataError
from mlx_distill.recipe.schema import SourceSpec
from mlx_distill.records import BadRow

SUFFIXES: tuple[str, ...] = ()
STREAMS = False
HUB_ID = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")
SPLIT = "train"


def read(spec: SourceSpec, path: Path) -> Iterator[SourceRow | BadRow]:
    """Rows of one split; `line` is a row's ordinal. An existing `path` is read, another is the hub id `spec.path`. Raises DataError."""
    dataset = _local(spec, path) if path.exists() else _hub(spec, path)
    return _rows(dataset, spec, path)


def _rows(dataset: Any, spec: SourceSpec, path: Path) -> Iterator[SourceRow]:
    with _translated(f"row by row, {spec.path} cannot be read", "is a file of it damaged?", path):
        for ordinal, record in enumerate(dataset.with_format(None), start=1):
            yield SourceRow(ordinal, dict(record))


def _local(spec: SourceSpec, path: Path) -> Any:
    if not path.is_dir():
        raise DataError("hf reads a folder or a hub id, and this is a file", hint="kind: jsonl, csv or parquet reads a file", file=path)
    if spec.revision is not None:
        raise DataError(f"a local folder has no revision {spec.revision!r}", hint="leave revision out, or name a hub id", file=path)
    if any((path / name).is_file() for name in ("state.json", "dataset_dict.json")):
        return _saved(spec, path)
    import datasets

    with _translated("no dataset in this folder", "files of JSON, CSV or Parquet, or what save_to_disk writes", path):
        # Streaming needs no copy in the library's cache, whose key would be the folder's name.
        return datasets.load_dataset(str(path), split=spec.split or SPLIT, streaming=True)


def _saved(spec: SourceSpec, path: Path) -> Any:
    """What save_to_disk wrote: one dataset, or several by the names of their splits."""
    import datasets

    with _translated("not a dataset that save_to_disk wrote, or a damaged one", "save or copy it anew", path):
        saved = datasets.load_from_disk(str(path))
    if isinstance(saved, datasets.DatasetDict):
        if (spec.split or SPLIT) not in saved:
            there = ", ".join(sorted(map(str, saved)))
            raise DataError(f"the dataset has no split {spec.split or SPLIT!r}", hint=f"set split: to one of {there}", file=path)
        return saved[spec.split or SPLIT]
    if spec.split is not None and spec.split != str(saved.split):
        has = f"is the split {str(saved.split)!r}" if saved.split is not None else "has no splits"
        raise DataError(f"the dataset {has}, and split asks for {spec.split!r}", hint="leave split out", file=path)
    return saved


def _hub(spec: SourceSpec, path: Path) -> Any:
    if not HUB_ID.fullmatch(spec.path):
        raise DataError(f"there is no folder {path}, and {spec.path!r} is no hub id", hint="a hub id is OWNER/NAME", file=path)
    import datasets

    arguments = f"{spec.path!r}" + (f", revision={spec.revision!r}" if spec.revision else "")
    fetch = f'with a network, once: python -c "import datasets; datasets.load_dataset({arguments})"; from then on it works offline'
    save = "or save it to a folder with save_to_disk, and give that as path (a dataset with several configurations needs this)"
    with _translated(f"neither a folder {path} nor a dataset {spec.path} that can be had from the hub or the cache", f"{fetch}; {save}"):
        return datasets.load_dataset(spec.path, split=spec.split or SPLIT, revision=spec.revision)


@contextmanager
def _translated(what: str, hint: str, path: Path | None = None) -> Iterator[None]:
    """The library raises its own errors, pyarrow's, the network's and plain ValueErrors: here, and only here, they all become ours."""
    try:
        yield
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"{what}: {reason}", hint=hint, file=path) from error
