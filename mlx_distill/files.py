"""Atomic writes, locks and append-only lines: what is written is there whole, or not at all.

Every writer raises OutputError (or DoesNotFit, on a full disk) with the path and the way out, never a bare OSError.
It knows bytes, text and JSON; nothing of what they mean.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from io import FileIO
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
    errno.EFBIG: ("its disk, or `ulimit -f`, allows no file as large", "write to another disk, or raise the limit"),
    errno.ENOLCK: ("its disk has no file locks", "write to a local disk"),
    errno.ENOTSUP: ("its disk has no file locks", "write to a local disk"),
}
_HIDDEN = ".mlx-distill."
"""How names begin of what is not whole yet."""
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
        return DoesNotFit("cannot be written: the disk is full", hint="free some space, or write to another disk", file=path)
    reason, hint = _REASONS.get(error.errno or 0, (error.strerror or str(error), None))
    return OutputError(f"cannot be written: {reason}", hint=hint, file=path)


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """A hidden file beside `path`, to be written; on leaving it takes the place of `path`, on an error it vanishes.

    Missing folders are made. It is on the disk before it has its name.
    """
    with writing(path):
        target = path.resolve()  # a link stays a link; what it points to is replaced
        if target.exists() and not target.is_file():
            # renaming over a device such as /dev/null would remove the device
            raise OSError(errno.EISDIR, "") if target.is_dir() else OSError(errno.EINVAL, "it is not a regular file")
        with _hidden(target.parent, lambda place: place.touch(exist_ok=False)) as hidden:
            with hidden.open("r+b") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            hidden.replace(target)
            _sync_folder(target.parent)


def write_bytes(path: Path, data: bytes) -> None:
    """As `atomic_file`."""
    with atomic_file(path) as file:
        file.write(data)


def write_text(path: Path, text: str) -> None:
    """UTF-8. A lone surrogate, which UTF-8 lacks, is written as its escape (valid within JSON and YAML quotes)."""
    write_bytes(path, text.encode("utf-8", "backslashreplace"))


def copy_file(source: Path, path: Path) -> None:
    """As `atomic_file`, in pieces, whatever its size."""
    with source.open("rb") as read, atomic_file(path) as file:
        shutil.copyfileobj(read, file, 1 << 20)


def sha256(path: Path) -> str:
    """Of a file's content, read in pieces. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def free_bytes(path: Path) -> int:
    """Of the disk that `path` is on, or will be."""
    place = next(folder for folder in path.resolve().parents if folder.is_dir())
    return shutil.disk_usage(place).free


def write_json(path: Path, doc: Any) -> None:
    """Raises ValueError on NaN and infinities, which JSON lacks."""
    write_text(path, json.dumps(doc, ensure_ascii=False, allow_nan=False, indent=2) + "\n")


@contextlib.contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """A hidden folder beside `path`, to be filled; on leaving it becomes `path`, on an error it vanishes.

    `path` may be absent or an empty folder. Where two processes fill the same one, the first to leave has it, and the other fails.
    """
    refuse_taken(path)
    with writing(path):
        target = path.resolve()
        with _hidden(target.parent, Path.mkdir) as hidden:
            yield hidden
            _sync_tree(hidden)
            try:
                hidden.rename(target)
            except OSError as error:
                if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                    raise OutputError("another process has written it meanwhile", hint="name another place", file=path) from None
                raise
            _sync_folder(target.parent)


def refuse_taken(path: Path) -> None:
    """Raises OutputError where `path` is neither absent nor an empty folder: before anything is done for what is to come there."""
    with writing(path):
        if path.exists() and not path.is_dir():
            raise OutputError("a file stands there already", hint="name another place, or remove it first", file=path)
        if path.exists() and any(path.iterdir()):
            raise OutputError("the folder is not empty", hint="name a new folder, or remove this one", file=path)


@contextlib.contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Hold `path` (a file or a folder, there or not) for this process; the lock ends with the process, whatever ends it.

    The lock is a hidden file beside it. Raises OutputError where another process, or this one, holds it already.
    """
    with writing(path):
        target = path.resolve()
        target.parent.mkdir(parents=True, exist_ok=True)
        lock = target.with_name(f".{target.name}.lock")
        file = _locked(lock, path)
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
            by = f"process {holder}" if holder else "another process"
            raise OutputError(f"is in use by {by}", hint="wait until it is done, or write elsewhere", file=named) from None
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


def remove_folder(path: Path) -> None:
    """It is gone at once: what a kill leaves of it has no name any more, and is swept away like a write that was broken off."""
    with writing(path):
        hidden = path.rename(path.with_name(f"{_HIDDEN}{secrets.token_hex(6)}"))
    _remove(hidden)


def sweep(folder: Path) -> None:
    """Remove what killed processes left in a folder, and in those within it, that nobody may ever write to again."""
    for parent in {left.parent for left in folder.rglob(f"{_HIDDEN}*")}:
        _sweep(parent)


def append_line(file: FileIO, line: bytes) -> None:
    """Write a line at the end of a file that is open for appending, or nothing of it where the disk is full."""
    end = os.fstat(file.fileno()).st_size
    rest = memoryview(line)
    try:
        while rest:
            rest = rest[file.write(rest) :]
    except OSError:
        with contextlib.suppress(OSError):
            file.truncate(end)
        raise


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


@contextlib.contextmanager
def _hidden(parent: Path, make: Callable[[Path], None]) -> Iterator[Path]:
    """A new hidden file or folder, locked until it is renamed or, where the block fails, removed.

    The system lets go of a killed process's locks, so whoever writes beside it next can tell what it left from what is in use.
    """
    parent.mkdir(parents=True, exist_ok=True)
    _sweep(parent)
    hidden, lock = _made(parent, make)
    try:
        yield hidden
    except BaseException:
        _remove(hidden)
        raise
    finally:
        os.close(lock)


def _made(parent: Path, make: Callable[[Path], None]) -> tuple[Path, int]:
    while True:
        hidden = parent / f"{_HIDDEN}{secrets.token_hex(6)}"
        make(hidden)
        with contextlib.suppress(FileNotFoundError):
            lock = os.open(hidden, os.O_RDONLY)
            with contextlib.suppress(OSError):  # a disk without locks: then nothing there is ever swept away
                fcntl.flock(lock, fcntl.LOCK_EX)
            if hidden.exists():
                return hidden, lock
            os.close(lock)  # another process swept it away before it was locked


def _sweep(parent: Path) -> None:
    """Remove what killed processes left."""
    for left in parent.glob(f"{_HIDDEN}*"):
        with contextlib.suppress(OSError):
            lock = os.open(left, os.O_RDONLY)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _remove(left)
            finally:
                os.close(lock)


def _remove(place: Path) -> None:
    if place.is_dir():
        shutil.rmtree(place, ignore_errors=True)
    else:
        place.unlink(missing_ok=True)


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
