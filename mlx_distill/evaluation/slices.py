"""What a report is sliced by: columns, fields, `tier`, `length`, or expressions over them, as one name a row.

    values("language", rows)          ["el", "en", "", ...]        "" where a row has none
    values("length", rows)            ["Q2: 210 to 480", ...]      quartiles of the text's characters
    values("year >= 2020", rows)      ["yes", "no", ...]
    problems(slices, rows)            what is wrong with them, before anything is trained

A name is looked for in this order: the judge's `tier` and `overall`, where it has them; the labels of a field; a column of the record;
`text`, and `length`, its characters. A slice that is the name of a column is that column, whatever signs it holds.
It knows rows and their records; it computes no figure.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

from mlx_distill.catalog import nearest
from mlx_distill.errors import DataError, RecipeError
from mlx_distill.evaluation.expression import as_number, evaluate, quartiles, text_of
from mlx_distill.evaluation.judge import Judged
from mlx_distill.recipe.expression import argument, parse
from mlx_distill.recipe.schema import TaskSpec
from mlx_distill.records import Example
from mlx_distill.task.fields import ABSENT, follow

OWN = ("text", "length", "tier", "overall")
"""Names that every row has, beside its columns and labels."""
SHOWN = 20
"""Columns named in a hint."""


def values(expression: str, rows: Sequence[Judged], fields: Iterable[str] = ()) -> list[str]:
    """The slice that each row is in. `fields`: names that are known, also where no row has a label of theirs.

    Raises RecipeError for an expression that cannot be read or names nothing.
    """
    if not rows:
        return []
    known = frozenset(fields)

    def columns(name: str) -> Sequence[Any]:
        found = _column(name, rows, known)
        if found is None:
            raise _no_such(expression, name, [*dict.fromkeys([*known, *rows[0].reference, *map(str, rows[0].record), *OWN])])
        return found

    if (column := _column(expression, rows, known)) is not None:
        return _quarters(column) if _is_length(expression, rows) else [_plain(value) for value in column]
    parsed = parse(expression)
    if parsed.name is not None:
        return [_plain(value) for value in columns(parsed.name)]
    if (within := argument(parsed, "quartile")) is not None:
        return _quarters(evaluate(within, columns, len(rows)))
    found = evaluate(parsed, columns, len(rows))
    return [("yes" if value else "no") if isinstance(value, bool) else text_of(value) for value in found]


def problems(expression: str, rows: Sequence[Example], task: TaskSpec) -> RecipeError | None:
    """What is wrong with a slice of these rows."""
    weighted = any(spec.weight is not None for spec in task.fields.values())
    known = [*task.fields, "text", "length", *(["overall"] if weighted else []), *(["tier"] if task.tiers else [])]

    def there(name: str) -> bool:
        return name in known or any(follow(row.record, name) is not ABSENT for row in rows)

    if there(expression):
        return None
    try:
        names = parse(expression).names
    except RecipeError as error:
        return error
    columns = list(dict.fromkeys([*(str(name) for row in rows[:1] for name in row.record), *known]))
    unknown = next((name for name in names if not there(name)), None)
    if unknown is not None:
        return _no_such(expression, unknown, columns)
    return None if names else RecipeError(f"the slice {expression!r} names no column, so all rows are in one", hint=_there(columns))


def require(slices: Sequence[str], rows: Sequence[Example], task: TaskSpec, path: Path) -> None:
    """Before the training, not in the report after it. Raises DataError for the first slice that these rows cannot be sliced by."""
    for expression in slices:
        if (error := problems(expression, rows, task)) is not None:
            raise DataError(f"evaluate.slices: {error.message}", file=path, hint=error.hint)


def _column(name: str, rows: Sequence[Judged], fields: Collection[str]) -> list[Any] | None:
    """A name's value in each row, None where a row has none; None for a name that nothing has."""
    if name == "tier" and any(row.reference_tier is not None for row in rows):
        return [row.reference_tier for row in rows]
    if name == "overall" and any(row.reference_overall is not None for row in rows):
        return [row.reference_overall for row in rows]
    if any(name in row.reference for row in rows):
        return [row.reference.get(name) for row in rows]
    found = [follow(row.record, name) for row in rows]
    if any(value is not ABSENT for value in found):
        return [None if value is ABSENT else value for value in found]
    if name in ("text", "length"):
        return [row.text if name == "text" else len(row.text) for row in rows]
    return [None] * len(rows) if name in OWN or name in fields else None


def _is_length(name: str, rows: Sequence[Judged]) -> bool:
    """Whether a slice is the texts' length, and no column or field of that name."""
    return name == "length" and not any("length" in row.reference or follow(row.record, name) is not ABSENT for row in rows)


def _plain(value: Any) -> str:
    """A column's value as it stands; NaN, which differs from itself, is none."""
    return "" if value != value else text_of(value)


def _quarters(column: Sequence[Any]) -> list[str]:
    """The quarter of each number with its range: Q1: 12 to 340."""
    quarter, numbers = quartiles(column), [as_number(value) for value in column]
    ranges: dict[str, list[float]] = {}
    for name, number in zip(quarter, numbers, strict=True):
        if name is not None and number is not None:
            ranges.setdefault(name, []).append(number)
    names = {name: f"{name}: {text_of(min(own))} to {text_of(max(own))}" for name, own in ranges.items()}
    return ["" if name is None else names[name] for name in quarter]


def _no_such(expression: str, name: str, columns: Sequence[str]) -> RecipeError:
    where = f"the slice {expression!r} names {name!r}" if name != expression else f"there is a slice by {name!r}"
    return RecipeError(f"{where}, and there is no such column or field", hint=_nearest(name, columns))


def _nearest(name: str, columns: Sequence[str]) -> str:
    found = nearest(name, list(columns))
    return found if found.startswith("did you mean") else _there(columns)


def _there(columns: Sequence[str]) -> str:
    more = len(columns) - SHOWN
    return f"there is {', '.join(columns[:SHOWN])}{f' and {more} more' if more > 0 else ''}"
