"""Shapes of training, `prefix/article/answer micro×accumulate`, and random rows of a shape.

A shape is written `600/200-900/40-120 4x4`: a prefix of 600 tokens shared by all rows, articles of 200 to 900 and answers of 40 to 120
(uniform, independent), 4 micro-batches of 4 rows in an effective batch. `none` is no prefix. NumPy alone: no model, no trainer.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from mlx_distill.data.batches import BUCKET
from mlx_distill.records import Ids

WRITTEN = re.compile(r"(none|\d+)/(\d+)(?:-(\d+))?/(\d+)(?:-(\d+))? +(\d+)[x×](\d+)")
Span = tuple[int, int]
"""The shortest and the longest, both included."""


@dataclass(frozen=True, slots=True)
class Shape:
    prefix: int
    article: Span
    answer: Span
    micro: int
    """Rows in a micro-batch."""
    accumulate: int
    """Micro-batches in an effective batch."""

    def __str__(self) -> str:
        article, answer = (str(low) if low == high else f"{low}-{high}" for low, high in (self.article, self.answer))
        return f"{self.prefix or 'none'}/{article}/{answer} {self.micro}x{self.accumulate}"

    def divided(self, by: float) -> Shape:
        """The same proportions with fewer tokens in every part; batches stay as they are."""
        article, answer = ((max(1, round(low / by)), max(1, round(high / by))) for low, high in (self.article, self.answer))
        return replace(self, prefix=round(self.prefix / by), article=article, answer=answer)


def parse(text: str) -> Shape:
    """The inverse of `str(shape)`. Raises ValueError on anything else, on empty parts, and on spans that end before they start.

    >>> parse("600/200-900/40 4x2")
    Shape(prefix=600, article=(200, 900), answer=(40, 40), micro=4, accumulate=2)
    """
    if (found := WRITTEN.fullmatch(text.strip())) is None:
        raise ValueError(f"{text!r} is no shape; write prefix/article/answer micro×accumulate, such as 600/200-900/40-120 4x4")
    prefix, low, high, shortest, longest, micro, accumulate = found.groups()
    shape = Shape(
        0 if prefix == "none" else int(prefix),
        (int(low), int(high or low)),
        (int(shortest), int(longest or shortest)),
        int(micro),
        int(accumulate),
    )
    if min(shape.article[0], shape.answer[0], shape.micro, shape.accumulate) < 1:
        raise ValueError(f"{text!r}: articles, answers and batches have at least 1")
    if shape.article[0] > shape.article[1] or shape.answer[0] > shape.answer[1]:
        raise ValueError(f"{text!r}: a span is written shortest-longest")
    return shape


@dataclass(frozen=True, slots=True, eq=False)
class Row:
    """A text and its answer, both in tokens, without the prefix."""

    id: str
    article: Ids
    answer: Ids

    def __len__(self) -> int:
        return len(self.article) + len(self.answer)


MicroBatch = Sequence[Row]
Batch = Sequence[MicroBatch]
"""An effective batch."""


@dataclass(frozen=True, slots=True, eq=False)
class Work:
    """What everybody trains: one effective batch to warm up, then those that are measured. Micro-batches hold rows of like length."""

    prefix: Ids
    warm_up: Batch
    measured: Sequence[Batch]


def draw(shape: Shape, batches: int, vocabulary: int, seed: int = 0) -> Work:
    """Random rows in `batches` effective batches, and those of the warm-up.

    Micro-batches are cut as `data.batches` cuts them, from a sorted bucket that is larger than what is trained here: a trainer that sorts
    its data meets rows of like length. Those taken stand in the middle of equal parts of the bucket, so that few stand for all.
    """
    generator = np.random.default_rng(seed)

    def ids(length: int) -> Ids:
        return generator.integers(3, vocabulary, length).astype(np.int32)

    def row(name: str) -> Row:
        article, answer = (int(generator.integers(low, high + 1)) for low, high in (shape.article, shape.answer))
        return Row(name, ids(article), ids(answer))

    def effective(name: str, count: int) -> list[Batch]:
        wanted = count * shape.accumulate
        bucket = sorted((row(f"{name}-{i}") for i in range(max(BUCKET, wanted) * shape.micro)), key=len)
        micro: list[MicroBatch] = [bucket[at : at + shape.micro] for at in range(0, len(bucket), shape.micro)]
        chosen = [micro[int((i + 0.5) * len(micro) / wanted)] for i in generator.permutation(wanted)]
        return [chosen[at : at + shape.accumulate] for at in range(0, wanted, shape.accumulate)]

    prefix = ids(shape.prefix)
    [warm_up] = effective("warm", 1)
    return Work(prefix, warm_up, effective("row", batches))


def unsorted(batches: Sequence[Batch], seed: int = 0) -> list[Batch]:
    """The same rows in random order, cut into as many batches of the same size: what a trainer that does not sort meets."""
    rows = [row for batch in batches for micro in batch for row in micro]
    shuffled = iter([rows[i] for i in np.random.default_rng(seed).permutation(len(rows))])
    return [[[next(shuffled) for _ in micro] for micro in batch] for batch in batches]


def rows_of(batches: Sequence[Batch]) -> list[Row]:
    return [row for batch in batches for micro in batch for row in micro]
