"""The files behind a path, and opening them: what is missing, empty or unreadable becomes a DataError that says so.

It knows suffixes, not formats.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mlx_distill.errors import DataError


def find(path: Path, suffixes: tuple[str, ...]) -> list[Path]:
    """The file itself, whatever its name; or a folder's files with these suffixes, by name. None of them is missing or empty."""
    with reading(path):
        found = sorted(_folder(path, suffixes)) if path.is_dir() else [path]
        for file in found:
            # A pipe has size 0 too, and rows all the same.
            if file.stat().st_size == 0 and file.is_file():
                raise DataError("the file is empty", file=file, hint="write rows into it, or remove it")
    return found


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Whatever the system says against reading becomes a DataError."""
    try:
        yield
    except FileNotFoundError:
        raise DataError(f"there is no file or folder {path}", hint=_near(path), file=path) from None
    except PermissionError:
        raise DataError("the file may not be read", hint=f"give yourself the right: chmod u+r {path}", file=path) from None
    except OSError as error:
        raise DataError(
            f"the file cannot be read: {error.strerror or error}", hint="is it a file, and is its disk there?", file=path
        ) from error


def _folder(path: Path, suffixes: tuple[str, ...]) -> Iterator[Path]:
    found = [file for file in path.iterdir() if file.suffix.lower() in suffixes and not file.is_dir() and not file.name.startswith(".")]
    if not found:
        kinds = " or ".join(f"*{suffix}" for suffix in suffixes)
        others = sorted(file.name for file in path.iterdir())[:3]
        hint = f"it has {', '.join(others)}, ..." if others else "it is empty"
        raise DataError(f"the folder has no file {kinds}", hint=hint, file=path)
    yield from found


def _near(path: Path) -> str:
    """What stands where the file was expected, so that a slip of the pen is seen at once."""
    if not path.parent.is_dir():
        return f"there is no folder {path.parent} either; a relative path starts at the recipe that names it"
    names = sorted(file.name for file in path.parent.iterdir() if not file.name.startswith("."))
    some = f"{path.parent} has {', '.join(names[:5])}{', ...' if len(names) > 5 else ''}" if names else f"{path.parent} is empty"
    return f"{some}; a relative path starts at the recipe that names it"
