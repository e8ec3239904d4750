"""The language in which a recipe says what a report is sliced by: what may be written, and what it reads. It computes nothing.

    year >= 2020                     language in ['el', 'en'] and not urgent          quartile(views)
    'fire' in lower(text)            2000 <= year < 2010                              year // 10 * 10          column('Feature Name') == ''

Columns and fields stand there by their names, nested ones with dots; one that is no plain word (or a word of the language, as `class`) is
called by column('...'). Python's parser reads it, and what is not on the list below is refused: no attributes but dotted columns, no
calls but the named ones, nothing that loops or grows.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass

from mlx_distill.catalog import nearest
from mlx_distill.errors import RecipeError

LONGEST = 1000
"""Characters of an expression."""
DEEPEST = 50
FUNCTIONS = ("lower", "len", "quartile", "column")
CONSTANTS = {"true": True, "false": False}
"""As YAML writes them."""
OPERATORS = (
    ast.And, ast.Or, ast.Not, ast.USub, ast.UAdd, ast.Add, ast.Sub, ast.Mult, ast.Div, ast.FloorDiv, ast.Mod,
    ast.Eq, ast.NotEq, ast.Lt, ast.LtE, ast.Gt, ast.GtE, ast.In, ast.NotIn,
)  # fmt: skip
KNOWN = "it takes columns, texts, numbers, true, false, == != < <= > >=, in, and, or, not, + - * / // %, lower(), len(), quartile()"
_COLUMN = re.compile(r"[\w .:/#$@-]+")
"""What may be the name of a column that is no expression: `published date`."""
_WORDS = {"&&": "and", "||": "or", "<>": "!="}
_SQL = re.compile(r"\b(AND|OR|NOT|IN)\b")


@dataclass(frozen=True, slots=True)
class Parsed:
    """A checked expression."""

    text: str
    tree: ast.expr

    @property
    def names(self) -> list[str]:
        """The columns and fields that it reads, each once."""
        return list(dict.fromkeys(_names(self.tree)))

    @property
    def name(self) -> str | None:
        """The one column or field that it is; None where it is more."""
        return name_of(self.tree)


def parse(text: str) -> Parsed:
    """Raises RecipeError with the expression, the place in it, and the way out."""
    plain = " ".join(text.splitlines()).strip()
    if not plain or len(plain) > LONGEST:
        what = f"has {len(plain):,} characters; at most {LONGEST:,}" if plain else "is empty"
        raise RecipeError(f"the expression {_short(plain)!r} {what}", hint="write a column, or an expression over columns")
    tree = _tree(plain)
    if not isinstance(tree, ast.expr):
        raise _wrong(plain, tree, "cannot be read", _slip(plain))
    _check(tree, plain)
    return Parsed(plain, tree)


def problem(text: str) -> RecipeError | None:
    """What is wrong with a slice, said before any data is read: nothing where it may be the name of a column."""
    plain = text.strip()
    if _COLUMN.fullmatch(plain) and not isinstance(_tree(plain), ast.expr):
        return None
    try:
        parse(text)
    except RecipeError as error:
        return error
    return None


def _tree(text: str) -> ast.expr | int:
    """What Python's parser makes of it, or the character, from 0, at which it gives up."""
    try:
        return ast.parse(text, mode="eval").body
    except SyntaxError as error:
        return min((error.offset or 1) - 1, len(text))
    except (ValueError, RecursionError, MemoryError):  # NUL, numbers of thousands of digits, thousands of brackets
        return 0


def name_of(node: ast.expr) -> str | None:
    """The dotted name that a node is, or that column('...') says; None where it is neither."""
    if isinstance(node, ast.Call):
        quoted = function_of(node) == "column" and len(node.args) == 1 and isinstance(node.args[0], ast.Constant)
        return str(ast.literal_eval(node.args[0])) if quoted and not node.keywords else None
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.insert(0, node.attr)
        node = node.value
    if not isinstance(node, ast.Name) or (not parts and node.id in CONSTANTS):
        return None
    return ".".join([node.id, *parts])


def argument(parsed: Parsed, function: str) -> Parsed | None:
    """What stands within the brackets of an expression that is one call of that function; None where it is anything else."""
    if not isinstance(parsed.tree, ast.Call) or function_of(parsed.tree) != function:
        return None
    return Parsed(parsed.text, parsed.tree.args[0])


def function_of(node: ast.expr) -> str | None:
    """The name of the function that a node calls."""
    return node.func.id if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) else None


def _names(node: ast.expr) -> Iterator[str]:
    if (name := name_of(node)) is not None:
        yield name
        return
    children = node.args if isinstance(node, ast.Call) else ast.iter_child_nodes(node)
    for child in children:
        if isinstance(child, ast.expr):
            yield from _names(child)


def _check(node: ast.expr, text: str, depth: int = 0) -> None:
    """Refuses whatever is not on the list."""
    if name_of(node) is not None:
        return
    if depth == DEEPEST:
        raise _wrong(text, node, f"is nested more than {DEEPEST} deep", "write it flatter")
    if isinstance(node, ast.Call):
        _check_call(node, text)
        _check(node.args[0], text, depth + 1)
        return
    if isinstance(node, ast.Constant) and not isinstance(node.value, (str, int, float)):
        raise _wrong(text, node, "is no text, number or truth value", KNOWN)
    if isinstance(node, (ast.List, ast.Tuple, ast.Set)):
        raise _wrong(text, node, "is a list, which stands behind `in` alone", "language in ['el', 'en']")
    if not isinstance(node, (ast.BoolOp, ast.BinOp, ast.UnaryOp, ast.Compare, ast.Constant, ast.Name)):
        raise _wrong(text, node, "is nothing that an expression may hold", KNOWN)
    for operator in _operators(node):
        if not isinstance(operator, OPERATORS):
            hint = "write == or !=" if isinstance(operator, (ast.Is, ast.IsNot)) else "write and, or" if _is_bitwise(operator) else KNOWN
            raise _wrong(text, node, f"uses {type(operator).__name__}, which is no operator here", hint)
    for child in _operands(node, text):
        _check(child, text, depth + 1)


def _check_call(node: ast.Call, text: str) -> None:
    name = function_of(node)
    if name not in FUNCTIONS:
        raise _wrong(text, node, "calls what is no function here", nearest(name or ast.unparse(node.func), list(FUNCTIONS)))
    if len(node.args) != 1 or node.keywords or isinstance(node.args[0], ast.Starred):
        raise _wrong(text, node, f"{name}() takes one value", f"{name}(views)")
    if name == "column":
        raise _wrong(text, node, "column() takes the name of a column in quotes", "column('Feature Name')")


def _operators(node: ast.expr) -> Iterator[ast.AST]:
    if isinstance(node, (ast.BoolOp, ast.BinOp, ast.UnaryOp)):
        yield node.op
    elif isinstance(node, ast.Compare):
        yield from node.ops


def _operands(node: ast.expr, text: str) -> Iterator[ast.expr]:
    """What is to be checked below a node; of a list behind `in` its items."""
    if not isinstance(node, ast.Compare):
        yield from (child for child in ast.iter_child_nodes(node) if isinstance(child, ast.expr))
        return
    yield node.left
    for operator, side in zip(node.ops, node.comparators, strict=True):
        if isinstance(operator, (ast.In, ast.NotIn)) and isinstance(side, (ast.List, ast.Tuple, ast.Set)):
            yield from side.elts
        else:
            yield side


def _is_bitwise(operator: ast.AST) -> bool:
    return isinstance(operator, (ast.BitAnd, ast.BitOr, ast.BitXor, ast.Invert))


def _slip(text: str) -> str:
    """What a slip of the pen was probably to be."""
    bare = re.sub(r"'[^']*'|\"[^\"]*\"", "''", text)
    for wrong, right in _WORDS.items():
        if wrong in bare:
            return f"write {right} for {wrong}"
    if found := _SQL.search(bare):
        return f"write {found[0].lower()} for {found[0]}"
    if re.search(r"(?<![=!<>])=(?!=)", bare):
        return "equal is written =="
    if "!" in bare.replace("!=", ""):
        return "write not for !"
    return "a column that is no plain word is written column('its name'), a text stands in quotes"


def _wrong(text: str, place: ast.expr | int, what: str, hint: str) -> RecipeError:
    """`place`: a node, or the character, from 0."""
    if isinstance(place, int):
        start, part = place, text[place : place + 20]
    else:
        start = len(text.encode()[: place.col_offset].decode(errors="ignore"))  # Python counts bytes
        part = ast.get_source_segment(text, place) or ""
    shown = f", {_short(part)!r}," if part and part != text else ""
    return RecipeError(f"the expression {_short(text)!r}: character {start + 1}{shown} {what}", hint=hint)


def _short(text: str) -> str:
    return text if len(text) <= 80 else f"{text[:77]}..."
