"""How a job comes on: what is done, how fast, what is left, and what the answers look like so far.

A person sees from it whether tiers come out as expected, and why rows are rejected, while a job still runs. It adds up; it draws nothing.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mlx_distill.memory import resident_bytes
from mlx_distill.observe.progress import duration
from mlx_distill.records import BadRow

REASONS = 100
"""Different reasons that are told apart: rows may each have one of their own."""
SHOWN = 5
AT_ONCE = 1.0
"""Seconds: answers that come so soon behind the first came with it, and were begun before it."""
SETTLED = 5.0
"""Seconds behind the first answers from which on a rate says something of those to come."""
_NUMBER = re.compile(r"\d+")


@dataclass(slots=True)
class Reasons:
    """Why rows were rejected: how often each reason, and where first. Reasons that differ in a number or in the row's id are one."""

    total: int = 0
    found: dict[str, tuple[int, str]] = field(default_factory=dict)
    """By the reason's shape: how many, and the first of them with its place."""

    def add(self, bad: BadRow, place: str) -> None:
        self.total += 1
        shape = _shape(bad)
        if shape in self.found or len(self.found) < REASONS:
            count, first = self.found.get(shape, (0, f"{place}: {bad.reason}"))
            self.found[shape] = count + 1, first

    def lines(self) -> list[str]:
        """The commonest first.

        >>> reasons = Reasons()
        >>> for line in (3, 4, 7):
        ...     reasons.add(BadRow("not JSON" if line == 4 else "no column 'text'"), f"line {line}")
        >>> reasons.lines()
        ["2 rows, the first line 3: no column 'text'", 'line 4: not JSON']
        """
        commonest = sorted(self.found.items(), key=lambda item: -item[1][0])[:SHOWN]
        lines = [f"{count:,} rows, the first {first}" if count > 1 else first for _, (count, first) in commonest]
        rest = self.total - sum(count for _, (count, _) in commonest)
        return lines + ([f"and {rest:,} more, for other reasons"] if rest else [])


def _shape(bad: BadRow) -> str:
    """
    >>> _shape(BadRow("the id 'r7' stands on line 31 already", 40, "r7"))
    'the id ... stands on line # already'
    """
    return _NUMBER.sub("#", bad.reason if bad.id is None else bad.reason.replace(repr(bad.id), "..."))


class Tally:
    """`tiers`: of each student by name, in the recipe's order; none for one without. `total`: rows of the input, where that is known.

    `apart`: time left and tiers are drawn beside the figures, and are none of them. `memory`: bytes that the job has now.
    """

    def __init__(
        self,
        tiers: Mapping[str, Sequence[str]],
        total: int | None,
        *,
        apart: bool = False,
        memory: Callable[[], int | None] = resident_bytes,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.total, self.reasons, self._apart = total, Reasons(), apart
        self._tiers = {task: Counter(dict.fromkeys(names, 0)) for task, names in tiers.items() if names}
        self._clock, self._memory, self._students = clock, memory, len(tiers)
        self._began = self._last = clock()
        self._first: float | None = None
        self._mark = self._began, 0
        """When the first answers had come, and how many those were."""
        self._passed = self._worked = self._answered = self._rejected = 0

    def recall(self, task: str, tier: str | None) -> None:
        """An answer of an earlier run. `task` is empty where one student answers."""
        self._answered += 1
        self._add_tier(task, tier)

    def recall_reject(self) -> None:
        self._rejected += 1

    def skipped(self) -> None:
        """A row that was done before has come by. The clock starts behind the last of them."""
        self._passed += 1
        if not self._worked:
            self._began = self._clock()

    def answered(self, task: str, tier: str | None) -> None:
        self._passed, self._worked, self._last = self._passed + 1, self._worked + 1, self._clock()
        self._first = self._last if self._first is None else self._first
        if self._last - self._first <= AT_ONCE:
            self._mark = self._last, self._worked
        self.recall(task, tier)

    def rejected(self, bad: BadRow, place: str, *, again: bool = False) -> None:
        """`again`: another student could not read this row either; of the input's rows it is still one."""
        self._passed += 1
        self._rejected += 1
        if not again:
            self.reasons.add(bad, place)

    @property
    def answers(self) -> int:
        """Those of earlier runs too."""
        return self._answered

    @property
    def rows_per_hour(self) -> int | None:
        """Rows of the input that all students answered, an hour; what was answered before is not counted, nor the time until the first
        answers. A job that is over too soon to leave that out is measured from where answering began. None where nothing was answered.
        """
        rate = self._rate()
        return None if rate is None else round(rate * 3600 / self._students)

    @property
    def _settled(self) -> bool:
        return self._last - self._mark[0] >= SETTLED and self._worked > 0

    def _rate(self) -> float | None:
        """Answers a second."""
        since, before = self._mark if self._settled else (self._began, 0)
        return (self._worked - before) / (self._last - since) if self._worked > before and self._last > since else None

    def figures(self) -> dict[str, Any]:
        """For the progress line; None where nothing can be said yet, or any more: rate and time left a little behind the first answers."""
        rate = self._rate() if self._settled else None
        left = 0 if self.total is None or self._apart else self.total * self._students - self._passed
        seen, memory = self._answered + self._rejected, self._memory()
        return {
            "rows/h": (self.rows_per_hour or None) if rate else None,
            "left": duration(left / rate) if rate and left > 0 else None,
            "valid": f"{100 * self._answered / seen:.4g} %" if seen else None,
            "memory": f"{memory / 2**30:.2f} GiB" if memory is not None else None,
            "tiers": None if self._apart else "; ".join(self.tiers()) or None,
        }

    def tiers(self) -> list[str]:
        """The tiers' shares so far, a line a student, highest first as the recipe has them.

        >>> tally = Tally({"solar": ("high", "low")}, 4)
        >>> for tier in ("low", "high", "low"):
        ...     tally.answered("solar", tier)
        >>> tally.tiers()
        ['high 33 %, low 67 %']
        """
        lines = []
        for task, counts in self._tiers.items():
            if total := sum(counts.values()):
                shares = ", ".join(f"{tier} {100 * count / total:.0f} %" for tier, count in counts.items())
                lines.append(f"{task}: {shares}" if len(self._tiers) > 1 else shares)
        return lines

    def _add_tier(self, task: str, tier: str | None) -> None:
        counts = self._tiers.get(task) if task else next(iter(self._tiers.values()), None)
        if tier is not None and counts is not None:
            counts[tier] += 1
