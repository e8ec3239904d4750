"""A folder that appears whole or not at all: written under a hidden name beside its place, brought to the disk, renamed.

A hidden folder is locked while its writer lives; what a killed writer left is unlocked, and the next writer beside it sweeps it away.
It knows folders and bytes, nothing of what is in them.
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mlx_distill.errors import OutputError

PREFIX = ".mlx-distill."


@contextmanager
def staged(out: Path) -> Iterator[Path]:
    """A new folder which becomes `out` when the block ends, and is gone where the block fails.

    Raises OutputError where `out` exists, cannot be made, or the disk fills up.
    """
    refuse_existing(out)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        _sweep(out.parent)
        folder, lock = _make(out.parent)
    except OSError as error:
        raise _output_error(error, out) from None
    try:
        yield folder
        _publish(folder, out)
    except BaseException as error:
        shutil.rmtree(folder, ignore_errors=True)
        if isinstance(error, OSError):
            raise _output_error(error, out) from None
        raise
    finally:
        os.close(lock)


def write_file(path: Path, data: bytes) -> None:
    """A new file, on the disk when this returns."""
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(file, view) :]
        os.fsync(file)
    finally:
        os.close(file)


def refuse_existing(out: Path) -> None:
    try:
        what = "a folder" if out.is_dir() else "a file" if out.exists() else "a broken link" if out.is_symlink() else None
    except OSError as error:
        raise _output_error(error, out) from None
    if what is not None:
        raise OutputError(f"the output is {what} that exists already", hint="name another place, or remove it first", file=out)


def _publish(folder: Path, out: Path) -> None:
    """The rename is the moment at which `out` exists; everything in it is on the disk before."""
    _sync(folder)
    try:
        folder.rename(out)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            raise OutputError("another process has written the output meanwhile", hint="name another place", file=out) from None
        raise
    _sync(out.parent)


def _make(parent: Path) -> tuple[Path, int]:
    """A new hidden folder and its lock, which the system lets go when the process dies."""
    while True:
        folder = parent / f"{PREFIX}{secrets.token_hex(6)}"
        folder.mkdir()
        lock = os.open(folder, os.O_RDONLY)
        fcntl.flock(lock, fcntl.LOCK_EX)
        if folder.exists():
            return folder, lock
        os.close(lock)  # another process swept it away between the two lines above


def _sweep(parent: Path) -> None:
    """Remove what killed writers left. A folder whose writer lives is locked, and stays."""
    for folder in parent.iterdir():
        if not folder.name.startswith(PREFIX) or not folder.is_dir():
            continue
        try:
            lock = os.open(folder, os.O_RDONLY)
        except OSError:
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
        except OSError:
            pass
        finally:
            os.close(lock)


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _output_error(error: OSError, out: Path) -> OutputError:
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    hint = "free some space, or name a place on another disk" if full else "name a place that you may write to"
    return OutputError(f"the output cannot be written: {error.strerror or error}", hint=hint, file=error.filename or out)
