"""What is wrong in a recipe, and where. It knows nothing of how it was found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mlx_distill.errors import RecipeError


@dataclass(frozen=True, slots=True)
class Problem:
    """`path` is the dotted key, "" for the whole recipe. `line` is None where no line wrote it (`--set`, a missing file)."""

    file: str
    line: int | None
    path: str
    message: str
    hint: str | None = None

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}: " if self.line else f"{self.file}: "
        return place + (f"{self.path}: " if self.path else "") + self.message + (f" ({self.hint})" if self.hint else "")


def as_error(problems: Sequence[Problem]) -> RecipeError:
    """One problem is the error itself; several are listed, one a line."""
    first = problems[0]
    if len(problems) == 1:
        message = f"{first.path}: {first.message}" if first.path else first.message
        return RecipeError(message, hint=first.hint, file=first.file, line=first.line)
    return RecipeError("\n".join([f"{len(problems)} problems", *(f"  {problem}" for problem in problems)]), file=first.file)
