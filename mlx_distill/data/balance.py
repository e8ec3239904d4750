"""What rare labels count in the loss: one weight for each label of a field, out of how often it stands among the rows to learn.

`recipe.schema.BalanceSpec` says the formula. It knows labels; nothing of tokens, batches or models.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlx_distill.recipe.schema import BalanceSpec, FieldSpec
from mlx_distill.records import Value
from mlx_distill.task.fields import nearest_value

POWER = {"none": 0.0, "sqrt": 0.5, "inverse": 1.0}
LABELS = ("choice", "flag")


@dataclass(frozen=True, slots=True)
class Balance:
    """`worth`: field -> label -> its weight, of the fields that are balanced. `unseen`: what a label that no training row has is worth."""

    worth: Mapping[str, Mapping[Any, float]] = field(default_factory=dict)
    unseen: Mapping[str, float] = field(default_factory=dict)
    fields: Mapping[str, FieldSpec] = field(default_factory=dict)

    @classmethod
    def of(cls, spec: BalanceSpec, fields: Mapping[str, FieldSpec], labels: Sequence[Mapping[str, Value]]) -> Balance:
        """`labels` are those of the rows to learn."""
        if spec.kind == "none":
            return cls()
        chosen = spec.fields if spec.fields is not None else [name for name, own in fields.items() if own.kind in LABELS]
        worth: dict[str, dict[Any, float]] = {}
        unseen: dict[str, float] = {}
        for name in chosen:
            counts: Counter[Any] = Counter(nearest_value(fields[name], row[name]) for row in labels if name in row)
            weights, mean = balanced(counts, power=POWER[spec.kind], most=spec.most)
            worth[name], unseen[name] = weights, spec.most / mean
        return cls(worth, unseen, dict(fields))

    def weights(self, labels: Mapping[str, Value], field: Sequence[str | None]) -> NDArray[np.float32]:
        """Of the tokens of one answer, (k,): `field` names the field that each of them decides."""
        return np.array([self._weight(name, labels) for name in field], np.float32)

    def _weight(self, name: str | None, labels: Mapping[str, Value]) -> float:
        if name is None or name not in self.worth:
            return 1.0
        return self.worth[name].get(nearest_value(self.fields[name], labels[name]), self.unseen[name])


def balanced(counts: Mapping[Any, int], *, power: float, most: float) -> tuple[dict[Any, float], float]:
    """min((N / n) ^ power, most) of each label, divided by its mean over the rows; and that mean.

    >>> balanced({"common": 8, "rare": 2}, power=0.5, most=10)  # 1 and 2, mean (8 + 4) / 10
    ({'common': 0.8333333333333334, 'rare': 1.6666666666666667}, 1.2)
    """
    largest = max(counts.values(), default=1)
    raw = {label: min((largest / count) ** power, most) for label, count in counts.items()}
    rows = sum(counts.values())
    mean = sum(counts[label] * raw[label] for label in counts) / rows if rows else 1.0
    return {label: value / mean for label, value in raw.items()}, mean
