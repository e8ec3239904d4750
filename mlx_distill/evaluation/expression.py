"""An expression over rows, worked out: one value a row. `recipe.expression` says what may be written.

Values are texts, numbers, truth values, lists, and None for what is not known. Unknown goes through everything: a row without a year is
neither before 2020 nor after (`and`, `or` and `not` know as much as can be known: false and unknown is false; Kleene, "Introduction to
Metamathematics", 1952, paragraph 64). A CSV file has texts alone, so

    text and number       compared, or reckoned with, the text is a number, or unknown
    text and text         by order: numbers where both are some and neither is written in the expression; equal: as they stand
    text as a condition   false, no and 0 are false, as is an empty one; true for everything else

It knows nothing of rows but a function that gives a column of them.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from mlx_distill.recipe.expression import CONSTANTS, Parsed, function_of, name_of
from mlx_distill.task.fields import ABSENT, FALSE, TRUE

Values = list[Any]
Columns = Callable[[str], Sequence[Any]]
"""A name -> its value in each row; None or ABSENT where a row has none."""

_ORDER: dict[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Lt: lambda a, b: a < b,
    ast.LtE: lambda a, b: a <= b,
    ast.Gt: lambda a, b: a > b,
    ast.GtE: lambda a, b: a >= b,
}
_RECKON: dict[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: lambda a, b: a + b,
    ast.Sub: lambda a, b: a - b,
    ast.Mult: lambda a, b: a * b,
    ast.Div: lambda a, b: a / b,
    ast.FloorDiv: lambda a, b: a // b,
    ast.Mod: lambda a, b: a % b,
}


def evaluate(expression: Parsed, columns: Columns, rows: int) -> Values:
    """Its value in each of so many rows."""
    return _values(expression.tree, columns, rows)


def quartiles(values: Sequence[Any]) -> list[str | None]:
    """Which quarter each number is in, by the quartiles of them all: Q1 ... Q4. Equal numbers are in one; None where there is no number.

    >>> quartiles([1, 2, 3, "4", None])
    ['Q1', 'Q2', 'Q3', 'Q4', None]
    """
    numbers = np.array([math.nan if (number := as_number(value)) is None else number for value in values], dtype=float)
    known = ~np.isnan(numbers)
    if not known.any():
        return [None] * len(values)
    edges = np.quantile(numbers[known], [0.25, 0.5, 0.75])
    quarter = np.searchsorted(edges, numbers, side="left")
    return [f"Q{place + 1}" if there else None for place, there in zip(quarter.tolist(), known.tolist(), strict=True)]


def as_number(value: Any) -> float | None:
    """A number, or a text that reads as one; None for everything else."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _values(node: ast.expr, columns: Columns, rows: int) -> Values:
    def of(inner: ast.expr) -> Values:
        return _values(inner, columns, rows)

    if (name := name_of(node)) is not None:
        return [None if value is ABSENT or value != value else value for value in columns(name)]  # NaN differs from itself
    if isinstance(node, ast.Constant):
        return [node.value] * rows
    if isinstance(node, ast.Name):
        return [CONSTANTS[node.id]] * rows
    if isinstance(node, ast.Call):
        return _called(function_of(node) or "", of(node.args[0]))
    if isinstance(node, ast.BoolOp):
        joined = _all if isinstance(node.op, ast.And) else _any
        return [joined(parts) for parts in zip(*map(of, node.values), strict=True)]
    if isinstance(node, ast.UnaryOp):
        return [_unary(node.op, value) for value in of(node.operand)]
    if isinstance(node, ast.BinOp):
        return [_reckoned(type(node.op), *pair) for pair in zip(of(node.left), of(node.right), strict=True)]
    assert isinstance(node, ast.Compare), "parse let nothing else pass"
    return _compared(node, of)


def _called(function: str, values: Values) -> Values:
    if function == "quartile":
        return list(quartiles(values))
    return [{"lower": _lower, "len": _len}[function](value) for value in values]


def _lower(value: Any) -> Any:
    return value.lower() if isinstance(value, str) else [_lower(item) for item in value] if isinstance(value, list) else value


def _len(value: Any) -> int | None:
    return len(value) if isinstance(value, (str, list, dict)) else None


def _compared(node: ast.Compare, of: Callable[[ast.expr], Values]) -> Values:
    """Each comparison of a chain, all of which must hold."""
    sides = [node.left, *node.comparators]
    parts: list[Values] = []
    for operator, left, right in zip(node.ops, sides, sides[1:], strict=False):
        literal = any(isinstance(side, ast.Constant) and isinstance(side.value, str) for side in (left, right))
        if isinstance(operator, (ast.In, ast.NotIn)) and isinstance(right, (ast.List, ast.Tuple, ast.Set)):
            among = zip(*map(of, right.elts), strict=True) if right.elts else ((),) * len(of(left))
            held = [_among(value, items) for value, items in zip(of(left), among, strict=True)]
        elif isinstance(operator, (ast.In, ast.NotIn)):
            held = [_within(value, whole) for value, whole in zip(of(left), of(right), strict=True)]
        elif isinstance(operator, (ast.Eq, ast.NotEq)):
            held = [_equal(*pair) for pair in zip(of(left), of(right), strict=True)]
        else:
            held = [_ordered(type(operator), *pair, literal) for pair in zip(of(left), of(right), strict=True)]
        negated = isinstance(operator, (ast.NotEq, ast.NotIn))
        parts.append([None if value is None else value != negated for value in held])
    return [_all(row) for row in zip(*parts, strict=True)]


def _equal(left: Any, right: Any) -> bool | None:
    if left is None or right is None:
        return None
    if isinstance(left, bool) or isinstance(right, bool):
        flags = _flag(left), _flag(right)
        return None if None in flags else flags[0] == flags[1]
    if isinstance(left, str) != isinstance(right, str) and not isinstance(left, list) and not isinstance(right, list):
        numbers = as_number(left), as_number(right)
        text = left if isinstance(left, str) else right
        return (None if not str(text).strip() else False) if None in numbers else numbers[0] == numbers[1]
    return bool(left == right)


def _ordered(operator: type[ast.cmpop], left: Any, right: Any, literal: bool) -> bool | None:
    """`literal`: one side is a text that the expression holds."""
    numbers = as_number(left), as_number(right)
    texts = isinstance(left, str) and isinstance(right, str)
    if None not in numbers and not (texts and literal):
        return _ORDER[operator](*numbers)
    return _ORDER[operator](left, right) if texts else None


def _among(value: Any, items: Sequence[Any]) -> bool | None:
    """Whether a value, or of a list any item, is among some."""
    if isinstance(value, list):
        return _any([_among(item, items) for item in value])
    return _any([_equal(value, item) for item in items])


def _within(value: Any, whole: Any) -> bool | None:
    """Whether a text is a part of another, or a value an item of a list."""
    if value is None or whole is None:
        return None
    if isinstance(whole, list):
        return _any([_equal(value, item) for item in whole])
    return text_of(value) in text_of(whole)


def _all(parts: Sequence[Any]) -> bool | None:
    flags = [_holds(part) for part in parts]
    return False if False in flags else None if None in flags else True


def _any(parts: Sequence[Any]) -> bool | None:
    flags = [_holds(part) for part in parts]
    return True if True in flags else None if None in flags else False


def _holds(value: Any) -> bool | None:
    if value is None or isinstance(value, bool):
        return value
    return bool(value.strip()) and value.strip().casefold() not in FALSE if isinstance(value, str) else bool(value)


def _flag(value: Any) -> bool | None:
    """A truth value, or a text or number that means one."""
    word = text_of(value).strip().casefold()
    return True if word in TRUE else False if word in FALSE else None


def _unary(operator: ast.unaryop, value: Any) -> Any:
    if isinstance(operator, ast.Not):
        held = _holds(value)
        return None if held is None else not held
    number = as_number(value)
    return None if number is None else -number if isinstance(operator, ast.USub) else number


def _reckoned(operator: type[ast.operator], left: Any, right: Any) -> float | None:
    numbers = as_number(left), as_number(right)
    if numbers[0] is None or numbers[1] is None:
        return None
    try:
        return as_number(_RECKON[operator](numbers[0], numbers[1]))
    except (ZeroDivisionError, OverflowError):
        return None


def text_of(value: Any) -> str:
    """A value as the name of a slice; "" where it is not known.

    >>> [text_of(value) for value in (None, True, 2020.0, 0.25, ["a", "b"], "as it is")]
    ['', 'true', '2020', '0.25', 'a, b', 'as it is']
    """
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() and abs(value) < 1e15 else f"{value:.6g}"
    return ", ".join(map(text_of, value)) if isinstance(value, (list, tuple)) else str(value)
