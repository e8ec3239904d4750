"""Places that collect the figures of many trainings, one file each: wandb, mlflow, tensorboard.

    LIBRARY                     what has to be installed, as it is imported
    WAY_OUT                     what to do where it cannot be opened
    open(card) -> Tracker       the training that the card names: begun, or gone on with

A tracker writes through its own library, imported only when it is opened, and configured by that library's own environment variables.
It knows figures and steps; nothing of events, threads or failures: those are `reporting`'s.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class Card:
    """What a tracker is told of a training."""

    name: str
    """The recipe's name and the Run's folder."""
    folder: Path
    """The Run's. What a tracker keeps on this machine, it keeps in a folder of its own name in here."""
    recipe: Mapping[str, Any]
    """Resolved: every setting."""
    environment: Mapping[str, str]
    known_as: str | None = None
    """What the tracker called this training before; None where it has never heard of it."""
    last: Mapping[str, int] | None = None
    """The last step in events.jsonl of each part, "train" and "valid", when this session began."""


@dataclass(frozen=True, slots=True)
class Point:
    """Figures of one step. `part` is train or valid, `time` seconds since 1970; the names are whole: train/loss."""

    step: int
    part: str
    time: float
    figures: Mapping[str, float]


class Tracker(Protocol):
    @property
    def known_as(self) -> str:
        """What this training is called here, so that a resumed one goes on under the same name."""

    @property
    def place(self) -> str:
        """Where a person looks at it: an address, or what to run."""

    def last(self, part: str) -> int:
        """The last step of a part that stands here already; -1 where there is none."""

    def log(self, points: Sequence[Point]) -> None:
        """Steps ascend, within and across calls."""

    def close(self, status: str) -> None:
        """`status`: finished, interrupted or failed. Everything that was logged is where it belongs afterwards."""


def flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings under dotted keys.

    >>> flat({"train": {"epochs": 3}, "name": "x"})
    {'train.epochs': 3, 'name': 'x'}
    """
    out: dict[str, Any] = {}
    for key, value in settings.items():
        out |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return out
