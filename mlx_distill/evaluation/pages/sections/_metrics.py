"""How a metric's figures stand in a section: its name, a cell, a line with its interval, an axis that suits it. It knows no document."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mlx_distill.evaluation import judge
from mlx_distill.evaluation.pages import plots
from mlx_distill.evaluation.pages.markup import bdi, cell, esc
from mlx_distill.evaluation.words import amount, interval, title

Figure = Mapping[str, Any]
"""{value, low, high, n}"""


def named(metric: str) -> str:
    """A metric in words, the field within it in the recipe's. HTML."""
    family, field = judge.parts(metric)
    return esc(title(family)) + (f" of {bdi(field)}" if field is not None else "")


def named_plainly(metric: str) -> str:
    """The same as Markdown."""
    family, field = judge.parts(metric)
    return cell(title(family)) + (f" of {cell(field)}" if field is not None else "")


def value(metric: str, figure: Figure | None) -> str:
    """A dash where there is none."""
    return amount(metric, figure["value"]) if figure else "–"


def spread(metric: str, figure: Figure | None) -> str:
    """The interval; a dash where there is none."""
    return interval(metric, figure) if figure and figure["low"] is not None else "–"


def counted(number: int | None) -> str:
    """
    >>> counted(12345)
    '12,345'
    """
    return "–" if number is None else f"{number:,}"


def percent(share: float | None) -> str:
    """
    >>> percent(0.1234), percent(None)
    ('12.3 %', '–')
    """
    return "–" if share is None else f"{share * 100:.1f} %"


def axis(metric: str, figures: Sequence[Figure]) -> tuple[float, float, list[tuple[float, str]]]:
    """From 0 to 1 for shares and F1; from 0 to a round number above the highest interval for errors. Lowest, highest, ticks."""
    unit = judge.metric(metric).UNIT
    if unit.startswith("share") or "0 to 1" in unit:
        return 0.0, 1.0, [(i / 4, f"{i * 25} %" if unit.startswith("share") else f"{i / 4:g}") for i in range(5)]
    most = max((figure["high"] or 0.0 for figure in figures), default=1.0) or 1.0
    top = next(step * 10**power for power in range(-6, 300) for step in (1, 2, 4, 5) if step * 10.0**power >= most)
    return 0.0, float(top), [(top * i / 4, f"{top * i / 4:g}") for i in range(5)]


def dots(metric: str, alt: str, figures: Sequence[tuple[str, Figure]]) -> str:
    """A line for each name; the student's stands out."""
    known = [(who, figure) for who, figure in figures if figure["low"] is not None]
    low, high, ticks = axis(metric, [figure for _, figure in known])
    lines = [
        plots.Dot(who, figure["value"], figure["low"], figure["high"], amount(metric, figure["value"]), main=who == "Student")
        for who, figure in known
    ]
    words = "; ".join(f"{line.name} {line.shown}" for line in lines)
    return plots.dots(lines, low, high, ticks, f"{alt}: {words}")
