"""Plots of the report as inline SVG: no script, colours from the page's style sheet, a title that says in words what is drawn.

Each takes plain figures and gives one `<svg>`. It knows nothing of metrics or reports.
"""

from __future__ import annotations

from collections.abc import Sequence
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


def curves(series: Sequence[tuple[str, str, Sequence[tuple[float, float]]]], alt: str) -> str:
    """(name, class, [(step, value)]) as lines over one pair of axes that fit them."""
    width, height, left, bottom, top = 720, 260, 58, 34, 14
    points = [point for _, _, line in series for point in line]
    first, last = min(x for x, _ in points), max(x for x, _ in points)
    low, high = min(y for _, y in points), max(y for _, y in points)
    low, high = (low, high) if high > low else (low - 0.5, high + 0.5)

    def at(step: float, value: float) -> tuple[float, float]:
        across = (step - first) / (last - first) if last > first else 0.5
        return left + across * (width - left - 16), top + (high - value) / (high - low) * (height - top - bottom)

    parts = []
    for i in range(5):
        value = low + (high - low) * i / 4
        y = at(first, value)[1]
        parts.append(f'<line x1="{left}" x2="{width - 16}" y1="{y:.1f}" y2="{y:.1f}" class="grid"/>')
        parts.append(f'<text x="{left - 6}" y="{y + 4:.1f}" text-anchor="end" class="tick">{value:.2f}</text>')
    for i in range(5 if last > first else 1):
        step = first + (last - first) * i / 4
        parts.append(f'<text x="{at(step, low)[0]:.1f}" y="{height - 8}" text-anchor="middle" class="tick">{step:.0f}</text>')
    for _, kind, line in series:
        places = [at(*point) for point in line]
        parts.append(f'<polyline points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in places)}" class="curve {kind}"/>')
        if kind == "main" or len(places) < 3:
            parts.extend(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" class="dot {kind}"/>' for x, y in places)
    return svg(width, height, alt, parts, "wide")


def svg(width: float, height: float, alt: str, parts: Sequence[str], kind: str = "") -> str:
    words = esc(alt)
    return f'<svg viewBox="0 0 {width:g} {height:g}" class="plot {kind}" role="img" aria-label="{words}">{"".join(parts)}</svg>'


def _tick(x: float, top: float, bottom: float, name: str) -> str:
    line = f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{top}" y2="{bottom}" class="grid"/>'
    return line + f'<text x="{x:.1f}" y="{bottom + 15}" text-anchor="middle" class="tick">{esc(name)}</text>'
