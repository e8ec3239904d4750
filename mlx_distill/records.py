"""The records that stages hand to each other: NumPy and plain Python, no tensors, no behaviour beyond arithmetic."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int32]
"""Token ids, (n,)."""

Value = int | float | str | bool | list[str]
"""The value of one field of an answer."""


@dataclass(frozen=True, slots=True)
class Example:
    """One row of a source. `labels` has the fields that the judge answered; a missing one is absent, never None."""

    id: str
    record: Mapping[str, Any]
    """The columns as the source gave them."""
    text: str
    """The task's `input` template, filled in."""
    labels: Mapping[str, Value] = field(default_factory=dict)
    line: int | None = None
    file: str | None = None


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that cannot be used: where it stands, and why."""

    reason: str
    line: int | None = None
    id: str | None = None
    file: str | None = None
    """The file it stands in; None where there are no files (hf)."""


@dataclass(frozen=True, slots=True, eq=False)
class TokenRow:
    """What a row brings beyond its group's prefix.

    `read_at` are positions in `tokens`; the next token after each is learned (`targets`) or read.
    `allowed` restricts the distribution at each position to those ids (None, of one position or of all: the whole vocabulary).
    """

    id: str
    tokens: Ids
    """(n,), n >= 1, without the group's prefix."""
    read_at: Ids
    """(k,), ascending, in 0 ... n - 1."""
    targets: Ids
    """(k,)"""
    weight: NDArray[np.float32]
    """(k,), how much each target counts in the loss."""
    allowed: Sequence[Ids | None] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Taught:
    """What an answer adds to a prompt in training. After `read[i]` tokens of `inputs` (0: after the prompt), `targets[i]` is learned."""

    inputs: Ids
    read: Ids
    targets: Ids
    weight: NDArray[np.float32]
    allowed: Sequence[Ids | None] | None = None
    field: Sequence[str | None] = ()
    """The field whose value each target decides; None for text that is fixed."""


@dataclass(frozen=True, slots=True, eq=False)
class Group:
    """Rows that share a prefix, in the micro-batches of one effective batch. `prefix` may be empty."""

    prefix: Ids
    micro_batches: Sequence[Sequence[TokenRow]]

    @property
    def rows(self) -> list[TokenRow]:
        return [row for batch in self.micro_batches for row in batch]


@dataclass(frozen=True, slots=True, eq=False)
class RawTensor:
    """A tensor as safetensors stores it. `dtype` is the file's name for it (F32, F16, BF16, U32, ...).

    `data` has the tensor's shape; BF16, which NumPy lacks, is held as its bits in uint16.
    """

    dtype: str
    data: NDArray[Any]


@dataclass(frozen=True, slots=True)
class LossSum:
    """Weighted nats and the weight they were summed over, so that means are exact over uneven batches."""

    nats: float = 0.0
    tokens: float = 0.0

    def __add__(self, other: LossSum) -> LossSum:
        return LossSum(self.nats + other.nats, self.tokens + other.tokens)

    @property
    def mean(self) -> float:
        """Nats a token. NaN where nothing was summed."""
        return self.nats / self.tokens if self.tokens else float("nan")


@dataclass(frozen=True, slots=True)
class Step:
    """One effective batch. `applied` is false where loss or gradient was not finite: then nothing has changed."""

    loss: LossSum
    row_losses: Mapping[str, LossSum]
    grad_norm: float
    applied: bool
    computed: int = 0
    """Tokens forwarded: each prefix once, each row with its padding."""
    padded: int = 0
    """Of them padding."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """One answer. `probabilities` has, for every field with a closed set of values, each value's probability in the order of the set.

    Where a calibration was applied, `confidence` and `probabilities` are what it made of `raw`, the student's own.
    """

    id: str
    answer: Mapping[str, Value]
    confidence: Mapping[str, float]
    probabilities: Mapping[str, Sequence[float]] = field(default_factory=dict)
    overall: float | None = None
    tier: str | None = None
    trimmed: bool = False
    tokens: int = 0
    """Tokens forwarded for this row, the shared prefix not counted."""
    raw: Mapping[str, Sequence[float]] = field(default_factory=dict)
    """As `probabilities`, before calibration; empty where none was applied."""
    sure: float | None = None
    """How sure the whole row is, 0 to 1: what is held against the threshold of deferral. None: there is none, or nothing is known."""
    defer: bool = False
    """Less sure than the threshold: it goes back to the judge, or to a person."""
    sets: Mapping[str, Sequence[Value]] = field(default_factory=dict)
    """Conformal: the choices that the judge's is among, or of a score the interval [lowest, highest] that it lies in."""
