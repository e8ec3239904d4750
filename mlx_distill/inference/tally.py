"""How a job comes on: what is done, how fast, what is left, and what the answers look like so far.

A person sees from it whether tiers come out as expected, and why rows are rejected, while a job still runs. It adds up; it draws nothing.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mlx_distill.observe.memory import resident_bytes
from mlx_distill.observe.progress import duration
from mlx_distill.records import BadRow

REASONS = 100
"""Different reasons that are told apart: rows may each have one of their own."""
SHOWN = 5


@dataclass(slots=True)
class Reasons:
    """Why rows were rejected: how often each reason, and where first."""

    total: int = 0
    found: dict[str, tuple[int, str]] = field(default_factory=dict)

    def add(self, bad: BadRow, place: str) -> None:
        self.total += 1
        if bad.reason in self.found or len(self.found) < REASONS:
            count, first = self.found.get(bad.reason, (0, place))
            self.found[bad.reason] = count + 1, first

    def lines(self) -> list[str]:
        """The commonest first.

        >>> reasons = Reasons()
        >>> for line in (3, 4, 7):
        ...     reasons.add(BadRow("not JSON" if line == 4 else "no column 'text'"), f"line {line}")
        >>> reasons.lines()
        ["2 rows, the first line 3: no column 'text'", 'line 4: not JSON']
        """
        commonest = sorted(self.found.items(), key=lambda item: -item[1][0])[:SHOWN]
        lines = [
            f"{count:,} rows, the first {first}: {reason}" if count > 1 else f"{first}: {reason}" for reason, (count, first) in commonest
        ]
        rest = self.total - sum(count for _, (count, _) in commonest)
        return lines + ([f"and {rest:,} more, for other reasons"] if rest else [])


class Tally:
    """`tiers`: of each student by name, in the recipe's order; none for one without. `total`: answers to come, where that is known.

    `apart`: time left and tiers are drawn beside the figures, and are none of them.
    """

    def __init__(
        self,
        tiers: Mapping[str, Sequence[str]],
        total: int | None,
        *,
        apart: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.total, self.reasons, self._apart = total, Reasons(), apart
        self._tiers = {task: Counter(dict.fromkeys(names, 0)) for task, names in tiers.items() if names}
        self._clock, self._began = clock, clock()
        self._passed = self._worked = self._answered = self._rejected = 0

    def recall(self, task: str, tier: str | None) -> None:
        """An answer of an earlier run. `task` is empty where one student answers."""
        self._answered += 1
        self._count(task, tier)

    def recall_reject(self) -> None:
        self._rejected += 1

    def skipped(self) -> None:
        """A row that was done before has come by. The clock starts behind the last of them."""
        self._passed += 1
        if not self._worked:
            self._began = self._clock()

    def answered(self, task: str, tier: str | None) -> None:
        self._passed, self._worked = self._passed + 1, self._worked + 1
        self.recall(task, tier)

    def rejected(self, bad: BadRow, place: str) -> None:
        self._passed += 1
        self._rejected += 1
        self.reasons.add(bad, place)

    def figures(self) -> dict[str, Any]:
        """For the progress line; None where nothing can be said yet, or any more."""
        seconds = self._clock() - self._began
        rate = self._worked / seconds if seconds > 0 else 0.0
        left = 0 if self.total is None or self._apart else self.total - self._passed
        seen, memory = self._answered + self._rejected, resident_bytes()
        return {
            "rows/h": round(rate * 3600) or None,
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

    def _count(self, task: str, tier: str | None) -> None:
        counts = self._tiers.get(task) if task else next(iter(self._tiers.values()), None)
        if tier is not None and counts is not None:
            counts[tier] += 1
