"""A training while it runs: a board of figures on a terminal, a plain line now and then elsewhere, nothing when quiet.

    with watching(progress) as view:
        events.subscribers.append(view)

It draws what `trend` has added up from the events. Validations, samples and skipped steps stay above the board, as lines; the board itself
vanishes when the training ends. What comes from data or from a model is shown without control characters: it may not steer a terminal.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mlx_distill.observe import words
from mlx_distill.observe.progress import Pace, Progress, duration
from mlx_distill.observe.sparkline import columns, condensed, row_of, stretched
from mlx_distill.observe.trend import Trend, Validation, direction, smoothed, span_for

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.table import Table
    from rich.text import Text

WIDE = 116
"""Columns from which on there is room for a chart beside the figures."""
FIGURES = 68
"""Columns of the figures, where a chart stands beside them."""
CHART_ROWS = 6
LABELS = 12, 20
"""Columns of the labels: at least, and at most where the name of a metric is long."""
ARROWS = {"falling": "↘", "level": "→", "rising": "↗"}
LOSS, VALID = "cyan", "magenta"


@contextlib.contextmanager
def watching(
    progress: Progress, history: Iterable[Mapping[str, Any]] = (), *, steps: int | None = None, clock: Callable[[], float] = time.monotonic
) -> Iterator[TrainingView]:
    """`history`: the events of the sessions before, where a training goes on; `steps`: all that are planned, until an event says so.

    The last line says how it ended.
    """
    view = TrainingView(progress, clock=clock)
    view.trend.recall(list(history))
    view.trend.steps = steps or view.trend.steps
    whole = False
    with progress.showing(view):
        try:
            yield view
            whole = not view.trend.interrupted
        finally:
            last = view.ended(whole)
    progress.say(last)


class TrainingView:
    """A subscriber of events, and what rich draws of them."""

    def __init__(self, progress: Progress, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.trend = Trend(clock=clock)
        self.stopping = False
        """A signal has asked to stop; the step that runs is finished first."""
        self._progress, self._clock = progress, clock
        self._pace = Pace(clock())

    def __call__(self, event: Mapping[str, Any]) -> None:
        self.trend(event)
        name = event.get("name")
        if name == "validated":
            self._progress.say(words.validated(self.trend.validations[-1], event.get("train_loss")))
        elif name == "samples":
            self._progress.say("\n".join(words.samples(event, self._progress.width)))
        elif name == "skipped":
            self._progress.say(words.skipped(event))
        if name == "step" and not self._progress.is_terminal and self._pace.due(self._clock(), self.trend.step, self.trend.steps):
            self._progress.say(words.line(self.trend))
        self._progress.refresh()

    def ask_to_stop(self) -> None:
        """Called from a signal handler, so it draws nothing: the board does, when it is next refreshed."""
        self.stopping = True

    def ended(self, whole: bool) -> str:
        trend = self.trend
        parts = [f"train: {'done in' if whole else 'stopped after'} {duration(trend.elapsed)}", f"{trend.step:,} steps"]
        if trend.losses:
            parts.append(f"loss {words.loss(current(trend))}")
        if trend.best is not None and trend.best.loss is not None:
            parts.append(f"validation loss {words.loss(trend.best.loss)} at step {trend.best.step:,}")
        return ", ".join(parts)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        plain = options.ascii_only
        yield _progress_line(self.trend, _label_width(self.trend))
        if options.max_width < WIDE:
            yield from self._figures(options.max_width, plain)
            return
        from rich.table import Table

        beside = Table.grid(padding=(0, 2))
        beside.add_column(width=FIGURES)
        beside.add_column()
        figures, chart = list(self._figures(FIGURES, plain, sparks=False)), _chart(self.trend, options.max_width - FIGURES - 4, plain)
        for i in range(max(len(figures), len(chart))):
            beside.add_row(figures[i] if i < len(figures) else "", chart[i] if i < len(chart) else "")
        yield beside

    def _figures(self, width: int, ascii_only: bool, *, sparks: bool = True) -> Iterator[Text]:
        """A line each, cut to `width` columns."""
        label_width = _label_width(self.trend)
        for label, style, text, curve in _lines(self.trend):
            yield _figure(f"{words.clipped(label, label_width - 1):{label_width}}", style, text, curve if sparks else [], width, ascii_only)
        if self.stopping:
            text = "when this step is done and saved; once more: at once"
            yield _figure(f"{'stopping':{label_width}}", "bold", text, [], width, ascii_only)


def _label_width(trend: Trend) -> int:
    longest = max((len(name) + 1 for name in (trend.validations[-1].metrics if trend.validations else ())), default=0)
    return min(max(longest, LABELS[0]), LABELS[1])


def current(trend: Trend) -> float:
    """The loss now, freed of the noise of single batches."""
    losses = [loss for _, loss in trend.losses]
    return smoothed(losses, span_for(len(losses)))[-1]


def _lines(trend: Trend) -> Iterator[tuple[str, str, str, list[float]]]:
    """(label, style, words, curve beside them)."""
    losses = [loss for _, loss in trend.losses]
    curve = smoothed(losses, span_for(len(losses)))
    if losses:
        way = direction(losses)
        text = f"{words.loss(losses[-1])}  smoothed {words.loss(curve[-1])}" + (f" {ARROWS[way]} {way}" if way else "")
        yield "loss", LOSS, text, curve
    valid = [(validation, validation.loss) for validation in trend.validations if validation.loss is not None]
    if valid:
        yield "validation", VALID, _and_the_best(trend, valid), [loss for _, loss in valid]
    for name in trend.validations[-1].metrics if trend.validations else ():
        known = [(validation, validation.metrics[name]) for validation in trend.validations if name in validation.metrics]
        yield name, VALID, _and_the_best(trend, known), [value for _, value in known]
    for label, parts in words.figures(trend):
        if parts:
            yield label, "", "   ".join(parts), []


def _and_the_best(trend: Trend, known: Sequence[tuple[Validation, float]]) -> str:
    """The last figure, and that of the validation whose adapter is kept."""
    last, figure = known[-1]
    best = next((value for validation, value in known if validation is trend.best), None)
    if trend.best is None or best is None:
        return words.loss(figure)
    return f"{words.loss(figure)}  " + ("the best so far" if last is trend.best else f"best {words.loss(best)} at step {trend.best.step:,}")


def _figure(label: str, style: str, text: str, curve: list[float], width: int, ascii_only: bool) -> Text:
    from rich.text import Text

    line = Text(label, style="dim", no_wrap=True, overflow="ellipsis")
    head, _, rest = text.partition("  ") if style else ("", "", text)
    line.append(head, style=f"not dim bold {style}" if head else "")
    line.append(f"  {rest}" if head and rest else rest, style="not dim")
    room = min(40, width - line.cell_len - 3)
    if len(curve) > 1 and room >= 8:
        drawn = columns(condensed(curve, room), 1, ascii_only=ascii_only)[0]
        line.append(" " * (width - line.cell_len - len(drawn) - 1) + drawn, style=f"not dim {style}")
    if ascii_only:
        line.plain = line.plain.translate(words.ASCII)
    line.truncate(width, overflow="ellipsis" if not ascii_only else "crop")
    return line


def _progress_line(trend: Trend, label_width: int) -> Table:
    """What part of the steps is done."""
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    line = Table.grid(padding=(0, 1), expand=True)
    line.add_column(width=label_width - 1)
    line.add_column(ratio=1)
    line.add_column(no_wrap=True)
    of = f" of {trend.steps:,}" if trend.steps else ""
    epoch = f"   epoch {trend.epoch:.1f}" + (f" of {trend.epochs:.3g}" if trend.epochs else "") if trend.epoch is not None else ""
    line.add_row(Text("train", style="bold"), ProgressBar(total=trend.steps, completed=trend.step), f"{trend.step:,}{of} steps{epoch}")
    return line


def _chart(trend: Trend, width: int, ascii_only: bool) -> list[Text]:
    """The smoothed loss as columns over the steps so far, and each validation as a dot, CHART_ROWS lines and one that explains."""
    from rich.text import Text

    losses = [loss for _, loss in trend.losses]
    valid = [validation for validation in trend.validations if validation.loss is not None]
    if len(losses) < 2:
        return []
    room = width - 9
    curve = stretched(smoothed(losses, span_for(len(losses))), room)
    heights = [*curve, *(validation.loss for validation in valid if validation.loss is not None)]
    low, high = min(heights), max(heights)
    rows = [list(row) for row in columns(curve, CHART_ROWS, low=low, high=high, ascii_only=ascii_only)]
    dots = {_place(trend, validation, len(curve), low, high) for validation in valid}
    ticks = {0: words.loss(high), CHART_ROWS - 1: words.loss(low)}
    lines = []
    for y, row in enumerate(rows):
        line = Text(f"{ticks.get(y, ''):>8} ", style="dim", no_wrap=True, end="")
        for x, mark in enumerate(row):
            dotted = (x, y) in dots
            line.append(("o" if ascii_only else "●") if dotted else mark, style=f"not dim bold {VALID}" if dotted else f"not dim {LOSS}")
        lines.append(line)
    legend = Text(" " * 9 + "loss, smoothed", style=LOSS, no_wrap=True, end="")
    if valid:
        legend.append(f"   {'o' if ascii_only else '●'} validation", style=VALID)
    return [*lines, legend]


def _place(trend: Trend, validation: Validation, width: int, low: float, high: float) -> tuple[int, int]:
    """Column and row of a validation: it belongs to the last loss before it."""
    before = sum(step <= validation.step for step, _ in trend.losses)
    x = min(width - 1, max(0, (before * width - 1) // len(trend.losses)))
    return x, row_of(validation.loss or 0.0, CHART_ROWS, low, high)
