"""What can go wrong, as one tree. Each error knows its exit code, and the way out where there is one.

    DistillError            something that the user can mend; exit code 2
      RecipeError           the recipe: its shape, its sense, or what it points to
      DataError             labels or texts that cannot be read, or too many bad rows
      CheckpointError       a folder that is no checkpoint, or a damaged one
      BundleError           a file that is no bundle, or a damaged one; wheels that cannot be had
      BackendError          no backend here, or one that cannot do what is asked
      DoesNotFit            memory or disk would not suffice
      OutputError           the place to write to: in use, read-only, of the wrong kind, full
      Interrupted           Ctrl-C or SIGTERM, after what was done had been saved; exit code 130

Anything else that reaches `cli.main` is our own fault: exit code 1.
"""

from __future__ import annotations

from pathlib import Path


class DistillError(Exception):
    """A message that names the value; `hint` is the way out; `file` and `line` are the place."""

    exit_code = 2

    def __init__(self, message: str, *, hint: str | None = None, file: Path | str | None = None, line: int | None = None):
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.file = str(file) if file is not None else None
        self.line = line

    @property
    def kind(self) -> str:
        return type(self).__name__

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}: " if self.file and self.line else f"{self.file}: " if self.file else ""
        return f"{place}{self.message}" + (f" ({self.hint})" if self.hint else "")


class RecipeError(DistillError):
    pass


class DataError(DistillError):
    pass


class CheckpointError(DistillError):
    pass


class BundleError(DistillError):
    pass


class BackendError(DistillError):
    pass


class DoesNotFit(DistillError):
    pass


class OutputError(DistillError):
    pass


class Interrupted(DistillError):
    exit_code = 130
