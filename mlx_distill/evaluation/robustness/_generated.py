"""One suite of changed test rows: draws the rows, changes their texts, asks, and lays both answers side by side."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from types import MappingProxyType, ModuleType
from typing import Any

from mlx_distill import catalog
from mlx_distill.evaluation.judge import Judged
from mlx_distill.evaluation.robustness._columns import answers, example, longest, put, texts
from mlx_distill.evaluation.robustness._draw import dice, evenly, stratum
from mlx_distill.evaluation.robustness._suite import KIND, LONGEST, Aim, Ask, Context
from mlx_distill.recipe.schema import TaskSpec
from mlx_distill.records import BadRow, Example, Prediction
from mlx_distill.task.prompt import fill


@dataclass(frozen=True, slots=True)
class Pair:
    """A row before and after its text was changed; the judge's answer is that to the unchanged text in both."""

    before: Judged
    after: Judged
    aim: Aim | None = None
    """What the changed text demands."""


@dataclass(frozen=True, slots=True)
class Asked:
    """`unchanged`: rows that were looked at, and that the suite leaves as they are."""

    pairs: list[Pair]
    unchanged: int


class Rows:
    """The test rows that changes are made of: those that the student answered and whose columns are known."""

    def __init__(self, task: TaskSpec, rows: Sequence[Judged]):
        self.task = task
        self.rows = [row for row in rows if row.answer is not None and texts(task, row.record)]
        self.labels = {row.id: stratum(row, task.fields) for row in self.rows}
        self.texts: dict[str, list[str]] = {}
        for row in sorted(self.rows, key=lambda row: row.id):
            found = texts(task, row.record)
            self.texts.setdefault(self.labels[row.id], []).append(found[longest(found)])

    def context(self, row: Judged) -> Context:
        return Context(self.task, row, self.labels[row.id], self.texts)


def ask_suite(name: str, rows: Rows, ask: Ask, *, wanted: int, seed: int) -> Asked:
    """`wanted` rows that the suite changes, evenly over what the judge says, asked in one call."""
    module = catalog.find(KIND, name)
    unchanged = 0

    def change(row: Judged) -> tuple[Judged, Example | BadRow] | None:
        nonlocal unchanged
        found = changed(module, name, rows.context(row), seed)
        unchanged += found is None
        return None if found is None else (row, found)

    drawn = list(islice(evenly(rows.rows, change, seed=seed, id=lambda row: row.id, stratum=lambda row: rows.labels[row.id]), wanted))
    given = answers(ask, [found for _, found in drawn])
    aims = [_aim(module, name, rows.context(row), seed) for row, _ in drawn]
    before = [dataclasses.replace(row, text=fill(rows.task.input, row.record)) for row, _ in drawn]
    after = [answered(row, found, said) for (row, found), said in zip(drawn, given, strict=True)]
    pairs = [Pair(*sides) for sides in zip(before, after, aims, strict=True)]
    return Asked(pairs, unchanged)


def changed(module: ModuleType, name: str, context: Context, seed: int) -> Example | BadRow | None:
    """The row with its texts changed; None where that leaves what the student reads as it was."""
    task, row = context.task, context.row
    own = texts(task, row.record)
    record: Mapping[str, Any] = row.record
    for column in [longest(own)] if module.WHERE == LONGEST else own:
        record = put(record, column, module.perturb(own[column], dice(seed, name, row.id), context))
    return None if fill(task.input, record) == fill(task.input, row.record) else example(task, row.id, record)


def answered(row: Judged, asked: Example | BadRow, said: Prediction | BadRow) -> Judged:
    """The row with another text, and the answer to that."""
    text, record = (asked.text, asked.record) if isinstance(asked, Example) else ("", row.record)
    own = {name: getattr(said, name) for name in OWN} if isinstance(said, Prediction) else {}
    refused = said.reason if isinstance(said, BadRow) else None
    return dataclasses.replace(row, text=text, record=record, refused=refused, **{**NOTHING, **own})


OWN = ("answer", "confidence", "probabilities", "raw", "overall", "tier", "sure", "defer", "sets")
"""What a prediction says of a row."""
NOTHING: Mapping[str, Any] = {
    **dict.fromkeys(("answer", "overall", "tier", "sure", "nll", "nll_tokens", "tokens")),
    **dict.fromkeys(("confidence", "probabilities", "raw", "sets", "nll_fields"), MappingProxyType({})),
    "defer": False,
}
"""What is known of an answer that was not given. The judge's answer was not weighed with the changed text either."""


def _aim(module: ModuleType, name: str, context: Context, seed: int) -> Aim | None:
    aim = getattr(module, "aim", None)
    found: Aim | None = aim(dice(seed, name, context.row.id), context) if aim else None
    return found
