"""Several answers to one text become one: self-consistency (Wang et al., 2022).

A closed field's distribution is the mean of those that its samples were drawn from, which is what their votes would come to if there were
many more of them, without the noise of counting a few. The answer is what the recipe asks of a distribution; the confidence is the share
of samples that it stands for. It knows rows and fields.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import numpy as np

from mlx_distill.inference.row import Row
from mlx_distill.recipe.schema import FieldSpec
from mlx_distill.records import Value
from mlx_distill.task.fields import closed_values


def vote(samples: Sequence[Row], fields: Mapping[str, FieldSpec]) -> Row:
    """One row from several of the same text. Its texts are those of the sample that agrees with the most of the vote."""
    first = samples[0]
    whole = Row(first.example, first.tokens, first.trimmed, forwarded=sum(row.forwarded for row in samples))
    for name, spec in fields.items():
        values = closed_values(spec)
        if values is not None and name in first.probabilities:
            mean = np.mean([row.probabilities[name] for row in samples], axis=0)
            whole.note(name, mean, whole.take(name, spec, values, mean), whole=True)
    told = max(samples, key=lambda row: sum(row.answer[name] == value for name, value in whole.answer.items()))
    for name in fields:
        if name in told.answer and name not in whole.answer:
            whole.answer[name] = told.answer[name]
            whole.confidence[name] = _share(told.answer[name], [row.answer[name] for row in samples])
    return whole


def _share(value: Value, others: Sequence[Value]) -> float:
    return sum(json.dumps(other) == json.dumps(value) for other in others) / len(others)
