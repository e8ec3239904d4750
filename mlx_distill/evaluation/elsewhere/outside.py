"""Answers made elsewhere, out of records of nearly any form, as rows to be judged: another model's, a cloud judge's, a table's.

    read = Reader(task, columns).rows(records)

What a student of ours cannot say, others can; so nothing of an answer stops the reading, and all of it is counted:

    a value that its field cannot take     the field is not answered, and wrong wherever right and wrong exist
    no value that any field can take       there is no valid answer
    a score outside its limits             is taken as it is: a regression says -0.06 where it means 0. Its error is measured from there,
                                           its nearest step is the limit

A judge's label that cannot be read makes the row bad, as in training. It knows records, tasks and rows; no files, models or reports.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from mlx_distill.data.examples import name_of
from mlx_distill.data.sources import SourceRow
from mlx_distill.evaluation.ceiling import raters_of
from mlx_distill.evaluation.elsewhere.columns import FIELD, Columns
from mlx_distill.evaluation.sheet import Judged
from mlx_distill.recipe.schema import FieldSpec, TaskSpec
from mlx_distill.records import BadRow, Example, Value
from mlx_distill.task import rubric
from mlx_distill.task.fields import ABSENT, closed_values, follow, label_of, limits, lookup, missing_values, parse
from mlx_distill.task.prompt import MissingColumn, fill

TEST = "test"
OWN = (
    "id",
    "split",
    "reference",
    "answer",
    "confidence",
    "probabilities",
    "overall",
    "tier",
    "sure",
    "defer",
    "sets",
    "nll",
    "tokens",
    "trimmed",
)
"""Keys of our own lines: a field of such a name has no label there."""

ROUNDED = 1e-6
"""By so much a probability may be off through rounding."""
SUMMED = 0.01
"""By so much a distribution's sum may be off 1; it is then made to sum to it."""


@dataclass(slots=True)
class Read:
    """Rows to be judged, and what became of the others."""

    rows: list[Judged] = field(default_factory=list)
    bad: list[BadRow] = field(default_factory=list)
    unlabelled: list[str] = field(default_factory=list)
    """Ids of rows that brought no labels, and that the data have none of."""
    unread: Counter[str] = field(default_factory=Counter)
    """By field, values that it cannot take."""
    first: dict[str, str] = field(default_factory=dict)
    """By field, what is wrong with the first of them."""
    outside: Counter[str] = field(default_factory=Counter)
    """By field, scores outside its limits."""
    furthest: dict[str, float] = field(default_factory=dict)
    unsure: Counter[str] = field(default_factory=Counter)
    """By field, confidences that are no probabilities."""
    first_unsure: dict[str, Any] = field(default_factory=dict)
    unspread: Counter[str] = field(default_factory=Counter)
    """By field, distributions that do not sum to 1."""
    seen: set[str] = field(default_factory=set)
    """Fields that any answer has."""

    def remarks(self, *, texts: bool = True) -> Iterator[str]:
        """What a reader of the report should know of these answers. `texts` False: nothing of any row is quoted."""

        def first(what: str) -> str:
            return f", the first: {what}" if texts else ""

        invalid = sum(row.answer is None for row in self.rows)
        if invalid:
            yield f"{_many(invalid, 'row has', 'rows have')} no valid answer: null, no JSON object, or nothing in it that a field can take."
        for name, n in sorted(self.unread.items()):
            cannot = f"{_many(n, 'value', 'values')} of {name} cannot be read: no answer to that field"
            yield f"{cannot}; the first: {self.first[name]}." if texts else f"{cannot}."
        for name, n in sorted(self.outside.items()):
            lie = _many(n, "score lies", "scores lie")
            furthest = f", the furthest at {self.furthest[name]:g}" if texts else ""
            yield f"{lie} outside the limits of {name}{furthest}; they are taken as they stand."
        for name, n in sorted(self.unsure.items()):
            none = _many(n, "confidence is no probability", "confidences are no probabilities")
            quoted = f" (the first: {self.first_unsure[name]})" if texts else ""
            yield f"Of {name}, {none} from 0 to 1{quoted}, and left out. Are they percent?"
        for name, n in sorted(self.unspread.items()):
            yield f"Of {name}, {_many(n, 'distribution does', 'distributions do')} not sum to 1, and are left out."
        if self.unlabelled:
            some = ", ".join(self.unlabelled[:3])
            yield f"{_many(len(self.unlabelled), 'row', 'rows')} without any label left out{first(some)}."
        if self.bad:
            yield f"{_many(len(self.bad), 'bad row', 'bad rows')} left out{first(self.bad[0].reason)}."


def _many(number: int, one: str, many: str) -> str:
    return f"{number:,} {one if number == 1 else many}"


class Reader:
    """Makes rows of records. `labelled`: the examples of the recipe's data by id, for records without labels of their own."""

    def __init__(self, task: TaskSpec, columns: Columns, *, missing: Sequence[str] = (), labelled: Mapping[str, Example] | None = None):
        self._task, self._columns, self._missing, self._labelled = task, columns, missing, labelled or {}
        self._absent = missing_values(missing)
        self._sizes = {name: len(closed_values(spec) or ()) for name, spec in task.fields.items()}

    def rows(self, records: Iterable[SourceRow | BadRow]) -> Read:
        read = Read()
        first: dict[tuple[str, str], int] = {}
        for row in records:
            if isinstance(row, BadRow):
                read.bad.append(row)
                continue
            name, split = self._id(row), self._split(row.record)
            if (line := first.setdefault((split, name), row.line)) != row.line:
                read.bad.append(BadRow(f"the id {name!r} stands on line {line} already", row.line, name, row.file))
                continue
            try:
                judged = self._row(row.record, name, split, read)
            except ValueError as error:
                read.bad.append(BadRow(str(error), row.line, name, row.file))
                continue
            if judged is not None:
                read.rows.append(judged)
        return read

    def has_labels(self, record: Mapping[str, Any]) -> bool:
        """Whether a record brings labels of its own, be they readable or not."""
        try:
            return bool(self._reference(record))
        except ValueError:
            return True

    def _id(self, row: SourceRow) -> str:
        """The id; where the records have none, the line."""
        return name_of(follow(row.record, self._columns.id)) or str(row.line)

    def _split(self, record: Mapping[str, Any]) -> str:
        found = follow(record, self._columns.split)
        return found if isinstance(found, str) and found else TEST

    def _row(self, record: Mapping[str, Any], name: str, split: str, read: Read) -> Judged | None:
        """None where nobody labelled it. Raises ValueError where a label cannot be read."""
        labelled = self._labelled.get(name)
        reference = self._reference(record) or dict(labelled.labels if labelled else {})
        if not reference:
            read.unlabelled.append(name)
            return None
        row = record if labelled is None else {**record, **labelled.record}
        answer = self._answer(record, read)
        overall, tier = rubric.assess(self._task, reference, row)
        own = (None, None) if answer is None else rubric.assess(self._task, answer, row)
        judged = Judged(
            id=name,
            split=split,
            reference=reference,
            answer=answer,
            confidence={} if answer is None else self._confidence(record, answer, read),
            raters=raters_of(self._task, row, self._missing),
            reference_overall=overall,
            overall=own[0],
            reference_tier=tier,
            tier=own[1],
            text=labelled.text if labelled else self._text(record),
            record=row,
        )
        return _with_more(judged, record, self._sizes, read)

    def _reference(self, record: Mapping[str, Any]) -> dict[str, Value]:
        """Where no column was named and none is called `reference`, labels stand where the recipe's data have them."""
        found: dict[str, Value] = {}
        given = self._given(record, self._columns.reference)
        if not given and "reference" not in self._columns.told:
            given = {name: lookup(name, spec, record) for name, spec in self._task.fields.items() if spec.source or name not in OWN}
        for name, raw in given.items():
            try:
                value = label_of(self._task.fields[name], raw, self._absent)
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from None
            if value is not None:
                found[name] = value
        return found

    def _answer(self, record: Mapping[str, Any], read: Read) -> dict[str, Value] | None:
        found: dict[str, Value] = {}
        for name, raw in self._given(record, self._columns.answer).items():
            read.seen.add(name)
            try:
                value = said(self._task.fields[name], raw)
            except ValueError as error:
                read.unread[name] += 1
                read.first.setdefault(name, str(error))
                continue
            if value is not None:
                found[name] = value
                _note_outside(read, name, self._task.fields[name], value)
        return found or None

    def _confidence(self, record: Mapping[str, Any], answer: Mapping[str, Value], read: Read) -> dict[str, float]:
        found = {}
        for name, raw in self._given(record, self._columns.confidence).items():
            share = _share(raw)
            if share is not None and name in answer:
                found[name] = share
            elif share is None and not _is_nothing(raw):
                read.unsure[name] += 1
                read.first_unsure.setdefault(name, raw)
        return found

    def _given(self, record: Mapping[str, Any], column: str) -> dict[str, Any]:
        """What a record has for each field of the task, as it stands there."""
        if FIELD in column:
            found = {name: follow(record, column.replace(FIELD, name)) for name in self._task.fields}
        else:
            cell = follow(record, column)
            whole = _object(cell)
            if not whole and len(self._task.fields) == 1 and cell is not ABSENT:
                whole = dict.fromkeys(self._task.fields, cell)  # of a single field the value may stand there alone
            found = {name: whole.get(name, ABSENT) for name in self._task.fields}
        return {name: value for name, value in found.items() if value is not ABSENT}

    def _text(self, record: Mapping[str, Any]) -> str:
        try:
            return fill(self._task.input, record)
        except MissingColumn:
            return ""


def _object(raw: Any) -> Mapping[str, Any]:
    """What is {field: value}, or its JSON; empty where it is neither."""
    if isinstance(raw, str):
        try:
            raw = json.loads(raw)
        except (ValueError, RecursionError):
            return {}
    return raw if isinstance(raw, Mapping) else {}


def said(spec: FieldSpec, raw: Any) -> Value | None:
    """A value that was answered; None where nothing was. Of a score any number. Raises ValueError."""
    if isinstance(raw, Mapping) and spec.kind == "score" and "score" in raw:
        raw = raw["score"]
    if raw is None or raw != raw or (isinstance(raw, str) and not raw.strip() and spec.kind != "text"):  # NaN differs from itself
        return None
    if spec.kind != "score":
        return parse(spec, raw)
    try:
        number = math.nan if isinstance(raw, bool) else float(raw)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"{raw!r} is no number")
    return int(number) if number == int(number) else number


def _note_outside(read: Read, name: str, spec: FieldSpec, value: Value) -> None:
    if spec.kind != "score" or not isinstance(value, (int, float)):
        return
    low, high, _ = limits(spec)
    off = max(low - value, value - high)
    if off > 1e-9:
        read.outside[name] += 1
        known = read.furthest.get(name)
        if known is None or off > max(low - known, known - high):
            read.furthest[name] = float(value)


def _share(raw: Any) -> float | None:
    """A probability; None for what is none."""
    try:
        number = float(raw)
    except (TypeError, ValueError):
        return None
    return min(number, 1.0) if 0 <= number <= 1 + ROUNDED else None


def _is_nothing(raw: Any) -> bool:
    return raw is None or raw != raw or (isinstance(raw, str) and not raw.strip())


def _with_more(row: Judged, line: Mapping[str, Any], sizes: Mapping[str, int], read: Read) -> Judged:
    """What only lines of predictions.jsonl have: distributions, whether it is deferred, losses. `sizes`: of each field how many values."""
    given = _object(line.get("probabilities"))
    raw, calibrated = _distributions(given, "raw", sizes, read), _distributions(given, "calibrated", sizes, read)
    nll, tokens, sure = (_number(line.get(name)) for name in ("nll", "tokens", "sure"))
    sets = {name: list(found) for name, found in _object(line.get("sets")).items() if name in sizes and isinstance(found, list)}
    if not (raw or calibrated or sets or sure is not None or nll is not None or line.get("refused") or line.get("defer")):
        return row
    return replace(
        row,
        probabilities=raw | calibrated if row.answer is not None else {},
        raw=raw if calibrated and row.answer is not None else {},
        sure=sure,
        defer=line.get("defer") is True,
        sets=sets,
        nll=nll if tokens else None,
        nll_tokens=tokens or None,
        refused=str(line["refused"]) if line.get("refused") and row.answer is None else None,
    )


def _distributions(given: Mapping[str, Any], kind: str, sizes: Mapping[str, int], read: Read) -> dict[str, Sequence[float]]:
    """By closed field, where there is a probability of each of its values, summing to 1 but for rounding. A bare list is the raw one."""
    found: dict[str, Sequence[float]] = {}
    for name, own in given.items():
        own = own.get(kind) if isinstance(own, Mapping) else own if kind == "raw" else None
        if not isinstance(own, list) or len(own) != sizes.get(name) or not own:
            continue
        if not all(type(p) in (float, int) and 0 <= p <= 1 for p in own) or abs(sum(own) - 1) > SUMMED:
            read.unspread[name] += 1
        else:
            found[name] = own if abs(sum(own) - 1) <= ROUNDED * len(own) else [p / sum(own) for p in own]
    return found


def _number(raw: Any) -> float | None:
    return float(raw) if isinstance(raw, (int, float)) and not isinstance(raw, bool) and math.isfinite(raw) else None
