"""Plots of the report as inline SVG: no script, colours from the page's style sheet, and words that say what is drawn.

    dots(lines, low, high, ticks, alt)     figures and their intervals, one below the other
    bars(pairs, alt)                       how often the judge and the student give each answer
    reliability(bins, alt)                 how sure, against how often right
    curves(lines, alt)                     lines over one pair of axes, with bands and marks: training, risk and coverage, learning curves
    interval(value, start, end, ...)       one figure and its interval, as small as a cell of a table

Each takes plain figures and gives one `<svg>`. It knows nothing of metrics or reports. Matplotlib draws them (`drawing`), all but
`interval`: a page may have hundreds of those, each three shapes on a line, and a figure of matplotlib costs some 10 ms.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mlx_distill.evaluation.pages.drawing import Drawing, Points, Ticks, drawing, svg

WIDTH, WIDE = 420, 720
NARROWEST, LETTER = 78, 7.6
"""Pixels: the room for the names of lines at the left, and what a letter takes of it."""
LONGEST = 20
"""Letters of a name that fit beside a plot; the table below has it all."""


@dataclass(frozen=True, slots=True)
class Dot:
    """One line of `dots`: a value and its interval. `main` is drawn in the accent colour."""

    name: str
    value: float
    low: float
    high: float
    shown: str
    main: bool = False


def dots(lines: Sequence[Dot], low: float, high: float, ticks: Ticks, alt: str) -> str:
    """A dot and its interval on each line, over one axis from `low` to `high`. What lies outside of it is drawn at its end."""
    row = 24
    names = [_short(dot.name) for dot in lines]
    with drawing(WIDTH, 30 + row * len(lines), left=_room(names), right=22, top=8, bottom=22) as figure:
        figure.axes((low, high), (len(lines) or 1, 0))
        figure.across(ticks)
        for i, (dot, name) in enumerate(zip(lines, names, strict=True)):
            kind, y = "main" if dot.main else "other", i + 0.5
            start, value, end = (min(max(at, low), high) for at in (dot.low, dot.value, dot.high))
            _name(figure, low, y, name, kind)
            figure.line(f"bar {kind}", [(start, y), (end, y)])
            figure.dot(f"dot {kind}", value, y, 4.5, dot.shown)
        return figure.svg(alt)


@dataclass(frozen=True, slots=True)
class Pair:
    """One line of `bars`: the share of the rows that each side calls so, 0 to 1."""

    name: str
    judge: float
    student: float


def bars(pairs: Sequence[Pair], alt: str) -> str:
    """Two bars for each name, the judge's above the student's, over one axis from 0 to a round share."""
    row, names = 30, [_short(pair.name) for pair in pairs]
    most = max((max(pair.judge, pair.student) for pair in pairs), default=1.0)
    top = next(share for share in (0.1, 0.2, 0.25, 0.4, 0.5, 0.6, 0.8, 1.0) if share >= most - 1e-9 or share == 1.0)
    with drawing(WIDTH, 50 + row * len(pairs), left=_room(names), right=22, top=28, bottom=22) as figure:
        figure.axes((0, top), (len(pairs) or 1, 0))
        figure.across([(top * i / 4, percent(top * i / 4)) for i in range(5)])
        for place, (side, kind) in enumerate((("judge", "other"), ("student", "main"))):
            figure.dot(f"dot {kind}", top * (0.03 + 0.3 * place), -12 / row, 4.5)
            figure.write("tick", top * (0.06 + 0.3 * place), -8 / row, side)
        for i, (pair, name) in enumerate(zip(pairs, names, strict=True)):
            _name(figure, 0, i + 0.5, name, "")
            figure.bar("fill other", (0, i + 0.14), pair.judge, 0.34, f"{pair.name}: judge {pair.judge:.1%}")
            figure.bar("fill main", (0, i + 0.52), pair.student, 0.34, f"{pair.name}: student {pair.student:.1%}")
        return figure.svg(alt)


def interval(value: float, start: float, end: float, low: float, high: float, alt: str) -> str:
    """One small dot and interval, for a cell of a table."""
    width = 120

    def x(figure: float) -> float:
        return 5 + (min(max(figure, low), high) - low) / (high - low) * (width - 10)

    frame = f'<line x1="5" x2="{width - 5}" y1="9" y2="9" class="grid"/>'
    bar = f'<line x1="{x(start):.1f}" x2="{x(end):.1f}" y1="9" y2="9" class="bar main"/>'
    return svg(width, 18, alt, [frame, bar, f'<circle cx="{x(value):.1f}" cy="9" r="4" class="dot main"/>'], "cell")


def reliability(bins: Sequence[tuple[float, float, int]], alt: str, *, before: Points = ()) -> str:
    """(confidence, share right, rows) by bin, against the diagonal of a student that is as sure as it is right.

    `before`: the same as (confidence, share right) before something was set right, drawn behind.
    """
    most = max((n for _, _, n in bins), default=1)
    shares = [(share, f"{share:.0%}") for share in (0.0, 0.5, 1.0)]
    with drawing(250, 242, left=42, right=22, top=10, bottom=46) as figure:
        figure.axes((0, 1), (0, 1))
        figure.across(shares[1:], grid=False)  # one 0 % stands for both axes
        figure.up(shares, grid=False)
        figure.area("frame", [(0, 0), (1, 0), (1, 1), (0, 1)])
        figure.line("diagonal", [(0, 0), (1, 1)])
        if before:
            figure.line("curve other", before)
        if bins:
            figure.line("curve main", [(said, was) for said, was, _ in bins])
        for said, was, n in bins:
            figure.dot("dot main soft", said, was, 2.5 + 5 * (n / most) ** 0.5, f"{n} rows: says {said:.0%}, is right in {was:.0%}")
        figure.write("tick", 0.5, -0.215, "how sure it says it is", "middle")
        return figure.svg(alt, "square")


@dataclass(frozen=True, slots=True)
class Line:
    """(x, y) points of one curve; `kind` is its class in the style sheet. One that `fits` has all its points within the axes."""

    kind: str
    points: Points
    dots: bool = False
    fits: bool = True
    band: Sequence[tuple[float, float, float]] = ()
    """(x, low, high): what the curve is known to, shaded behind it."""


@dataclass(frozen=True, slots=True)
class Mark:
    """Something that happened at a step: a line upwards, a cross at the foot, or a ring around (x, y)."""

    kind: str
    x: float
    words: str
    y: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Axes:
    """How the axes of `curves` are named and numbered."""

    across: str = ""
    up: str = ""
    shares: tuple[bool, bool] = (False, False)
    """Across and up: numbers are shares, written as percent."""
    log: bool = False
    """Across in powers."""
    whole: bool = True
    """Only whole numbers stand below the axis: steps, rows."""


def curves(
    lines: Sequence[Line],
    alt: str,
    *,
    marks: Sequence[Mark] = (),
    height: float = 260,
    low: float | None = None,
    axes: Axes | None = None,
) -> str:
    """Lines over one pair of axes. What does not fit above (of a line that need not) is drawn along the upper edge."""
    axes = axes or Axes()
    window = _Window.around(lines, low)
    top, bottom = (14 + 20 * bool(axes.up), 34 + 20 * bool(axes.across))
    with drawing(WIDE, height + top + bottom - 48, left=68, right=22, top=top, bottom=bottom) as figure:
        figure.axes((window.first, window.last), (window.low, window.high), log=axes.log)
        _scales(figure, window, axes, height)
        for line in lines:
            if line.band:
                figure.area(f"band {line.kind}", window.outline(line.band))
        for mark in marks:
            if mark.y is None:
                _mark(figure, mark, window)
        for line in lines:
            _curve(figure, line, window)
        for mark in marks:
            if mark.y is not None:
                _mark(figure, mark, window)
        return figure.svg(alt, "wide")


@dataclass(frozen=True, slots=True)
class _Window:
    """The part of the plane that is drawn."""

    first: float
    last: float
    low: float
    high: float

    @classmethod
    def around(cls, lines: Sequence[Line], low: float | None) -> _Window:
        """Every point across; upwards those that must fit, with room for them to be seen, from `low` where that is given."""
        across = [x for line in lines for x, _ in line.points] + [x for line in lines for x, _, _ in line.band]
        fitted = [y for line in lines if line.fits for _, y in line.points]
        fitted += [y for line in lines if line.fits for _, *ends in line.band for y in ends]
        bottom, top = min(fitted) if low is None else low, max(fitted)
        room = 0.08 * (top - bottom) or 0.5
        alone = 0.5 * (min(across) == max(across))  # one point stands in the middle
        return cls(min(across) - alone, max(across) + alone, bottom - room if low is None else low, top + room)

    def within(self, y: float) -> float:
        return min(max(y, self.low), self.high)

    def outline(self, band: Sequence[tuple[float, float, float]]) -> Points:
        return [(x, self.within(low)) for x, low, _ in band] + [(x, self.within(high)) for x, _, high in reversed(band)]


def _scales(figure: Drawing, window: _Window, axes: Axes, height: float) -> None:
    across_share, up_share = axes.shares
    upwards = ticks(window.low, window.high, max(2, round(height / 60)))
    figure.up([(y, percent(y) if up_share else f"{y:g}") for y in upwards])
    steps = list(_powers(window.first, window.last)) if axes.log else ticks(window.first, window.last, 5)
    kept = [x for x in steps if across_share or not axes.whole or x == round(x)]
    figure.across([(x, percent(x) if across_share else f"{x:g}") for x in kept], grid=False)
    if axes.up:
        figure.write("tick", window.first, window.high + (window.high - window.low) * 14 / (height - 48), axes.up)
    if axes.across:
        figure.write("tick", window.last, window.low - (window.high - window.low) * 44 / (height - 48), axes.across, "end")


def _curve(figure: Drawing, line: Line, window: _Window) -> None:
    if not line.points:
        return
    points = [(x, window.within(y)) for x, y in line.points]
    figure.line(f"curve {line.kind}", points)
    if line.dots or (len(points) < 3 and line.kind != "target"):  # few points are seen, a limit has no points
        for x, y in points:
            figure.dot(f"dot {line.kind}", x, y, 3.5)


def _mark(figure: Drawing, mark: Mark, window: _Window) -> None:
    if mark.y is not None:
        figure.dot(f"ring {mark.kind}", mark.x, window.within(mark.y), 8, mark.words)
    elif mark.kind == "skipped":
        figure.dot("mark skipped", mark.x, window.low + 0.03 * (window.high - window.low), 4, mark.words, "x")
    else:
        figure.line(f"mark {mark.kind}", [(mark.x, window.low), (mark.x, window.high)], mark.words)


def _name(figure: Drawing, x: float, y: float, name: str, kind: str) -> None:
    """A line's name, at the left of its axes. Its base line is a little below the middle of the line."""
    figure.write(f"name {kind}".strip(), x, y + 0.16, f"{name}\u2002", "end")


def _short(name: str) -> str:
    """As much of a name as fits."""
    if _width(name) <= LONGEST:
        return name
    kept = next(end for end in range(len(name) - 1, -1, -1) if _width(name[:end]) < LONGEST)
    return name[:kept] + "…"


def _width(name: str) -> int:
    """In letters; those of East Asia, and most emoji, are as wide as two."""
    return sum(2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in name)


def _room(names: Sequence[str]) -> float:
    return max(NARROWEST, LETTER * max(map(_width, names), default=0) + 14)


def percent(share: float) -> str:
    """A share on an axis.

    >>> percent(0.25), percent(0.125)
    ('25 %', '12.5 %')
    """
    return f"{share * 100:.4g} %"


def ticks(low: float, high: float, about: int) -> list[float]:
    """Round numbers within low to high, about so many, for an axis.

    >>> ticks(0.93, 2.4, 4), ticks(0, 0.003, 2), ticks(1, 76, 5)
    ([1.0, 1.5, 2.0], [0.0, 0.002], [20.0, 40.0, 60.0])
    """
    raw = (high - low) / about
    size = 10.0 ** math.floor(math.log10(raw))
    step = min((size * nice for nice in (1, 2, 5, 10)), key=lambda given: abs(math.log(given / raw)))
    return [round(i * step, 12) for i in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def _powers(low: float, high: float) -> Iterator[float]:
    """1, 2 and 5 times powers of ten, within low to high."""
    for power in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1):
        yield from (nice * 10.0**power for nice in (1, 2, 5) if low * (1 - 1e-9) <= nice * 10.0**power <= high * (1 + 1e-9))
