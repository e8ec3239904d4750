"""Where things stand in records of a form that is not ours: a map of columns, as `--columns` writes it.

    Columns.parse("id=article_id,reference=oracle_{field},answer=student_{field}")

What has {field} in it names a column of each field of the task; what has not names one column that holds {field: value}, as an object or
as its JSON. The default is the form of predictions.jsonl and of `infer`'s result lines. It knows names; it reads no rows.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mlx_distill.catalog import nearest
from mlx_distill.errors import DataError
from mlx_distill.recipe.schema import TaskSpec
from mlx_distill.task.fields import ABSENT, follow

FIELD = "{field}"
EXAMPLE = "--columns 'id=article_id,reference=oracle_{field},answer=student_{field}'"
_PART = re.compile(r",\s*(?=\w+\s*=)")
_NAMES = ("id", "split", "reference", "answer", "confidence")


@dataclass(frozen=True, slots=True)
class Columns:
    """Columns, dotted paths, or with {field} one of each field."""

    id: str = "id"
    reference: str = "reference"
    answer: str = "answer"
    confidence: str = "confidence"
    split: str = "split"
    told: frozenset[str] = frozenset()
    """Those that somebody named."""

    @classmethod
    def parse(cls, text: str) -> Columns:
        """What is not named stays as it is. Raises DataError."""
        found: dict[str, str] = {}
        for part in filter(None, _PART.split(text.strip())):
            name, sign, column = (piece.strip() for piece in part.partition("="))
            if not sign or not column:
                raise DataError(f"--columns: {part!r} names no column", hint=EXAMPLE)
            if name not in _NAMES:
                raise DataError(f"--columns: {name!r} is nothing that a column can hold", hint=nearest(name, list(_NAMES)))
            if name in found:
                raise DataError(f"--columns: {name!r} stands there twice", hint="name one column for it")
            if set("{}") & set(column.replace("" if name in ("id", "split") else FIELD, "")):
                where = "there is one of them a row" if name in ("id", "split") else f"what may stand in braces is {FIELD}"
                raise DataError(f"--columns: {column!r} cannot be the column of the {name}", hint=where)
            found[name] = column
        return cls(**found, told=frozenset(found))

    def of(self, name: str, task: TaskSpec) -> list[str]:
        """The columns that hold the reference, the answer or the confidence; or the one of the id or the split."""
        column: str = getattr(self, name)
        return [column.replace(FIELD, one) for one in task.fields] if FIELD in column else [column]

    def require(self, record: Mapping[str, Any], task: TaskSpec, path: str) -> None:
        """Raises DataError where a record lacks every column that something was said to stand in, or that its answer could stand in."""
        for name in (name for name in _NAMES if name in self.told or name == "answer"):
            wanted = self.of(name, task)
            if all(follow(record, one) is ABSENT for one in wanted):
                hint = nearest(wanted[0], list(map(str, record)))
                hint = hint if name in self.told else f"say where the answers stand: {EXAMPLE}; {hint}"
                raise DataError(f"there is no column {' or '.join(map(repr, wanted[:3]))} for the {name}", file=path, hint=hint)
