"""How a difference, its chance and its verdict are written. It knows no document."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mlx_distill.evaluation.pages import plots
from mlx_distill.evaluation.pages.markup import bdi
from mlx_distill.evaluation.pages.sections._metrics import percent as percent

Doc = Mapping[str, Any]
ORDER = ("missed", "not certain", "met", "none")
SIGNS = {
    "met": '<span class="good">✓ met</span>',
    "missed": '<span class="bad">✗ missed</span>',
    "not certain": '<span class="small">not certain</span>',
    "none": '<span class="small">–</span>',
}
PLAIN = {"met": "✓ met", "missed": "✗ missed", "not certain": "not certain", "none": "–"}
SHOWN_MOST = 12
"""Lines of a plot."""


def sign(verdict: str) -> str:
    return SIGNS[verdict]


def worst_first(parts: Mapping[str, Doc]) -> list[tuple[str, Doc]]:
    return sorted(parts.items(), key=lambda item: ORDER.index(item[1]["verdict"]))


def spread(entry: Doc) -> str:
    """The interval of a share.

    >>> spread({"low": 0.05, "high": 0.123}), spread({"low": None, "high": None})
    ('5.0 to 12.3 %', '–')
    """
    if entry["low"] is None:
        return "–"
    return f"{entry['low'] * 100:.1f} to {entry['high'] * 100:.1f} %"


def chance(entry: Doc) -> str:
    """What would be expected without any difference, and how often that alone brings as much.

    >>> chance({"chance": 0.05, "p": 0.0004}), chance({"chance": None, "p": 0.25}), chance({"chance": None, "p": None})
    ('5.0 % (p < 0.001)', 'p = 0.250', '–')
    """
    if entry["p"] is None:
        return "–"
    p = "p < 0.001" if entry["p"] < 0.001 else f"p = {entry['p']:.3f}"
    return p if entry["chance"] is None else f"{percent(entry['chance'])} ({p})"


def wide(words: str) -> str:
    """A cell of words that keeps room to be read on a phone, where its table scrolls."""
    return f'<span style="display:block;min-width:12rem">{bdi(words)}</span>'


def size(entry: Doc) -> str:
    """
    >>> size({"value": 0.2, "points": 2.0}), size({"value": 0.5})
    ('2.00 points (20.0 %)', '50.0 %')
    """
    points = entry.get("points")
    return percent(entry["value"]) if points is None else f"{points:.2f} points ({percent(entry['value'])})"


def drawn(entries: list[tuple[str, Doc]], most: float, alt: str) -> str:
    """Differences and their intervals on one axis, with a mark at the largest that passes; "" where there is nothing to see."""
    shown = entries[:SHOWN_MOST]
    top = max([most, *(entry["high"] or entry["value"] for _, entry in shown)], default=0.0)
    if not shown or not any(entry["value"] for _, entry in shown) or top <= 0:
        return ""
    high = next(end for end in (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0, 2.0) if end >= min(top, 2.0))
    lines = [
        plots.Dot(
            name,
            entry["value"],
            entry["value"] if entry["low"] is None else entry["low"],
            entry["value"] if entry["high"] is None else entry["high"],
            percent(entry["value"]),
            main=entry["verdict"] == "missed",
        )
        for name, entry in shown
    ]
    ticks = [(0.0, "0 %"), (most, f"{plots.percent(most)} allowed"), (high, plots.percent(high))]
    kept = [tick for i, tick in enumerate(ticks) if i == 1 or abs(tick[0] - most) > high / 5]
    words = "; ".join(f"{line.name} {line.shown}" for line in lines)
    return plots.dots(lines, 0.0, high, kept, f"{alt}: {words}; allowed {percent(most)}")
