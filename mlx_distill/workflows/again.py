"""What the judge said when it was asked again: the rows of `evaluate.again`, found by the id of the row that they are about."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlx_distill.data.examples import name_of
from mlx_distill.data.read import read
from mlx_distill.data.sources import SourceRow
from mlx_distill.errors import DataError
from mlx_distill.evaluation.ceiling import again_of
from mlx_distill.evaluation.sheet import Answer
from mlx_distill.recipe.schema import Recipe
from mlx_distill.task.fields import ABSENT, follow

ID = "id"


@dataclass(frozen=True, slots=True)
class Again:
    """`answers` and `records` by id, the first of each; `repeated`: rows whose id stood before."""

    answers: Mapping[str, Answer] = field(default_factory=dict)
    records: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    repeated: int = 0

    def remarks(self) -> Iterator[str]:
        """What a reader of the report should know of them. No row is quoted, and none named."""
        if self.repeated:
            rows = "1 second answer has" if self.repeated == 1 else f"{self.repeated:,} second answers have"
            yield f"{rows} the id of one before: of each row the first counts."


def second_answers(recipe: Recipe, column: str = ID) -> Again:
    """Nothing where the recipe names none. `column`: the id's, where a row has it, else `id`. Raises DataError where no row has an id."""
    source = recipe.evaluate.again
    if source is None:
        return Again()
    records: dict[str, Mapping[str, Any]] = {}
    repeated = 0
    for row in read(source, Path(source.path)):
        name = _id(row.record, column) if isinstance(row, SourceRow) else None
        if name is None or not isinstance(row, SourceRow):
            continue
        repeated += name in records
        records.setdefault(name, row.record)
    if not records:
        hint = f"a second answer is found by the id of its row: give the file a column {column!r} with the ids of the rows that are judged"
        raise DataError("evaluate.again: there is no row with an id", file=source.path, hint=hint)
    answers = {name: again_of(recipe.task, record, recipe.data.missing) for name, record in records.items()}
    return Again(answers, records, repeated)


def _id(record: Mapping[str, Any], column: str) -> str | None:
    given = follow(record, column)
    return name_of(follow(record, ID) if given is ABSENT else given)
