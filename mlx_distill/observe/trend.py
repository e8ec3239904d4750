"""What the events of a training add up to: its curves, how fast it goes, and how long it still takes.

It is told events (observe/events.py) and knows their fields; a field that is absent leaves its figure unknown (None), never guessed.
It knows nothing of terminals, and reads no clock but the one that it is given.
"""

from __future__ import annotations

import math
import statistics
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

WINDOW = 50
"""Steps that a speed is measured over."""
SLOW_START = 3
"""The first steps of a session, which compile and fill caches: they say nothing of the later ones."""
AT_LEAST = 5
"""Steps on each side, before a trend is said."""


def smoothed(values: Sequence[float], span: float) -> list[float]:
    """Exponential moving average over about `span` values, unbiased at its start (as Adam's moments are).

    >>> smoothed([4.0, 4.0, 1.0], span=3)
    [4.0, 4.0, 2.2857142857142856]
    """
    keep, mean, weight, out = 1 - 2 / (span + 1), 0.0, 0.0, []
    for value in values:
        mean, weight = keep * mean + (1 - keep) * value, keep * weight + (1 - keep)
        out.append(mean / weight)
    return out


def span_for(count: int) -> float:
    """How many of `count` losses to smooth over: enough to see a line, few enough to see it bend."""
    return min(50.0, max(5.0, count / 15))


def direction(values: Sequence[float]) -> str | None:
    """falling, level or rising: the last values against as many before them. None where there are too few to say.

    It is level where the two means differ by less than two standard errors (of a difference of means, each side with its own variance).

    >>> direction([5, 5.1, 4.9, 5, 5.1, 3, 3.1, 2.9, 3, 3]), direction([1, 2, 1, 2, 1, 2, 1, 2, 1, 2]), direction([1, 2])
    ('falling', 'level', None)
    """
    n = min(20, len(values) // 2)
    if n < AT_LEAST:
        return None
    before, now = values[-2 * n : -n], values[-n:]
    change = statistics.fmean(now) - statistics.fmean(before)
    error = math.sqrt((statistics.variance(before) + statistics.variance(now)) / n)
    return "level" if abs(change) <= 2 * error else "falling" if change < 0 else "rising"


@dataclass(frozen=True, slots=True)
class Validation:
    step: int
    loss: float | None
    best: bool
    metrics: Mapping[str, float] = field(default_factory=dict)


class Trend:
    """Tell it each event. What happened after the step that a training was resumed at did not happen."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._began = self._last = clock()
        self.step = 0
        self.steps: int | None = None
        self.epoch: float | None = None
        self.losses: list[tuple[int, float]] = []
        self.validations: list[Validation] = []
        self.now: dict[str, Any] = {}
        """The fields of the last step."""
        self.memory: float | None = None
        self.computed = self.padded = 0
        self.interrupted = False
        self._session = 0
        self._recent: deque[tuple[float, float | None, float | None]] = deque(maxlen=WINDOW)
        self._validating: deque[float] = deque(maxlen=5)

    def recall(self, events: Sequence[Mapping[str, Any]]) -> None:
        """What an earlier session did: its curves, not its speed."""
        for event in events:
            self(event)
        self._recent.clear()
        self._validating.clear()
        self._session, self.interrupted = 0, False
        self._began = self._last = self._clock()

    def __call__(self, event: Mapping[str, Any]) -> None:
        name = event.get("name")
        if name == "step":
            self._step(event)
        elif name == "validated":
            self._validated(event)
        elif name == "resumed":
            self._rewind(int(event.get("step") or 0))
        elif name == "skipped":
            self.step = event.get("step", self.step)
            self._last = self._clock()
        elif name == "interrupted":
            self.interrupted = True

    def _step(self, event: Mapping[str, Any]) -> None:
        now = self._clock()
        seconds = now - self._last if event.get("seconds") is None else event["seconds"]
        before, self.now, self._last = self.now, dict(event), now
        self.step, self.steps, self.epoch = event["step"], event.get("steps", self.steps), event.get("epoch")
        if event.get("loss") is not None:
            self.losses.append((self.step, event["loss"]))
        if event.get("memory") is not None:
            self.memory = max(self.memory or 0, event["memory"])
        self.computed += event.get("computed") or 0
        self.padded += event.get("padded") or 0
        self._session += 1
        if self._session > SLOW_START or not self._recent:
            if self._session == SLOW_START + 1:
                self._recent.clear()
            self._recent.append((seconds, _gained("tokens", before, event), _gained("rows", before, event)))

    def _validated(self, event: Mapping[str, Any]) -> None:
        metrics = {name: value for name, value in (event.get("metrics") or {}).items() if value is not None}
        self.validations.append(Validation(event["step"], event.get("valid_loss"), bool(event.get("best")), metrics))
        self._last = self._clock()
        if event.get("seconds") is not None:
            self._validating.append(event["seconds"])

    def _rewind(self, step: int) -> None:
        self.step = step
        self.losses = [(at, loss) for at, loss in self.losses if at <= step]
        self.validations = [validation for validation in self.validations if validation.step <= step]
        self.now = {}

    @property
    def best(self) -> Validation | None:
        """The one whose adapter is kept."""
        return next((validation for validation in reversed(self.validations) if validation.best), None)

    @property
    def elapsed(self) -> float:
        """Seconds of this session."""
        return self._clock() - self._began

    @property
    def seconds_per_step(self) -> float | None:
        """The mean of the last steps, without the first slow ones; each counts for three times the median at most (a laptop that slept)."""
        if not self._recent:
            return None
        seconds = [entry[0] for entry in self._recent]
        most = 3 * statistics.median(seconds)
        return statistics.fmean(min(value, most) for value in seconds)

    def per_second(self, what: str) -> float | None:
        """Of learned `tokens`, or of `rows`, over the last steps, validations not counted."""
        place = {"tokens": 1, "rows": 2}[what]
        known = [(entry[0], entry[place]) for entry in self._recent if entry[place] is not None]
        seconds = sum(entry[0] for entry in known)
        return sum(count for _, count in known if count is not None) / seconds if seconds else None

    @property
    def padded_share(self) -> float | None:
        return self.padded / self.computed if self.computed else None

    @property
    def epochs(self) -> float | None:
        """All that are planned, from what a step says of both."""
        return self.epoch * self.steps / self.step if self.epoch and self.steps and self.step else None

    @property
    def seconds_left(self) -> float | None:
        """If it is not stopped early: the steps, and the validations at the distance that they have had."""
        each = self.seconds_per_step
        if each is None or self.steps is None:
            return None
        left = (self.steps - self.step) * each
        if self._validating and self.validations:
            last = self.validations[-1].step
            every = last - (self.validations[-2].step if len(self.validations) > 1 else 0)
            left += math.ceil((self.steps - last) / max(1, every)) * statistics.fmean(self._validating)
        return left


def _gained(name: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> float | None:
    """Of a count that grows from step to step, this step's part."""
    if before.get(name) is None or now.get(name) is None:
        return None
    return float(now[name] - before[name])
