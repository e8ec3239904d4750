"""Atomic writes, locks and append-only lines: what is written is there whole, or not at all.

Every writer raises OutputError (or DoesNotFit, on a full disk) with the path and the way out, never a bare OSError.
It knows bytes, text and JSON; nothing of what they mean.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from mlx_distill.errors import DistillError, DoesNotFit, OutputError

_FULL = (errno.ENOSPC, errno.EDQUOT)
_REASONS = {
    errno.EROFS: ("its disk is read-only", "write to another folder"),
    errno.EACCES: ("no permission", "change the permissions, or write to another folder"),
    errno.EPERM: ("no permission", "change the permissions, or write to another folder"),
    errno.EISDIR: ("it is a folder, not a file", "name a file in it"),
    errno.ENOTDIR: ("a file stands where a folder is needed", "move that file, or write to another folder"),
    errno.EEXIST: ("a file stands where a folder is needed", "move that file, or write to another folder"),
    errno.ENOTEMPTY: ("the folder is not empty", "name a new folder, or remove this one"),
    errno.ENAMETOOLONG: ("the name is too long", "take a shorter one"),
    errno.ENOLCK: ("its disk has no file locks", "write to a local disk"),
    errno.ENOTSUP: ("its disk has no file locks", "write to a local disk"),
}
_TAIL = 64 * 1024


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Translate what the system says about writing to `path` into OutputError or DoesNotFit."""
    try:
        yield
    except OSError as error:
        raise output_error(path, error) from error


def output_error(path: Path, error: OSError) -> DistillError:
    if error.errno in _FULL:
        return DoesNotFit(f"cannot write {path}: the disk is full", hint="free some space, or write to another disk")
    reason, hint = _REASONS.get(error.errno or 0, (error.strerror or str(error), None))
    return OutputError(f"cannot write {path}: {reason}", hint=hint)


def write_bytes(path: Path, data: bytes) -> None:
    """Atomic: temporary file in the same folder, fsync, rename, fsync of the folder. Missing folders are made."""
    with writing(path):
        target = path.resolve()  # a link stays a link; what it points to is replaced
        if target.exists() and not target.is_file():
            # renaming over a device such as /dev/null would remove the device
            raise OSError(errno.EISDIR, "") if target.is_dir() else OSError(errno.EINVAL, "it is not a regular file")
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.parent / f".{secrets.token_hex(6)}.tmp"
        try:
            with temporary.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(target)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        _sync_folder(target.parent)


def write_text(path: Path, text: str) -> None:
    """UTF-8. A lone surrogate, which UTF-8 lacks, is written as its escape (valid within JSON and YAML quotes)."""
    write_bytes(path, text.encode("utf-8", "backslashreplace"))


def write_json(path: Path, doc: Any) -> None:
    """Raises ValueError on NaN and infinities, which JSON lacks."""
    write_text(path, json.dumps(doc, ensure_ascii=False, allow_nan=False, indent=2) + "\n")


@contextlib.contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """A hidden folder beside `path`, to be filled; on leaving it becomes `path`, on an error it vanishes.

    `path` may be absent or an empty folder. What a killed process left behind is removed by the next one.
    """
    with writing(path):
        target = path.resolve()
        if target.exists() and not target.is_dir():
            raise OSError(errno.EEXIST, "")
        if target.exists() and any(target.iterdir()):
            raise OSError(errno.ENOTEMPTY, "")
    partial = target.with_name(f".{target.name}.partial")
    with exclusive(partial, named=path):
        try:
            with writing(path):
                shutil.rmtree(partial, ignore_errors=True)
                partial.mkdir(parents=True)
            yield partial
            with writing(path):
                _sync_tree(partial)
                partial.replace(target)
                _sync_folder(target.parent)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise


@contextlib.contextmanager
def exclusive(path: Path, *, named: Path | None = None) -> Iterator[None]:
    """Hold `path` (a file or a folder, there or not) for this process; the lock ends with the process, whatever ends it.

    The lock is a hidden file beside it. Raises OutputError where another process, or this one, holds it already.
    """
    named = named or path
    with writing(named):
        target = path.resolve()
        target.parent.mkdir(parents=True, exist_ok=True)
        lock = target.with_name(f".{target.name}.lock")
        file = _locked(lock, named)
    try:
        yield
    finally:
        # unlinked while still held, so that whoever waits for this very file sees that it is gone
        with contextlib.suppress(OSError):
            lock.unlink()
        file.close()


def _locked(lock: Path, named: Path) -> BinaryIO:
    while True:
        file = lock.open("a+b")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read(32).decode("ascii", "replace").strip()
            file.close()
            raise OutputError(
                f"{named} is in use by " + (f"process {holder}" if holder else "another process"),
                hint="wait until it is done, or write elsewhere",
            ) from None
        except OSError:
            file.close()
            raise
        with contextlib.suppress(FileNotFoundError):
            if lock.stat().st_ino == os.fstat(file.fileno()).st_ino:
                file.truncate(0)
                file.write(str(os.getpid()).encode())
                file.flush()
                return file
        file.close()  # its last holder unlinked it in between


def drop_torn_line(path: Path) -> int:
    """Cut off what follows the last newline, as a kill may have left it. The number of bytes dropped; 0 for no file."""
    if not path.exists():
        return 0
    with writing(path), path.open("r+b") as file:
        size = end = file.seek(0, os.SEEK_END)
        while end > 0:
            start = max(0, end - _TAIL)
            file.seek(start)
            newline = file.read(end - start).rfind(b"\n")
            end = start + newline + 1 if newline >= 0 else start
            if newline >= 0:
                break
        if end < size:
            file.truncate(end)
        return size - end


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_tree(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            with path.open("rb") as file:
                os.fsync(file.fileno())
        elif path.is_dir():
            _sync_folder(path)
    _sync_folder(folder)
