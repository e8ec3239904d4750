"""A bundle written: hashed first, so that the manifest stands at the head, then copied, and compared while it is copied."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from mlx_distill.bundle import layout
from mlx_distill.bundle.manifest import Manifest, Part, make
from mlx_distill.bundle.opening import verify
from mlx_distill.bundle.reading import PIECE, head, reading
from mlx_distill.errors import BundleError, DistillError, DoesNotFit, OutputError
from mlx_distill.files import atomic_file, free_bytes

Source = Path | bytes
"""A part's content: a file, or what is not worth one."""
OTHER = "name another file, or remove it first"


def write(file: Path, parts: Mapping[str, Source], facts: Mapping[str, Any]) -> tuple[Manifest, bool]:
    """Its manifest, and whether it was written now: a file that is this very bundle is left as it is.

    Memory: a MiB. Raises OutputError where something else stands there, or a source changes meanwhile; DoesNotFit; BundleError.
    """
    manifest = make((_part(name, source) for name, source in parts.items()), facts)
    if file.exists():
        _require_same(file, manifest)
        return manifest, False
    _require_space(file, manifest.size)
    with atomic_file(file) as out:
        out.write(manifest.head)
        for part in manifest.parts:
            _copy(part, parts[part.name], out)
        out.write(layout.END)
    return manifest, True


def refuse_other(file: Path) -> None:
    """Raises OutputError where `file` is there and no bundle: before anything is read, or fetched, for one."""
    if file.is_dir():
        raise OutputError("this is a folder; a bundle is one file", hint="name a file in it, such as NAME.bundle", file=file)
    if file.exists():
        try:
            with reading(file) as stream:
                head(stream, file)
        except DistillError:
            raise OutputError("another file stands there already", hint=OTHER, file=file) from None


def _part(name: str, source: Source) -> Part:
    digest, size = hashlib.sha256(), 0
    for piece in _pieces(source):
        digest.update(piece)
        size += len(piece)
    return Part(name, size, digest.hexdigest())


def _copy(part: Part, source: Source, out: BinaryIO) -> None:
    digest, size = hashlib.sha256(), 0
    out.write(layout.header(part.name, part.size))
    for piece in _pieces(source):
        digest.update(piece)
        size += len(piece)
        out.write(piece)
    if (size, digest.hexdigest()) != (part.size, part.sha256):
        place = source if isinstance(source, Path) else None
        raise OutputError("it changed while it was copied", hint="wait until nobody writes it, and bundle again", file=place)
    out.write(layout.padding(part.size))


def _pieces(source: Source) -> Iterator[bytes]:
    if isinstance(source, bytes):
        yield source
        return
    try:
        with source.open("rb") as stream:
            while piece := stream.read(PIECE):
                yield piece
    except OSError as error:
        raise BundleError(f"cannot be read: {error.strerror}", file=source) from None


def _require_same(file: Path, manifest: Manifest) -> None:
    """Raises OutputError where what stands there is anything but this bundle, every byte of it."""
    refuse_other(file)
    there, found = verify(file)
    if found:
        raise OutputError(f"a damaged bundle stands there ({found[0]})", hint=OTHER, file=file)
    if there.identity != manifest.identity:
        raise OutputError("another bundle stands there already", hint=OTHER, file=file)


def _require_space(file: Path, needed: int) -> None:
    free = free_bytes(file)
    if free < needed:
        hint = "free some space, or write to another disk"
        raise DoesNotFit(f"the bundle needs {needed / 1e9:.2f} GB of disk; {free / 1e9:.2f} GB are free", hint=hint, file=file)
