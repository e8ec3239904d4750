"""Typed fields: their legal values, how a label is read from a record, their JSON and JSON schema.

It knows one field at a time; nothing of tokens, prompts or overall scores.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from difflib import get_close_matches
from functools import lru_cache
from typing import Any

from mlx_distill.catalog import nearest
from mlx_distill.recipe.schema import FieldSpec, plain_spelling
from mlx_distill.records import Value
from mlx_distill.task.ending import ended as ended

CLOSED, OPEN = ("score", "choice", "flag"), ("text", "list")
"""Kinds of field with a closed set of values, and those without."""
TEXT_CHARS, ITEM_CHARS, ITEMS = 400, 80, 8
TRUE, FALSE = ("true", "yes", "1", "1.0"), ("false", "no", "0", "0.0")
ABSENT = object()
_HALVES = re.compile(r"[\ud800-\udfff]")


def closed_values(spec: FieldSpec) -> list[Value] | None:
    """Every legal value of a score, choice or flag, in order; None for texts and lists."""
    if spec.kind == "choice":
        return list(spec.choices or ())
    if spec.kind == "flag":
        return [False, True]
    if spec.kind == "score":
        low, high, step = limits(spec)
        steps = [low + i * step for i in range(round((high - low) / step) + 1)]
        return [round(value) for value in steps] if _integral(spec) else [round(value, decimals(spec)) for value in steps]
    return None


def values_of(spec: FieldSpec) -> tuple[Value, ...]:
    """`closed_values` of a closed field, made once, where they are needed again for every row. Empty for texts and lists."""
    return _values_of(spec.kind, spec.min, spec.max, spec.step, spec.choices)


@lru_cache(maxsize=1024)
def _values_of(kind: str, low: float | None, high: float | None, step: float | None, choices: tuple[str, ...] | None) -> tuple[Value, ...]:
    return tuple(closed_values(FieldSpec(kind=kind, min=low, max=high, step=step, choices=choices)) or ())


def limits(spec: FieldSpec) -> tuple[float, float, float]:
    """(lowest, highest, step) of a score."""
    return spec.min or 0.0, 10.0 if spec.max is None else spec.max, spec.step or 1.0


def nearest_value(spec: FieldSpec, value: Value) -> Value:
    """The legal value of a closed field that is nearest: a score between two steps goes to the nearer, upwards at the middle."""
    if spec.kind != "score":
        return value
    values = values_of(spec)
    low, _, step = limits(spec)
    return values[max(0, min(len(values) - 1, math.floor((float(value) - low) / step + 0.5 + 1e-9)))]  # type: ignore[arg-type]


def json_text(spec: FieldSpec, value: Value) -> str:
    """A value as it stands in an answer: compact, not ASCII-escaped; a score is its nearest step, always with the step's decimals."""
    if spec.kind == "score":
        value = nearest_value(spec, value)
        return str(value) if _integral(spec) else f"{value:.{decimals(spec)}f}"
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return text if spec.choices else text.replace("\x7f", "\\u007f")  # the grammar of open texts takes DEL as an escape alone


def schema(spec: FieldSpec) -> dict[str, Any]:
    """The JSON schema of one field's answers. A score whose estimate is the mean may lie between two steps."""
    values = closed_values(spec)
    if spec.kind == "flag":
        return {"type": "boolean"}
    if spec.kind == "score" and spec.estimate == "mean":
        low, high, _ = limits(spec)
        return {"type": "number", "minimum": low, "maximum": high}
    if values is not None:
        return {"enum": values}
    if spec.kind == "text":
        return {"type": "string", "maxLength": spec.max_chars or TEXT_CHARS}
    item = {"enum": list(spec.choices)} if spec.choices else {"type": "string", "maxLength": spec.max_chars or ITEM_CHARS}
    return {"type": "array", "items": item, "maxItems": spec.max_items or ITEMS}


def answer_schema(fields: Mapping[str, FieldSpec]) -> dict[str, Any]:
    """The JSON schema of a whole answer; every field is required, none may be added."""
    properties = {name: schema(spec) for name, spec in fields.items()}
    return {"type": "object", "properties": properties, "required": list(fields), "additionalProperties": False}


def labels(fields: Mapping[str, FieldSpec], record: Mapping[str, Any], missing: Iterable[str] = ()) -> dict[str, Value]:
    """A record's labels; absent ones are left out. Raises ValueError naming field, value and what is legal."""
    absent = missing_values(missing)
    out: dict[str, Value] = {}
    for name, spec in fields.items():
        try:
            value = label_of(spec, lookup(name, spec, record), absent)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
        if value is not None:
            out[name] = value
    return out


def missing_values(missing: Iterable[str]) -> frozenset[str]:
    """`data.missing` in the form that `label_of` takes."""
    return frozenset(value.strip() for value in missing)


def label_of(spec: FieldSpec, raw: Any, absent: Collection[str] = frozenset()) -> Value | None:
    """One label; None where there is none. A score may be the `score` of a nested record. Raises ValueError."""
    if isinstance(raw, Mapping) and spec.kind == "score" and "score" in raw:
        raw = raw["score"]
    return None if _is_absent(raw, absent) else parse(spec, raw)


def _is_absent(raw: Any, absent: Collection[str]) -> bool:
    """Whether there is no label: nothing at all, an empty text, not a number, or a value that means "missing", as text or as number."""
    if raw is ABSENT or raw is None or (isinstance(raw, float) and math.isnan(raw)):
        return True
    if isinstance(raw, str):
        return not raw.strip() or raw.strip() in absent
    if isinstance(raw, (int, float)) and not isinstance(raw, bool):
        return str(raw) in absent or str(raw).removesuffix(".0") in absent
    return False


def lookup(name: str, spec: FieldSpec, record: Mapping[str, Any]) -> Any:
    """The raw label: the column that `from` names, or the field's own, or `labels.<name>`. ABSENT where there is none."""
    if spec.source is not None:
        return follow(record, spec.source)
    if name in record:
        return record[name]
    return follow(record, f"labels.{name}")


def follow(record: Mapping[str, Any], path: str) -> Any:
    """A column of that very name, or a dotted path into nested records. ABSENT where there is none."""
    if path in record:
        return record[path]
    head, dot, rest = path.partition(".")
    inner = record.get(head)
    return follow(inner, rest) if dot and isinstance(inner, Mapping) else ABSENT


def parse(spec: FieldSpec, raw: Any) -> Value:
    """A label, or an answer, as the field's type; of a choice with `aliases` in any of its spellings. Raises ValueError."""
    return {"score": _score, "choice": _choice, "flag": _flag, "text": _text, "list": _list}[spec.kind](spec, raw)


def _score(spec: FieldSpec, raw: Any) -> Value:
    low, high, _ = limits(spec)
    try:
        value = float("nan") if isinstance(raw, bool) else float(raw)
    except (TypeError, ValueError, OverflowError):
        value = float("nan")
    if not math.isfinite(value):
        raise ValueError(f"{raw!r} is no number")
    if not low - 1e-9 <= value <= high + 1e-9:
        raise ValueError(f"{raw} is outside {low:g} to {high:g}")
    return int(value) if value == int(value) else value


def _choice(spec: FieldSpec, raw: Any) -> Value:
    text = ("true" if raw else "false") if isinstance(raw, bool) else str(raw).strip()
    if isinstance(raw, float) and raw.is_integer() and text not in (spec.choices or ()):
        text = str(int(raw))
    return _chosen(spec, text, raw)


def _chosen(spec: FieldSpec, text: str, raw: Any) -> str:
    """The choice that a text stands for. A field with `aliases` takes any spelling of it, one without takes the choice itself alone."""
    choices = spec.choices or ()
    if text in choices:
        return text
    if spec.aliases is None:
        raise ValueError(f"{raw!r} is none of its choices; {_meant(text, choices)}")
    known = _spellings(choices, tuple(spec.aliases.items()))
    meant = known.get(plain_spelling(text), ())
    if len(meant) > 1:
        raise ValueError(f"{raw!r} may stand for {' or '.join(meant)}; spell it as one of them")
    if not meant:
        raise ValueError(f"{raw!r} is none of its choices, nor an alias of one; {_alike(text, known)}")
    return meant[0]


@lru_cache(maxsize=256)
def _spellings(choices: tuple[str, ...], aliases: tuple[tuple[str, tuple[str, ...]], ...]) -> Mapping[str, tuple[str, ...]]:
    """What each plain spelling stands for: choices by their own names, and by their aliases. More than one: it cannot be told."""
    found: dict[str, tuple[str, ...]] = {}
    for choice, spellings in (*((choice, (choice,)) for choice in choices), *aliases):
        for plain in map(plain_spelling, spellings):
            found[plain] = tuple(dict.fromkeys((*found.get(plain, ()), choice)))
    return found


def _alike(text: str, known: Mapping[str, Sequence[str]]) -> str:
    """The choice whose spelling is nearest to a text, or all choices."""
    close = get_close_matches(plain_spelling(text), list(known), n=1)
    if close:
        return f"did you mean {' or '.join(known[close[0]])}?"
    return f"there is {', '.join(dict.fromkeys(choice for meant in known.values() for choice in meant))}"


def _meant(text: str, choices: Sequence[str]) -> str:
    alike = [choice for choice in choices if choice.casefold() == text.casefold()]
    return f"did you mean {alike[0]}?" if alike else nearest(text, list(choices))


def _flag(spec: FieldSpec, raw: Any) -> Value:
    text = str(raw).strip().casefold()
    if text in TRUE or text in FALSE:
        return text in TRUE
    raise ValueError(f"{raw!r} is no flag; it takes true or false, yes or no, 1 or 0")


def _text(spec: FieldSpec, raw: Any) -> Value:
    """A text longer than the field's limit is cut, and ends as a written one does that reaches it: what the grammar allows is taught."""
    if not isinstance(raw, (str, int, float)):
        raise ValueError(f"a {type(raw).__name__} is no text")
    return _fitting(legible(str(raw)), spec.max_chars or TEXT_CHARS)


def _list(spec: FieldSpec, raw: Any) -> Value:
    items = _items(raw) if isinstance(raw, str) else raw
    if not isinstance(items, list) or not all(isinstance(item, (str, int, float)) for item in items):
        raise ValueError(f"{raw!r} is no list of texts")
    texts = [legible(str(item)).strip() for item in items if str(item).strip()]
    most = spec.max_items or ITEMS
    if spec.choices is None:
        return [_fitting(text, spec.max_chars or ITEM_CHARS) for text in texts[:most]]
    if spec.aliases is None:
        return [_chosen(spec, text, text) for text in texts[:most]]
    return list(dict.fromkeys(_chosen(spec, text, text) for text in texts))[:most]  # two spellings of one choice are one item


def _items(text: str) -> Any:
    """A list that a flat file holds: as JSON, or parted by semicolons."""
    if not text.lstrip().startswith("["):
        return text.split(";")
    try:
        return json.loads(text)
    except ValueError:
        return None


def legible(text: str) -> str:
    """Halves of surrogate pairs, which no encoding knows, as U+FFFD. JSON can bring them where a text was cut in an emoji."""
    return text if text.isascii() else _HALVES.sub("\ufffd", text)


def _fitting(text: str, most: int) -> str:
    return text if len(text) <= most else ended(text, most)


def _integral(spec: FieldSpec) -> bool:
    low, _, step = limits(spec)
    return low == int(low) and step == int(step)


def decimals(spec: FieldSpec) -> int:
    """Digits behind the point that a score's values have."""
    low, _, step = limits(spec)
    return max(len(f"{number:.6f}".rstrip("0").partition(".")[2]) for number in (low, step))
