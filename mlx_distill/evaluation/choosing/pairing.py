"""Rows of several students side by side: by id, on the fields that all have, where one judge gave the answers to compare with.

It leaves out what is not the same thing on all sides, and says so. It knows judged rows; it computes no figure.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mlx_distill.errors import DataError
from mlx_distill.evaluation import judge
from mlx_distill.evaluation.judge import Fields, Judged
from mlx_distill.recipe.schema import FieldSpec
from mlx_distill.task.fields import closed_values

SHOWN = 40
"""Characters of a value in a message."""


@dataclass(frozen=True, slots=True)
class Side:
    """One student. `name` tells it apart from the others; `file` is where its rows were read."""

    name: str
    rows: Sequence[Judged]
    fields: Fields
    tiers: Sequence[str] = ()
    """From the lowest to the highest."""
    file: str = ""
    cost: Mapping[str, float | None] = field(default_factory=dict)
    targets: Sequence[str] = ()
    texts: bool = True
    """False: what was written about a row is private."""


def common_fields(sides: Sequence[Side], notes: list[str]) -> Fields:
    """Those that every side has with the same values. What is left out is said. Raises DataError where none is left."""
    found: dict[str, FieldSpec] = {}
    for name in dict.fromkeys(name for side in sides for name in side.fields):
        specs = [side.fields.get(name) for side in sides]
        if lacking := [side.name for side, spec in zip(sides, specs, strict=True) if spec is None]:
            notes.append(f"{name} is left out: {', '.join(lacking)} has no such field.")
        elif len({_shape(spec) for spec in specs if spec is not None}) > 1:
            notes.append(f"{name} is left out: its values are not the same in all of them.")
        else:
            found[name] = sides[0].fields[name]
    if not found:
        raise DataError("they have no field in common", file=sides[-1].file or None, hint="compare students of one task")
    return found


def _shape(spec: FieldSpec) -> tuple[str, ...]:
    """Two fields of one shape take the same values. The order of choices is no matter."""
    return (spec.kind, *sorted(map(str, closed_values(spec) or spec.choices or ())))


def paired(sides: Sequence[Side], fields: Fields, notes: list[str]) -> tuple[list[list[Judged]], list[str]]:
    """The rows that every side has, in one order, on the common fields; and their ids. Raises DataError."""
    by_id = [{row.id: row for row in side.rows} for side in sides]
    ids = sorted(set.intersection(*(set(rows) for rows in by_id)))
    if not ids:
        hint = "let them answer the same rows: mlx-distill evaluate RUN --data FILE"
        raise DataError("no test row stands in all of them", file=sides[-1].file or None, hint=hint)
    columns = [[_cut(rows[name], fields) for name in ids] for rows in by_id]
    for side, rows in zip(sides, columns, strict=True):
        if len(side.rows) > len(ids):
            notes.append(f"{side.name} has {len(side.rows) - len(ids):,} more test rows, which not all of them answered.")
        _require_one_judge(sides[0], columns[0], side, rows)
    return _comparable(columns, notes), ids


def _cut(row: Judged, fields: Fields) -> Judged:
    answer = None if row.answer is None else within(row.answer, fields)
    return dataclasses.replace(row, reference=within(row.reference, fields), answer=answer)


def within(answer: Mapping[str, Any], fields: Fields) -> dict[str, Any]:
    """What of an answer is among some fields."""
    return {name: value for name, value in answer.items() if name in fields}


def _require_one_judge(first: Side, ours: Sequence[Judged], second: Side, theirs: Sequence[Judged]) -> None:
    odd = [(a, b) for a, b in zip(ours, theirs, strict=True) if a.reference != b.reference]
    if odd:
        a, b = odd[0]
        name = next(name for name in {**a.reference, **b.reference} if a.reference.get(name) != b.reference.get(name))
        said = f"{name} is {_shown(a.reference.get(name))} in {first.file or first.name}, {_shown(b.reference.get(name))} here"
        message = f"the judge's answers differ in {len(odd):,} of {len(ours):,} rows; the first is {a.id!r}: {said}"
        hint = "judge both by the same labels: mlx-distill evaluate RUN --data FILE"
        raise DataError(message, file=second.file or second.name, hint=hint)


def _shown(value: Any) -> str:
    text = "absent" if value is None else judge.label(value)
    return text if len(text) <= SHOWN else text[: SHOWN - 3] + "..."


def _comparable(columns: Sequence[Sequence[Judged]], notes: list[str]) -> list[list[Judged]]:
    """Without what is not the same thing on all sides: another rubric's overall, the nats of other tokens."""
    keep: dict[str, Any] = {}
    if any(len({(row.reference_overall, row.reference_tier) for row in rows}) > 1 for rows in zip(*columns, strict=True)):
        keep |= dict.fromkeys(("overall", "tier", "reference_overall", "reference_tier"))
        notes.append("Overall and tier are left out: weights, gates, caps or tiers are not the same in all of them.")
    if any(len({row.nll_tokens for row in rows}) > 1 for rows in zip(*columns, strict=True)):
        keep |= {"nll": None, "nll_tokens": None}
        notes.append("Perplexity is left out: the answers are not the same tokens in all of them.")
    return [[dataclasses.replace(row, **keep) for row in rows] for rows in columns]
