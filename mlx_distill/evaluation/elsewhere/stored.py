"""predictions.jsonl: rows with both answers, one a line, and the same rows again out of the file.

    {"id", "split", "reference", "answer", "confidence", "probabilities": {field: {"raw", "calibrated"}}, "overall", "tier",
     "reference_overall", "reference_tier", "nll", "tokens" (of the judge's answer), and, where there are such, "nll_fields": {field: [nats,
     tokens]}, "forwarded" (tokens of the student's), "sure", "defer", "sets", "again", "raters", "refused"}

`id`, `reference` and `answer` (null: none that could be read) are needed; what else is missing is unknown. It knows the form alone: who
answered, and on what, it does not ask.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mlx_distill.errors import DataError
from mlx_distill.evaluation.elsewhere.outside import said
from mlx_distill.evaluation.judge import Fields, Judged
from mlx_distill.files import atomic_file
from mlx_distill.recipe.schema import Recipe
from mlx_distill.records import Value
from mlx_distill.task.fields import closed_values, parse

DIGITS = 6
"""Of a probability, behind the point."""
FORM = '{"id": "1", "split": "test", "reference": {...}, "answer": {...}}'


def read_predictions(path: Path, recipe: Recipe) -> list[Judged]:
    """The rows of a file in its own order. Raises DataError, with the line, where it has another form, or one row of a split twice."""
    return read_rows(path, recipe.task.fields)


def read_rows(path: Path, fields: Fields) -> list[Judged]:
    """As `read_predictions`. Fields that are none of `fields` are left out."""
    rows: list[Judged] = []
    first: dict[tuple[str, str], int] = {}
    for number, line in _lines(path):
        try:
            row = _row(line, fields)
        except (ValueError, TypeError) as error:
            hint = f"a line is {FORM}"
            raise DataError(str(error), file=path, line=number, hint=hint) from None
        if (before := first.setdefault((row.split, row.id), number)) != number:
            raise DataError(f"the {row.split} row {row.id!r} stands on line {before} already", file=path, line=number)
        rows.append(row)
    return rows


def write_rows(path: Path, rows: Iterable[Judged]) -> None:
    """A line each, whole or not at all; one line at a time is in memory. Raises OutputError, DoesNotFit."""
    with atomic_file(path) as file:
        for row in rows:
            file.write((json.dumps(line_of(row), ensure_ascii=False) + "\n").encode("utf-8", "backslashreplace"))


def line_of(row: Judged) -> dict[str, Any]:
    """What `read_predictions` reads back as the same row, but for its text and its columns."""
    raw = row.raw or row.probabilities
    seen = {name: {"raw": _rounded(own)} for name, own in raw.items()}
    if row.raw:
        for name, own in row.probabilities.items():
            seen.setdefault(name, {})["calibrated"] = _rounded(own)
    found: dict[str, Any] = {
        "id": row.id,
        "split": row.split,
        "reference": dict(row.reference),
        "answer": None if row.answer is None else dict(row.answer),
        "confidence": dict(row.confidence),
        "probabilities": seen,
        "overall": row.overall,
        "tier": row.tier,
        "reference_overall": row.reference_overall,
        "reference_tier": row.reference_tier,
        "nll": row.nll,
        "tokens": row.nll_tokens,
    }
    rare = {
        "nll_fields": {name: list(pair) for name, pair in row.nll_fields.items()} or None,
        "forwarded": row.tokens,
        "sure": row.sure,
        "defer": row.defer or None,
        "sets": {name: list(values) for name, values in row.sets.items()} or None,
        "again": dict(row.again) or None,
        "raters": {name: list(values) for name, values in row.raters.items()} or None,
        "refused": row.refused,
    }
    return found | {name: value for name, value in rare.items() if value is not None}


def _lines(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """(number from 1, line) of those that are not empty."""
    try:
        with path.open(encoding="utf-8") as file:
            for number, text in enumerate(file, start=1):
                if text.strip():
                    yield number, _object(text, path, number)
    except OSError as error:
        hint = "answers are written by `mlx-distill evaluate RUN`"
        raise DataError(f"no answers can be read: {error.strerror}", file=path, hint=hint) from None
    except UnicodeDecodeError:
        raise DataError("is not UTF-8 text", file=path) from None


def _object(text: str, path: Path, number: int) -> Mapping[str, Any]:
    try:
        line = json.loads(text)
    except ValueError:
        line = None
    if not isinstance(line, dict):
        raise DataError("is no JSON object", file=path, line=number, hint=f"a line is {FORM}")
    return line


def _row(line: Mapping[str, Any], fields: Fields) -> Judged:
    """Raises ValueError, naming the row and what is wrong with it."""
    for name in ("id", "reference", "answer"):
        if name not in line:
            raise ValueError(f"the row has no {name!r}")
    name, answer = str(line["id"]), line["answer"]
    given = line.get("probabilities") or {}
    raw, calibrated = _distributions(given, "raw", fields), _distributions(given, "calibrated", fields)
    return Judged(
        id=name,
        split=str(line.get("split") or "test"),
        reference=_values(line["reference"], "reference", name, fields),
        answer=None if answer is None else _values(answer, "answer", name, fields),
        confidence={field: float(sure) for field, sure in (line.get("confidence") or {}).items() if sure is not None},
        probabilities=raw | calibrated,
        raw=raw if calibrated else {},
        sure=_number(line, "sure"),
        defer=bool(line.get("defer")),
        sets={field: list(found) for field, found in (line.get("sets") or {}).items() if field in fields},
        reference_overall=_number(line, "reference_overall"),
        overall=_number(line, "overall"),
        reference_tier=line.get("reference_tier"),
        tier=line.get("tier"),
        nll=_number(line, "nll"),
        nll_tokens=_number(line, "tokens"),
        nll_fields={field: (float(nats), float(tokens)) for field, (nats, tokens) in (line.get("nll_fields") or {}).items()},
        tokens=line.get("forwarded"),
        again=_values(line.get("again") or {}, "again", name, fields),
        raters={field: list(given) for field, given in (line.get("raters") or {}).items() if field in fields},
        refused=line.get("refused"),
    )


def _values(given: Any, side: str, name: str, fields: Fields) -> dict[str, Value]:
    """Those of the task's fields that have a value; an answer's score may lie outside its limits, as it was judged. Raises ValueError."""
    if not isinstance(given, Mapping):
        raise ValueError(f"row {name!r}: its {side} is no {{field: value}}; got {given!r}")
    found: dict[str, Value] = {}
    for field, spec in fields.items():
        if given.get(field) is not None:
            try:
                value = said(spec, given[field]) if side == "answer" else parse(spec, given[field])
                found |= {} if value is None else {field: value}
            except ValueError as error:
                raise ValueError(f"row {name!r}: {side}.{field}: {error}") from None
    return found


def _distributions(given: Mapping[str, Any], kind: str, fields: Fields) -> dict[str, Sequence[float]]:
    """By closed field, each as long as the field has values. A bare list is the raw one. Raises ValueError."""
    found: dict[str, Sequence[float]] = {}
    for field, spec in fields.items():
        own = given.get(field)
        own = own.get(kind) if isinstance(own, Mapping) else own if kind == "raw" else None
        values = closed_values(spec)
        if own is None or values is None:
            continue
        if len(own) != len(values):
            raise ValueError(f"probabilities.{field} has {len(own)} numbers, and the field {len(values)} values")
        found[field] = [float(p) for p in own]
    return found


def _number(line: Mapping[str, Any], name: str) -> float | None:
    value = line.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError(f"row {line['id']!r}: {name} is no number; got {value!r}")
    return float(value)


def _rounded(own: Sequence[float]) -> list[float]:
    return [round(float(p), DIGITS) for p in own]
