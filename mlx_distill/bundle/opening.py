"""A bundle checked as a whole, and unpacked for use: once, into a folder that is named by what the bundle holds.

It runs nothing and unpickles nothing: it compares, and writes plain files whose names the manifest's rules allow.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from mlx_distill.bundle.manifest import AGAIN, MANIFEST, Manifest, Part
from mlx_distill.bundle.reading import Fault, faults, head, reading
from mlx_distill.errors import BundleError, DoesNotFit, OutputError
from mlx_distill.files import atomic_file, atomic_folder, free_bytes, remove_folder, write_bytes

SPARE_BYTES = 64 << 20


def verify(file: Path) -> tuple[Manifest, list[Fault]]:
    """All that is wrong with a bundle; every byte of it is read. Raises BundleError where it has no manifest to compare it with."""
    with reading(file) as stream:
        manifest, found = head(stream, file)
        return manifest, [*found, *faults(stream, manifest)]


def opened(file: Path, cache: Path) -> Path:
    """The folder of a bundle's parts, in `cache`/bundles under the hash of its manifest.

    The first time every byte of `file` is verified while it is unpacked, and nothing is left where one is wrong: BundleError names
    the part. After that, the manifest at the head of `file` (verified by its hash), the size of `file` and the unpacked parts' sizes
    are looked at, no content: `verify` does that. Several processes may open the same bundle. Raises OutputError, DoesNotFit too.
    """
    with reading(file) as stream:
        manifest, found = head(stream, file)
        _refuse(found, file)
        folder = cache / "bundles" / manifest.identity
        if file.stat().st_size != manifest.size:
            _refuse(list(faults(stream, manifest)), file)
        if _whole(folder, manifest):
            return folder
        if folder.exists():
            with contextlib.suppress(OutputError):  # another process was faster
                remove_folder(folder)
        _require_space(folder, manifest.size)
        try:
            _unpack(stream, manifest, folder, file)
        except OutputError:
            if not _whole(folder, manifest):
                raise
    return folder


def _whole(folder: Path, manifest: Manifest) -> bool:
    """Is every part there, in its size? It became a folder after all of them had been verified and were on the disk."""
    try:
        same = (folder / MANIFEST).read_bytes() == manifest.encoded
        return same and all((folder / part.name).stat().st_size == part.size for part in manifest.parts)
    except OSError:
        return False


def _unpack(stream: BinaryIO, manifest: Manifest, folder: Path, file: Path) -> None:
    with atomic_folder(folder) as made:

        @contextlib.contextmanager
        def receive(part: Part) -> Iterator[Callable[[bytes], object]]:
            with atomic_file(made / part.name) as out:
                yield out.write

        for fault in faults(stream, manifest, receive):
            _refuse([fault], file)
        write_bytes(made / MANIFEST, manifest.encoded)


def _refuse(found: list[Fault], file: Path) -> None:
    if found:
        raise BundleError(str(found[0]), hint=AGAIN, file=file)


def _require_space(folder: Path, needed: int) -> None:
    free = free_bytes(folder)
    if free < needed + SPARE_BYTES:
        hint = "free some space, or name a cache on another disk: MLX_DISTILL_CACHE"
        raise DoesNotFit(
            f"the unpacked bundle needs {needed / 1e9:.2f} GB of disk; {free / 1e9:.2f} GB are free", hint=hint, file=folder.parent
        )
