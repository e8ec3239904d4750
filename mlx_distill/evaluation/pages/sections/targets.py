"""What had to be reached, and whether it was: a row for each target of the recipe."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from mlx_distill.evaluation import judge
from mlx_distill.evaluation.pages.markup import grid, row, table
from mlx_distill.evaluation.pages.sections import _metrics as metrics
from mlx_distill.evaluation.words import amount

Doc = Mapping[str, Any]
UNSURE = "Not certain: the wanted value lies within the 95 % interval, so other rows might have turned the verdict."


def render(document: Doc) -> str:
    rows, doubts = [], False
    for name, figure, target in _targets(document):
        doubt = _doubt(name, figure, target)
        doubts |= doubt == "not certain"
        met = '<span class="good">✓ met</span>' if target["met"] else '<span class="bad">✗ missed</span>'
        cells = [
            ("words", met + (f' <span class="small">{doubt}</span>' if doubt else "")),
            ("number", amount(name, target["value"])),
            ("number", wanted(name, target["target"])),
            ("range", metrics.spread(name, figure)),
        ]
        rows.append(row(metrics.named(name), cells))
    note = f'<p class="note">{UNSURE}</p>' if doubts else ""
    return table(["", '<span class="words">verdict</span>', "reached", "wanted", "95 %"], rows) + note if rows else ""


def markdown(document: Doc) -> str:
    rows = [
        [
            metrics.named_plainly(name),
            ("✓ met" if target["met"] else "✗ **missed**") + (f" ({doubt})" if (doubt := _doubt(name, figure, target)) else ""),
            amount(name, target["value"]),
            wanted(name, target["target"]),
            metrics.spread(name, figure),
        ]
        for name, figure, target in _targets(document)
    ]
    return grid(["target", "verdict", "reached", "wanted", "95 %"], rows)


def wanted(metric: str, value: float) -> str:
    """ "≥ 88.0 %", "≤ 0.80" of what is better low, "±0.20" of what is best at 0."""
    if judge.best_at_zero(metric):
        return f"±{amount(metric, value).removeprefix('+')}"
    return f"{'≤' if judge.lower_is_better(metric) else '≥'} {amount(metric, value)}"


def _targets(document: Doc) -> Iterator[tuple[str, Doc | None, Doc]]:
    """Name, figure, target; those that were missed first."""
    order = sorted(document["targets"].items(), key=lambda item: item[1]["met"])
    return ((name, document["metrics"].get(name), target) for name, target in order)


def _doubt(metric: str, figure: Doc | None, target: Doc) -> str:
    if target["value"] is None:
        return "not measured"
    if figure is None or figure["low"] is None:
        return ""
    limits = [target["target"], *([-target["target"]] if judge.best_at_zero(metric) else [])]
    return "not certain" if any(figure["low"] <= limit <= figure["high"] for limit in limits) else ""
