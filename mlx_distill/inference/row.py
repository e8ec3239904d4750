"""A row on its way through the engine, and what is counted on the way."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from mlx_distill.errors import BackendError
from mlx_distill.records import Example, Ids, Value


@dataclass(slots=True)
class Counts:
    """Tokens: of prompts, of answers where the student had to choose, of answers where there was no choice."""

    prefill: int = 0
    decoded: int = 0
    forced: int = 0


@dataclass(slots=True)
class Row:
    """Its prompt, its answer so far, and the tokens that its session has not seen yet."""

    example: Example
    tokens: Ids
    trimmed: bool
    answer: dict[str, Value] = field(default_factory=dict)
    confidence: dict[str, float] = field(default_factory=dict)
    probabilities: dict[str, list[float]] = field(default_factory=dict)
    pending: list[int] = field(default_factory=list)
    forwarded: int = 0

    def take(self, name: str, values: tuple[Value, ...], probabilities: NDArray[np.float64]) -> int:
        """Set a closed field to its most likely value; that value's number. Raises BackendError where there are no numbers to tell by."""
        if not np.isfinite(probabilities).all():
            hint = "are the adapter or the base damaged, or too large for their type?"
            raise BackendError(f"row {self.example.id}: the probabilities of {name} are not numbers", hint=hint)
        best = int(np.argmax(probabilities))
        self.answer[name] = values[best]
        self.confidence[name] = float(probabilities[best])
        self.probabilities[name] = [float(p) for p in probabilities]
        return best


Held = Mapping[int, Row]
"""Rows by their handle in a session."""
