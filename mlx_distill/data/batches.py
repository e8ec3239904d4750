"""Which rows are learned together: like lengths in a micro-batch, a new order each epoch, every row once.

Rows are shuffled, cut into buckets, sorted by length within each; micro-batches are cut from the buckets and shuffled again. The last short
one is trained too. All of it follows from (seed, epoch), so that a resume needs no generator state.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from mlx_distill.data.tokens import Lesson
from mlx_distill.records import Group, Ids

BUCKET = 32
"""Micro-batches in a bucket: enough for rows of like length to meet, few enough for company to change from epoch to epoch."""

MicroBatch = Sequence[Lesson]


def epoch(rows: Sequence[Lesson], *, batch_size: int, accumulate: int, seed: int, number: int) -> list[list[MicroBatch]]:
    """The effective batches of one epoch, each a list of up to `accumulate` micro-batches of up to `batch_size` rows."""
    generator = np.random.default_rng([seed, number])
    order = generator.permutation(len(rows))
    micro: list[MicroBatch] = []
    for start in range(0, len(order), BUCKET * batch_size):
        bucket = sorted(order[start : start + BUCKET * batch_size], key=lambda i: (len(rows[i].row.tokens), i))
        micro += [[rows[i] for i in bucket[at : at + batch_size]] for at in range(0, len(bucket), batch_size)]
    shuffled = [micro[i] for i in generator.permutation(len(micro))]
    return [shuffled[start : start + accumulate] for start in range(0, len(shuffled), accumulate)]


def steps_per_epoch(rows: int, batch_size: int, accumulate: int) -> int:
    """Effective batches in an epoch."""
    micro = math.ceil(rows / batch_size)
    return math.ceil(micro / accumulate)


def groups(batch: Sequence[MicroBatch], prefix: Ids) -> list[Group]:
    """An effective batch for a backend: the rows that share the prefix, and those that do not."""
    parts = {shared: [[lesson.row for lesson in micro if lesson.shared is shared] for micro in batch] for shared in (True, False)}
    out = [Group(prefix if shared else prefix[:0], [micro for micro in part if micro]) for shared, part in parts.items()]
    return [group for group in out if group.micro_batches]


def by_length(rows: Sequence[Lesson], budget: int) -> Iterator[list[Lesson]]:
    """Batches for measuring, longest rows first: what does not fit shows at once. rows x longest stays within the budget."""
    batch: list[Lesson] = []
    for lesson in sorted(rows, key=lambda lesson: (-len(lesson.row.tokens), lesson.row.id)):
        if batch and (len(batch) + 1) * len(batch[0].row.tokens) > budget:
            yield batch
            batch = []
        batch.append(lesson)
    if batch:
        yield batch
