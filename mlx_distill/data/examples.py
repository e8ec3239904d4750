"""From a source to examples: each row's text, labels and id, the bad rows beside them, and a hash of it all.

It knows the task's template and fields; nothing of tokens, models or who trains.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlx_distill.catalog import nearest
from mlx_distill.data.read import read
from mlx_distill.data.seen import Seen
from mlx_distill.data.sources import SourceRow
from mlx_distill.data.split import SplitRow, keyed_hash, split
from mlx_distill.errors import DataError
from mlx_distill.observe.progress import amount
from mlx_distill.recipe.schema import DataSpec, SourceSpec, SplitSpec, TakeSpec, TaskSpec
from mlx_distill.records import BadRow, Example
from mlx_distill.task import rubric
from mlx_distill.task.fields import ABSENT, follow, labels
from mlx_distill.task.prompt import columns, fill

SHOWN = 10
"""Reasons listed of bad rows."""
FILE_BITS = 24
"""Of the 63 that tell where a row stands, those that number its file."""
FIRST = 3
"""Lines named of those with one reason."""


@dataclass(frozen=True, slots=True)
class Examples:
    rows: list[Example]
    bad: list[BadRow]
    sha256: str
    """Of ids, texts and labels, in order."""


class Reader:
    """Makes examples of a source's rows, one at a time, in the same memory however many there are.

    `missing` None: texts alone, labels are not looked at. `empty` False: a row whose columns have nothing to read is bad.
    """

    def __init__(self, task: TaskSpec, missing: Sequence[str] | None, *, empty: bool = True):
        self._task, self._missing = task, missing
        self._read = None if empty else columns(task.input)
        self._first = Seen()
        """Line and file of each id, in one number."""
        self._files: dict[str | None, int] = {}
        self._copies = Seen()
        labelled = task.fields.get("id")
        self._id_is_a_label = labelled is not None and labelled.source is None and missing is not None

    def examples(self, rows: Iterable[SourceRow | BadRow]) -> Iterator[Example | BadRow]:
        for row in rows:
            yield row if isinstance(row, BadRow) else self._example(row)

    def _example(self, row: SourceRow) -> Example | BadRow:
        name = self._id(row.record)
        if (first := self._first.get(name)) is not None:
            line, file = first >> FILE_BITS, list(self._files)[first % (1 << FILE_BITS)]
            where = f" of {file}" if file != row.file else ""
            return BadRow(f"the id {name!r} stands on line {line}{where} already", row.line, name, row.file)
        try:
            text = fill(self._task.input, row.record)
            if self._read is not None and all(_is_empty(follow(row.record, column)) for column in self._read):
                raise ValueError(f"empty: there is nothing to read in {' or '.join(self._read)}")
            found = {} if self._missing is None else labels(self._task.fields, row.record, self._missing)
        except ValueError as error:
            return BadRow(str(error), row.line, name, row.file)
        self._first.put(name, row.line << FILE_BITS | self._files.setdefault(row.file, len(self._files)))
        return Example(name, row.record, text, found, row.line, row.file)

    def _id(self, record: Mapping[str, Any]) -> str:
        """The column `id`, a list or a record as JSON; without one (or where it is a label) the content's hash, and which copy it is."""
        given = None if self._id_is_a_label else record.get("id")
        if (name := name_of(given)) is not None:
            return name
        content = json.dumps(record, sort_keys=True, default=str).encode("utf-8", "surrogatepass")
        digest = hashlib.sha256(content).hexdigest()[:16]
        copy = (self._copies.get(digest) or 0) + 1
        self._copies.put(digest, copy)
        return f"{digest}-{copy}"


def name_of(given: Any) -> str | None:
    """What stands in the column of ids, as a name: a list or a record as JSON. None where there is none."""
    if given is ABSENT or _is_empty(given) or given != given:  # NaN, which is no id either, differs from itself
        return None
    return json.dumps(given, ensure_ascii=False, default=str) if isinstance(given, (list, dict, bool)) else str(given)


def _is_empty(value: Any) -> bool:
    return value is None or (isinstance(value, str) and not value.strip()) or value in ([], {})


def load(task: TaskSpec, data: DataSpec, path: Path) -> Examples:
    """All labelled rows. Raises DataError where more are bad than `max_bad_share`, none is left, or a field has no label in any."""
    found = collect(task, data.source, path, missing=data.missing, max_bad_share=data.max_bad_share)
    for name, spec in task.fields.items():
        if not any(name in row.labels for row in found.rows):
            raise _unlabelled(name, spec.source or name, found.rows, path)
    return found


def _unlabelled(name: str, column: str, rows: Sequence[Example], path: Path) -> DataError:
    there = any(follow(row.record, column) is not ABSENT for row in rows)
    what = f"the column {column!r} has none that data.missing lets pass" if there else f"there is no column {column!r}"
    hint = "a field that nobody has answered cannot be learned: take it out"
    if not there:
        hint = f"{nearest(column, list(rows[0].record))}; a field's label is the column of its name, or `from: column`"
    return DataError(f"no row has a label for {name}: {what}", file=path, hint=hint)


def collect(task: TaskSpec, source: SourceSpec, path: Path, *, missing: Sequence[str], max_bad_share: float) -> Examples:
    good: list[Example] = []
    bad: list[BadRow] = []
    digest = hashlib.sha256()
    for row in Reader(task, missing).examples(read(source, path)):
        if isinstance(row, BadRow):
            bad.append(row)
            continue
        good.append(row)
        digest.update(json.dumps([row.id, row.text, row.labels], ensure_ascii=True).encode())
    if not good and not bad:
        raise DataError("there are no rows in it", file=path, hint="a header alone, or an empty folder?")
    if len(bad) > max_bad_share * (len(good) + len(bad)):
        raise too_many(bad, len(good) + len(bad), max_bad_share, path)
    if not any(row.labels for row in good):
        raise DataError(
            f"no row has a label for {', '.join(task.fields)}",
            file=path,
            hint="a field's label is the column of its name, or `from: column`",
        )
    return Examples(good, bad, digest.hexdigest())


def too_many(bad: Sequence[BadRow], total: int, most: float, path: Path) -> DataError:
    """The error that lists bad rows, the first of them."""
    shown = "".join(f"\n  {line}" for line in listed(bad, path))
    return DataError(
        f"{len(bad)} of {total} rows are bad, more than data.max_bad_share ({most:.1%}) allows:{shown}",
        file=bad[0].file or path,
        line=bad[0].line,
        hint="mend them, or raise data.max_bad_share to go on without them",
    )


def listed(bad: Sequence[BadRow], path: Path) -> list[str]:
    """Bad rows in lines, those with one reason in one: where the first stands, the reason, and how many there are.

    >>> listed([BadRow("no text", 3), BadRow("not JSON", 4), *(BadRow("no text", line) for line in (5, 7, 8))], Path("a.csv"))
    ['a.csv:3: no text (4 rows: lines 3, 5, 7 and 1 more)', 'a.csv:4: not JSON']
    """
    alike: dict[tuple[str, str], list[BadRow]] = {}
    for row in bad:
        alike.setdefault((row.file or str(path), row.reason), []).append(row)
    lines = [f"{file}:{rows[0].line or '?'}: {reason}{_how_many(rows)}" for (file, reason), rows in alike.items()]
    rest = sum(len(rows) for rows in list(alike.values())[SHOWN:])
    return lines[:SHOWN] + ([f"and {rest} more"] if rest else [])


def _how_many(rows: Sequence[BadRow]) -> str:
    if len(rows) == 1:
        return ""
    known = [str(row.line) for row in rows[:FIRST] if row.line is not None]
    more = f" and {len(rows) - len(known)} more" if len(rows) > len(known) else ""
    return f" ({len(rows)} rows{': lines ' + ', '.join(known) + more if known else ''})"


def divide(task: TaskSpec, spec: SplitSpec, rows: Sequence[Example], path: Path) -> dict[str, list[str]]:
    """Ids by train, valid and test. Raises DataError where `group_by` or `stratify_by` names nothing, or nothing is left to learn from."""
    keyed = [SplitRow(row.id, row.text, _key(task, spec.group_by, row, path), _key(task, spec.stratify_by, row, path)) for row in rows]
    shares = spec.shares()
    chosen = split(keyed, shares, spec.seed)
    empty = [name for name, share in shares.items() if share and not chosen[name]]
    if empty:
        groups = len({row.group for row in keyed}) if spec.group_by else len(rows)
        what = f"{amount(groups, 'groups')} of {spec.group_by!r}" if spec.group_by else amount(groups, "rows")
        raise DataError(
            f"{what} {'is' if groups == 1 else 'are'} too few: nothing is left for {' and '.join(empty)}",
            file=path,
            hint="more rows, or other shares in data.split",
        )
    return chosen


def taken(ids: Sequence[str], spec: TakeSpec | None, path: Path) -> list[str]:
    """Some of the ids, in their own order; of one seed, those of a smaller number are among those of a larger. Raises DataError."""
    if spec is None:
        return list(ids)
    if spec.rows > len(ids):
        hint = "take fewer, or leave it out"
        raise DataError(f"data.take.rows is {spec.rows:,}, and {amount(len(ids), 'rows')} train", file=path, hint=hint)
    chosen = set(sorted(ids, key=lambda name: keyed_hash(spec.seed, "take", name))[: spec.rows])
    return [name for name in ids if name in chosen]


def _key(task: TaskSpec, name: str | None, row: Example, path: Path) -> str | None:
    """What a row is grouped or stratified by: a field's label, `tier`, or a column."""
    if name is None:
        return None
    if name == "tier" and task.tiers:
        return rubric.assess(task, row.labels, row.record)[1]
    if name in task.fields:
        return str(row.labels.get(name))
    value = follow(row.record, name)
    if value is ABSENT:
        raise DataError(
            f"data.split names {name!r}, and there is no such column", file=path, line=row.line, hint=f"there is {', '.join(row.record)}"
        )
    return str(value)
