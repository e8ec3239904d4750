"""A row on its way through the engine, and what is counted on the way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mlx_distill.errors import BackendError
from mlx_distill.recipe.schema import FieldSpec
from mlx_distill.records import Example, Ids, Value
from mlx_distill.task.decision import decide, place

Thing = TypeVar("Thing")


@dataclass(slots=True)
class Counts:
    """Tokens: of prompts, of answers where the student had to choose, of answers where there was no choice; and what they cost."""

    prefill: int = 0
    decoded: int = 0
    forced: int = 0
    forwarded: int = 0
    """Tokens that went through the layers: prompts without the shared prefix, answers, branches that were looked into. None is padding."""
    forwards: int = 0
    """Passes over the weights, of whatever was ready."""
    own_steps: int = 0
    """How often a row took part in one for its answer's sake, once its prompt was through."""
    grammar_seconds: float = 0.0
    """In which masks were computed."""

    def __add__(self, other: Counts) -> Counts:
        return Counts(*(getattr(self, it.name) + getattr(other, it.name) for it in fields(self)))


@dataclass(frozen=True, slots=True)
class Way:
    """How rows are answered. `whole`: each closed field's whole distribution is wanted, not only what the answer needs."""

    whole: bool = True
    temperature: float = 0.0
    samples: int = 1
    seed: int = 0


@dataclass(slots=True)
class Row:
    """Its prompt, and its answer so far. `sample`: which of several it is."""

    example: Example
    tokens: Ids
    trimmed: bool
    sample: int = 0
    answer: dict[str, Value] = field(default_factory=dict)
    confidence: dict[str, float] = field(default_factory=dict)
    probabilities: dict[str, list[float]] = field(default_factory=dict)
    forwarded: int = 0

    def take(self, name: str, spec: FieldSpec, values: Sequence[Value], probabilities: NDArray[np.float64]) -> int:
        """Set a closed field to the answer that its distribution stands for; the number of the value that is nearest to it."""
        self.require_numbers(name, probabilities)
        self.answer[name] = decide(spec, values, probabilities)
        return place(spec, values, self.answer[name])

    def draw(self, name: str, values: Sequence[Value], probabilities: NDArray[np.float64], way: Way) -> int:
        """Set a closed field to a value drawn from a distribution; its number. What is drawn follows from seed, row, sample and field."""
        self.require_numbers(name, probabilities)
        drawn = int(np.random.default_rng(self.seed(name, way)).choice(len(values), p=probabilities))
        self.answer[name] = values[drawn]
        return drawn

    def note(self, name: str, probabilities: NDArray[np.float64], best: int, *, whole: bool) -> None:
        """What is known of a closed field in the end: how sure it is, and its `whole` distribution."""
        self.confidence[name] = float(probabilities[best])
        if whole:
            self.probabilities[name] = [float(p) for p in probabilities]

    def seed(self, what: str, way: Way) -> list[int]:
        """Of this row, sample and field alone: neighbours, order and batch change no draw."""
        return [way.seed, self.sample, *f"{self.example.id}\n{what}".encode("utf-8", "surrogatepass")]

    def require_numbers(self, name: str, probabilities: ArrayLike) -> None:
        """Of a field; or their logarithms. Raises BackendError."""
        if not np.isfinite(probabilities).all():
            hint = "are the adapter or the base damaged, or too large for their type?"
            raise BackendError(f"row {self.example.id}: the probabilities of {name} are not numbers", hint=hint)


def in_order(fields: Sequence[str], values: Mapping[str, Thing]) -> dict[str, Thing]:
    """By the task's fields, whatever order they came to be known in."""
    return {name: values[name] for name in fields if name in values}
