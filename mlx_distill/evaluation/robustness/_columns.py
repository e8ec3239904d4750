"""The texts of a row: which of its columns the task's template reads, and the row with one of them changed. Nothing is changed in place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mlx_distill.evaluation.robustness._suite import Ask
from mlx_distill.recipe.schema import TaskSpec
from mlx_distill.records import BadRow, Example, Prediction
from mlx_distill.task.fields import ABSENT, follow
from mlx_distill.task.prompt import columns, fill


def texts(task: TaskSpec, record: Mapping[str, Any]) -> dict[str, str]:
    """Column -> text, for the columns with something to read; numbers, lists and records are no texts.

    None at all where a column of the template is missing: such a row cannot be asked.
    """
    found = {column: follow(record, column) for column in columns(task.input)}
    if ABSENT in found.values():
        return {}
    return {column: value for column, value in found.items() if isinstance(value, str) and value.strip()}


def longest(texts: Mapping[str, str]) -> str:
    """The column of the longest text, the first of several. `texts` is not empty."""
    return max(texts, key=lambda column: len(texts[column]))


def put(record: Mapping[str, Any], path: str, value: str) -> dict[str, Any]:
    """The record with another value where `task.fields.follow` finds the column.

    >>> put({"a": {"b": "x", "c": 1}}, "a.b", "y"), put({"a.b": "x"}, "a.b", "y")
    ({'a': {'b': 'y', 'c': 1}}, {'a.b': 'y'})
    """
    if path in record:
        return {**record, path: value}
    head, _, rest = path.partition(".")
    return {**record, head: put(record[head], rest, value)}


def example(task: TaskSpec, id: str, record: Mapping[str, Any]) -> Example | BadRow:
    """A row to ask. One with nothing to read is refused, as `infer` refuses it."""
    read = columns(task.input)
    if all(_is_empty(follow(record, column)) for column in read):
        return BadRow(f"empty: there is nothing to read in {' or '.join(read)}", id=id)
    return Example(id, record, fill(task.input, record))


def _is_empty(value: Any) -> bool:
    return value is None or (isinstance(value, str) and not value.strip()) or value in ([], {})


def answers(ask: Ask, rows: Sequence[Example | BadRow]) -> list[Prediction | BadRow]:
    """All that can be asked, in one call; the others are refused already."""
    asked = [row for row in rows if isinstance(row, Example)]
    given = list(ask(asked)) if asked else []
    assert len(given) == len(asked)
    found = iter(given)
    return [next(found) if isinstance(row, Example) else row for row in rows]
