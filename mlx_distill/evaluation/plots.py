"""Plots of the report as inline SVG: no script, colours from the page's style sheet, a title that says in words what is drawn.

Each takes plain figures and gives one `<svg>`. It knows nothing of metrics or reports.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mlx_distill.evaluation.markup import esc

LEFT, WIDTH = 78, 420


@dataclass(frozen=True, slots=True)
class Dot:
    """One line of `dots`: a value and its interval. `main` is drawn in the accent colour."""

    name: str
    value: float
    low: float
    high: float
    shown: str
    main: bool = False


def dots(lines: Sequence[Dot], low: float, high: float, ticks: Sequence[tuple[float, str]], alt: str) -> str:
    """A dot and its interval on each line, over one axis from `low` to `high`."""
    row, top = 24, 8
    height = top + row * len(lines) + 22
    right = WIDTH - 22

    def x(value: float) -> float:
        return LEFT + (min(max(value, low), high) - low) / (high - low) * (right - LEFT)

    parts = [_tick(x(value), top, height - 20, name) for value, name in ticks]
    for i, dot in enumerate(lines):
        y, kind = top + row * i + row / 2, "main" if dot.main else "other"
        parts.append(f'<text x="{LEFT - 10}" y="{y + 4:.1f}" class="name {kind}" text-anchor="end">{esc(dot.name)}</text>')
        parts.append(f'<line x1="{x(dot.low):.1f}" x2="{x(dot.high):.1f}" y1="{y}" y2="{y}" class="bar {kind}"/>')
        parts.append(f'<circle cx="{x(dot.value):.1f}" cy="{y}" r="4.5" class="dot {kind}"><title>{esc(dot.shown)}</title></circle>')
    return svg(WIDTH, height, alt, parts)


def interval(value: float, start: float, end: float, low: float, high: float, alt: str) -> str:
    """One small dot and interval, for a cell of a table."""
    width = 120

    def x(figure: float) -> float:
        return 5 + (min(max(figure, low), high) - low) / (high - low) * (width - 10)

    frame = f'<line x1="5" x2="{width - 5}" y1="9" y2="9" class="grid"/>'
    bar = f'<line x1="{x(start):.1f}" x2="{x(end):.1f}" y1="9" y2="9" class="bar main"/>'
    return svg(width, 18, alt, [frame, bar, f'<circle cx="{x(value):.1f}" cy="9" r="4" class="dot main"/>'], "cell")


def reliability(bins: Sequence[tuple[float, float, int]], alt: str) -> str:
    """(confidence, share right, rows) by bin, against the diagonal of a student that is as sure as it is right."""
    size, left, top = 250, 42, 10
    side = size - left - 22

    def at(said: float, was: float) -> tuple[float, float]:
        return left + said * side, top + (1 - was) * side

    most = max((n for _, _, n in bins), default=1)
    parts = [f'<rect x="{left}" y="{top}" width="{side}" height="{side}" class="frame"/>']
    parts.append(f'<line x1="{left}" y1="{top + side}" x2="{left + side}" y2="{top}" class="diagonal"/>')
    for value in (0.0, 0.5, 1.0):
        x, y = at(value, value)
        parts.append(f'<text x="{x:.1f}" y="{top + side + 16}" text-anchor="middle" class="tick">{value:.0%}</text>')
        parts.append(f'<text x="{left - 6}" y="{y + 4:.1f}" text-anchor="end" class="tick">{value:.0%}</text>')
    points = [at(said, was) for said, was, _ in bins]
    parts.append(f'<polyline points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in points)}" class="curve main"/>')
    for (x, y), (said, was, n) in zip(points, bins, strict=True):
        words = f"{n} rows: says {said:.0%}, is right in {was:.0%}"
        parts.append(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{2.5 + 5 * (n / most) ** 0.5:.1f}" class="dot main soft"><title>{words}</title></circle>'
        )
    return svg(size, top + side + 24, alt, parts, "square")


@dataclass(frozen=True, slots=True)
class Line:
    """(x, y) points of one curve; `kind` is its class in the style sheet. One that `fits` has all its points within the axes."""

    kind: str
    points: Sequence[tuple[float, float]]
    dots: bool = False
    fits: bool = True


@dataclass(frozen=True, slots=True)
class Mark:
    """Something that happened at a step: a line upwards, a cross at the foot, or a ring around (x, y)."""

    kind: str
    x: float
    words: str
    y: float | None = None


def curves(lines: Sequence[Line], alt: str, *, marks: Sequence[Mark] = (), height: float = 260, low: float | None = None) -> str:
    """Lines over one pair of axes, x in whole numbers. What does not fit above (of a line that need not) is drawn along the upper edge."""
    axes = _Axes.around(
        [point for line in lines if line.fits for point in line.points], [p for line in lines for p in line.points], height, low
    )
    parts = [*axes.drawn()]
    for mark in marks:
        if mark.y is None:
            parts.append(_marked(mark, axes))
    for line in lines:
        places = [axes.at(*point) for point in line.points]
        parts.append(f'<polyline points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in places)}" class="curve {line.kind}"/>')
        if line.dots or len(places) < 3:
            parts.extend(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" class="dot {line.kind}"/>' for x, y in places)
    parts.extend(_marked(mark, axes) for mark in marks if mark.y is not None)
    return svg(axes.width, height, alt, parts, "wide")


def _marked(mark: Mark, axes: _Axes) -> str:
    x, y = axes.at(mark.x, axes.low if mark.y is None else mark.y)
    title = f"<title>{esc(mark.words)}</title>"
    if mark.y is not None:
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="8" class="ring {mark.kind}">{title}</circle>'
    if mark.kind == "skipped":
        return f'<path d="M{x - 4:.1f},{y - 9:.1f}l8,8m0,-8l-8,8" class="mark skipped">{title}</path>'
    return f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{axes.top}" y2="{y:.1f}" class="mark {mark.kind}">{title}</line>'


@dataclass(frozen=True, slots=True)
class _Axes:
    first: float
    last: float
    low: float
    high: float
    height: float
    width: float = 720
    left: float = 68
    right: float = 22
    top: float = 14
    bottom: float = 34

    @classmethod
    def around(
        cls, fitted: Sequence[tuple[float, float]], points: Sequence[tuple[float, float]], height: float, low: float | None
    ) -> _Axes:
        """Every point across; upwards those that must fit, with room for them to be seen, from `low` where that is given."""
        first, last = min(x for x, _ in points), max(x for x, _ in points)
        bottom, top = min(y for _, y in fitted) if low is None else low, max(y for _, y in fitted)
        room = 0.08 * (top - bottom) or 0.5
        return cls(first, last, bottom - room if low is None else low, top + room, height)

    def at(self, x: float, y: float) -> tuple[float, float]:
        across = (x - self.first) / (self.last - self.first) if self.last > self.first else 0.5
        up = (min(max(y, self.low), self.high) - self.low) / (self.high - self.low)
        return self.left + across * (self.width - self.left - self.right), self.height - self.bottom - up * (
            self.height - self.top - self.bottom
        )

    def drawn(self) -> Iterator[str]:
        for value in ticks(self.low, self.high, max(2, round(self.height / 60))):
            y = self.at(self.first, value)[1]
            yield f'<line x1="{self.left}" x2="{self.width - self.right}" y1="{y:.1f}" y2="{y:.1f}" class="grid"/>'
            yield f'<text x="{self.left - 6}" y="{y + 4:.1f}" text-anchor="end" class="tick">{value:g}</text>'
        for step in ticks(self.first, self.last, 5) if self.last > self.first else [self.first]:
            if step == round(step):
                x = self.at(step, self.low)[0]
                yield f'<text x="{x:.1f}" y="{self.height - 8}" text-anchor="middle" class="tick">{step:g}</text>'


def ticks(low: float, high: float, about: int) -> list[float]:
    """Round numbers within low to high, about so many, for an axis.

    >>> ticks(0.93, 2.4, 4), ticks(0, 0.003, 2), ticks(1, 76, 5)
    ([1.0, 1.5, 2.0], [0.0, 0.002], [20.0, 40.0, 60.0])
    """
    raw = (high - low) / about
    size = 10.0 ** math.floor(math.log10(raw))
    step = min((size * nice for nice in (1, 2, 5, 10)), key=lambda given: abs(math.log(given / raw)))
    return [round(i * step, 12) for i in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def svg(width: float, height: float, alt: str, parts: Sequence[str], kind: str = "") -> str:
    words = esc(alt)
    return f'<svg viewBox="0 0 {width:g} {height:g}" class="plot {kind}" role="img" aria-label="{words}">{"".join(parts)}</svg>'


def _tick(x: float, top: float, bottom: float, name: str) -> str:
    line = f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{top}" y2="{bottom}" class="grid"/>'
    return line + f'<text x="{x:.1f}" y="{bottom + 15}" text-anchor="middle" class="tick">{esc(name)}</text>'
