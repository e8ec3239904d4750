"""What is being done, on standard error: a bar on a terminal, a plain line now and then elsewhere, nothing when quiet.

    with progress.step("convert", total=7, unit="shards") as step:
        step.advance(1, GiB=0.9)

Each step ends with how long it took. It knows nothing of what the steps do, and never writes to standard output.
"""

from __future__ import annotations

import contextlib
import functools
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, TextIO

SECONDS_BETWEEN_LINES = 5.0
SHARE_BETWEEN_LINES = 0.1
LONGEST_SILENCE = 60.0
SECONDS_BETWEEN_DRAWINGS = 0.1
AHEAD = ("left",)
"""Figures of what is to come: none once a step is over."""
LINE = 110
"""Columns of a line of words where nobody says how wide it may be."""


def duration(seconds: float) -> str:
    """For people.

    >>> duration(3.21), duration(252), duration(7380)
    ('3.2 s', '4 min 12 s', '2 h 03 min')
    """
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"


def amount(n: int, unit: str) -> str:
    """`unit` in the plural.

    >>> amount(1, "rows"), amount(2500, "rows"), amount(3, "")
    ('1 row', '2,500 rows', '3')
    """
    return f"{n:,} {unit.removesuffix('s') if n == 1 else unit}".rstrip()


class Progress:
    """Steps, one after another or one within another."""

    def __init__(self, *, quiet: bool = False, stream: TextIO | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._quiet, self._clock = quiet, clock
        self._stream = stream if stream is not None else sys.stderr
        self._bars: Any = None
        self._open = 0
        self._drawn = -SECONDS_BETWEEN_DRAWINGS

    @functools.cached_property
    def is_terminal(self) -> bool:
        """Is there a terminal that can move its cursor, and somebody to look at it?"""
        if self._quiet or not self._stream.isatty():
            return False
        from rich.console import Console

        return not Console(file=self._stream).is_dumb_terminal

    @property
    def width(self) -> int:
        """Columns that a line of words may take."""
        return self._bars.console.width if self._bars is not None else LINE

    def say(self, text: str) -> None:
        """One line of its own, above the bars where there are any."""
        if not self._quiet:
            self.warn(text)

    def warn(self, text: str) -> None:
        """As `say`, and said even when quiet: something that was asked for will not be."""
        if self._bars is not None:
            self._bars.console.print(text, markup=False, highlight=False, soft_wrap=True)
        else:
            print(text, file=self._stream, flush=True)

    @contextlib.contextmanager
    def step(self, title: str, total: int | None = None, *, unit: str = "") -> Iterator[Step]:
        """`total` None: how much there is to do is not known. The last line says how long it took, and the last figures."""
        step = Step(self, title, total, unit)
        self._begin(step)
        done = False
        try:
            yield step
            done = True
        finally:
            self._end(step, done)

    @contextlib.contextmanager
    def showing(self, view: Any) -> Iterator[None]:
        """On a terminal, draw `view` (what rich can draw) above the bars, again and again. Elsewhere nothing is drawn."""
        self._open_screen()
        if self._bars is not None:
            self._bars.views.append(view)
        try:
            yield
        finally:
            if self._bars is not None:
                self._bars.views.remove(view)
            self._close_screen()

    def refresh(self) -> None:
        """What is shown has changed. It is drawn a few times a second at most."""
        if self._bars is not None and self._clock() - self._drawn >= SECONDS_BETWEEN_DRAWINGS:
            self._drawn = self._clock()
            self._bars.refresh()

    def _begin(self, step: Step) -> None:
        if self._quiet:
            return
        self._open_screen()
        if self._bars is not None:
            step.task = self._bars.add_task(step.title, total=step.total, figures="")
        else:
            self.say(f"{step.title} ...")

    def _end(self, step: Step, done: bool) -> None:
        if self._quiet:
            return
        if self._bars is not None:
            self._bars.remove_task(step.task)
        self._close_screen()
        step.close()
        how = "done in" if done else "stopped after"
        self.say(", ".join([f"{step.title}: {how} {duration(self._clock() - step.began)}", *step.figures()]))

    def _open_screen(self) -> None:
        self._open += 1
        if self.is_terminal and self._bars is None:
            self._bars = _bars(self._stream)

    def _close_screen(self) -> None:
        self._open -= 1
        if self._bars is not None and not self._open:
            self._bars.stop()
            self._bars = None

    def _show(self, step: Step) -> None:
        if self._quiet:
            return
        if self._bars is not None:
            self._bars.update(step.task, completed=step.count, figures=", ".join(step.figures(counted=False)))
        elif step._pace.due(self._clock(), step.count, step.total):
            self.say(", ".join([f"{step.title}: {step.counted()}", *step.figures(counted=False)]))


class Pace:
    """When a line is due: every 5 s at most; where there is a total, every 10 % or every minute."""

    def __init__(self, now: float) -> None:
        self._last_time, self._last_count = now, 0

    def due(self, now: float, count: int, total: int | None) -> bool:
        silent = now - self._last_time
        far = total is None or count - self._last_count >= SHARE_BETWEEN_LINES * total
        if silent < SECONDS_BETWEEN_LINES or not (far or silent >= LONGEST_SILENCE):
            return False
        self._last_time, self._last_count = now, count
        return True


class Step:
    """One thing being done. `advance` it as work gets done."""

    def __init__(self, progress: Progress, title: str, total: int | None, unit: str) -> None:
        self.title, self.total, self.unit = title, total, unit
        self.count = 0
        self.began = progress._clock()
        self.task: Any = None
        self._pace = Pace(self.began)
        self._figures: dict[str, Any] = {}
        self._progress = progress

    def advance(self, n: int = 1, /, **figures: Any) -> None:
        """`n` more are done; `figures` (loss=0.81, rows=12) are shown from now on, those that are not None."""
        self.count += n
        self._figures.update(figures)
        self._progress._show(self)

    def counted(self) -> str:
        of = f"{self.count:,} of {self.total:,}" if self.total is not None else f"{self.count:,}"
        share = f" ({100 * self.count // self.total} %)" if self.total else ""
        unit = amount(self.count if self.total is None else self.total, self.unit).partition(" ")[2]
        return of + (f" {unit}" if unit else "") + share

    def close(self) -> None:
        for name in AHEAD:
            self._figures.pop(name, None)

    def figures(self, *, counted: bool = True) -> list[str]:
        """What was counted, and the figures of the last `advance`, each as "name value"."""
        count = [amount(self.count, self.unit)] if counted and self.count else []
        return count + [f"{name} {_figure(value)}" for name, value in self._figures.items() if value is not None]


def _figure(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1e4 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _bars(stream: TextIO) -> Any:
    """Rich's bars, below the `views`, started. Standard output is left alone: what is printed there is the program's result."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, SpinnerColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    class Screen(Bars):
        def __init__(self, *columns: Any, **settings: Any) -> None:
            self.views: list[Any] = []
            super().__init__(*columns, **settings)

        def get_renderables(self) -> Iterator[Any]:
            yield from self.views
            if self.tasks:
                yield self.make_tasks_table(self.tasks)

    screen = Screen(
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[figures]}", markup=False),
        console=Console(file=stream),
        transient=True,
        redirect_stdout=False,
        refresh_per_second=4,
    )
    screen.start()
    return screen
