"""The rows of a suite that someone wrote, each with what is expected of the student. It reads and checks them; it asks nobody."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from mlx_distill.catalog import nearest
from mlx_distill.data.examples import Reader, listed
from mlx_distill.data.read import read
from mlx_distill.data.sources import SourceRow
from mlx_distill.errors import DataError, RecipeError
from mlx_distill.evaluation.robustness._columns import example
from mlx_distill.evaluation.robustness._draw import evenly
from mlx_distill.recipe.schema import SuiteSpec, TaskSpec
from mlx_distill.records import BadRow, Example, Value
from mlx_distill.task.fields import ABSENT, follow, lookup, parse

SAME, DEFER, REFUSE, FLAG, ANSWER = "same_answer", "defer", "refuse", "flag", "answer"


@dataclass(frozen=True, slots=True)
class Case:
    """`asked` is refused already where there is nothing to read: that may be what is tried."""

    id: str
    asked: Example | BadRow
    kind: str
    """What is expected: one of SAME, DEFER, REFUSE, FLAG, ANSWER."""
    flag: str = ""
    """FLAG: the field that is to be true."""
    of: str | None = None
    """SAME: the id of the row whose answer is to be repeated. None: this row is such an original."""
    labels: Mapping[str, Value] = field(default_factory=dict)
    """ANSWER: the expected values."""
    groups: Mapping[str, str] = field(default_factory=dict)
    """By the columns of `SuiteSpec.by`."""


@dataclass(frozen=True, slots=True)
class Cases:
    drawn: list[Case]
    """Those to be judged."""
    originals: list[Case]
    """Those of the suite itself that they refer to, and that are not judged."""
    bad: list[BadRow]
    reasons: list[str]
    """Of the bad ones, in lines."""


MOST_BAD, FEW = 0.1, 5
"""More bad rows than this share, and than a few, and it is the suite that is described wrongly."""


def load(name: str, spec: SuiteSpec, task: TaskSpec, *, known: Sequence[str], seed: int) -> Cases:
    """The suite's rows, `spec.rows` of them drawn evenly over `spec.by`. `known`: ids that `of` may name beside the suite's own.

    Raises RecipeError where `labels` names no field of the task, DataError where the source cannot be read or no row can be judged.
    """
    for one in spec.labels:
        if one not in task.fields:
            raise RecipeError(f"robustness.given.{name}.labels: the task has no field {one!r}", hint=nearest(one, list(task.fields)))
    path = Path(spec.source.path)
    cases: list[Case] = []
    bad: list[BadRow] = []
    for row in _cases(spec, task, path):
        if isinstance(row, Case):
            cases.append(row)
        else:
            bad.append(row)
    own, others = {case.id: case for case in cases}, set(known)
    judged = [case for case in cases if case.kind != SAME or case.of in own or case.of in others]
    lost = [case.of for case in cases if case.of is not None and case.of not in own and case.of not in others]
    bad += [BadRow(f"the column `of` names {of!r}, and no such row was answered", id=of) for of in lost]
    if not judged:
        raise _none(name, path, len(cases) - len(lost), bad)
    if len(bad) > max(FEW, MOST_BAD * (len(cases) + len(bad))):
        what = f"{len(bad):,} of {len(cases) + len(bad):,} rows of robustness.given.{name} cannot be judged, the first: {bad[0].reason}"
        raise DataError(what, file=bad[0].file or path, line=bad[0].line, hint="mend the suite's rows, or its `labels` and `values`")
    for column in spec.by:
        if not any(case.groups[column] for case in judged):
            raise DataError(f"robustness.given.{name}.by: no row has anything in the column {column!r}", file=path)
    drawn = evenly(judged, lambda case: case, seed=seed, id=lambda case: case.id, stratum=lambda case: "\0".join(case.groups.values()))
    taken = list(islice(drawn, spec.rows))
    ids = {case.id for case in taken}
    originals = {case.of: own[case.of] for case in taken if case.of in own and case.of not in ids}
    return Cases(taken, list(originals.values()), bad, listed(bad, path) if bad else [])


def _cases(spec: SuiteSpec, task: TaskSpec, path: Path) -> Iterator[Case | BadRow]:
    reader = Reader(task, None)
    for row in read(spec.source, path):
        if isinstance(row, BadRow):
            yield row
            continue
        for found in reader.examples([row]):
            yield _case(spec, task, row, found) if isinstance(found, Example) else found


def _case(spec: SuiteSpec, task: TaskSpec, row: SourceRow, found: Example) -> Case | BadRow:
    try:
        kind, flag = _expected(spec, task, row.record)
        labels = _labels(spec, task, row.record) if kind == ANSWER else {}
    except ValueError as error:
        return BadRow(str(error), row.line, found.id, row.file)
    of = follow(row.record, "of")
    groups = {column: _text(follow(row.record, column)) or "" for column in spec.by}
    asked = example(task, found.id, row.record)
    return Case(found.id, asked, kind, flag, _text(of) if kind == SAME else None, labels, groups)


def _expected(spec: SuiteSpec, task: TaskSpec, record: Mapping[str, Any]) -> tuple[str, str]:
    """(kind, flag). Raises ValueError."""
    said = spec.expect or _text(follow(record, "expect")) or ANSWER
    match = SuiteSpec.FLAG.fullmatch(said)
    if match is None and said not in SuiteSpec.BEHAVIOURS:
        raise ValueError(f"{said!r} is no behaviour; {nearest(said, [*SuiteSpec.BEHAVIOURS, 'flag: NAME'])}")
    if match is None:
        return said, ""
    if (spec_of := task.fields.get(match[1])) is None or spec_of.kind != "flag":
        flags = [name for name, one in task.fields.items() if one.kind == "flag"]
        raise ValueError(f"{said!r}: the task has no flag {match[1]!r}; {nearest(match[1], flags) if flags else 'it has none at all'}")
    return FLAG, match[1]


def _labels(spec: SuiteSpec, task: TaskSpec, record: Mapping[str, Any]) -> dict[str, Value]:
    """The values that are expected, of fields that can be compared. Raises ValueError where there is none."""
    found: dict[str, Value] = {}
    for name, own in task.fields.items():
        raw = follow(record, spec.labels[name]) if name in spec.labels else lookup(name, own, record)
        text = _text(raw)
        if text is None or own.kind == "text":
            continue
        try:
            found[name] = parse(own, spec.values.get(text, raw))
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
    if not found:
        raise ValueError("no expected value: neither a column of a field's name, nor one that `labels` names")
    return found


def _text(value: Any) -> str | None:
    """A value as `values`, `of` and `by` name it; None where there is none."""
    if value is ABSENT or value is None or value != value:
        return None
    text = ("true" if value else "false") if isinstance(value, bool) else str(value).strip()
    return text or None


def _none(name: str, path: Path, originals: int, bad: Sequence[BadRow]) -> DataError:
    where = f"robustness.given.{name}"
    if bad:
        what = f"none of its {len(bad) + originals} rows can be judged: {bad[0].reason}"
        hint = "`expect` says what is expected; `labels` and `values` say where an expected answer stands"
        return DataError(f"{where}: {what}", file=bad[0].file or path, line=bad[0].line, hint=hint)
    what = (
        "no row has anything in the column `of`: the id of the row whose answer is to be the same"
        if originals
        else "there are no rows in it"
    )
    return DataError(f"{where}: {what}", file=path)
