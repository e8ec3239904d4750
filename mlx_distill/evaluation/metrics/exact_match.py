"""`exact_match`: how often every closed field is right at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from mlx_distill.evaluation.metrics import CLOSED, Sheet, Tally, share

BETTER = "higher"
UNIT = "share of rows"
TITLE = "Every field right"


def exact_match(reference: Sequence[Mapping[str, object]], answer: Sequence[Mapping[str, object] | None]) -> float:
    """Share of rows whose labelled fields are all right; higher is better. A row without any label does not count.

    >>> exact_match([{"a": 1, "b": 2}, {"a": 1}, {}], [{"a": 1, "b": 3}, {"a": 1, "b": 9}, {"a": 1}])
    0.5
    """
    pairs = list(zip(reference, answer, strict=True))
    same = [student is not None and all(student.get(name) == value for name, value in judge.items()) for judge, student in pairs]
    return share(same, [bool(judge) for judge, _ in pairs]).total()


def tallies(sheet: Sheet) -> dict[str, Tally]:
    columns = list(sheet.of_kind(*CLOSED).values())
    if not columns:
        return {}
    same = np.logical_and.reduce([column.right | ~column.labelled for column in columns])
    return {"exact_match": share(same, np.logical_or.reduce([column.labelled for column in columns]))}
