"""A sweep for a person: which settings are best, how clearly, and what the winner is worth on rows that nobody was chosen by.

    sentences(document)   lines(document)   render(document)

It draws the document of `workflows.sweeping`, and computes no figure.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from mlx_distill.evaluation.pages import plots
from mlx_distill.evaluation.pages.leaflets import frame
from mlx_distill.evaluation.pages.markup import bdi, esc, row, table
from mlx_distill.evaluation.pages.sections import _metrics as metrics
from mlx_distill.evaluation.words import amount, interval, lower

Doc = Mapping[str, Any]
LOSS = "valid_loss"


def sentences(document: Doc) -> list[str]:
    """The winner first. Without one, why."""
    runs, best = document["runs"], document["best"]
    failed = [run for run in runs if run["error"]]
    if best is None:
        return [f"None of {len(runs)} runs came to an end: {failed[0]['name']}: {failed[0]['error']['message']}" if failed else "Not done."]
    figure = next(run["figure"] for run in runs if run["name"] == best)
    found = [f"{best} is best by {named(document['metric'])}: {_with_interval(document['metric'], figure)} on validation rows."]
    return [*found, *_clearly(document), *(f"{run['name']} failed: {run['error']['message']}" for run in failed), *_tested(document)]


def lines(document: Doc) -> list[str]:
    """A table in columns below the sentences."""
    head = ["run", named(document["metric"]), "95 %", "behind the best", "valid_loss", "steps"]
    rows = [head, *(_cells(document, run) for run in document["runs"])]
    widths = [max(len(line[i]) for line in rows) for i in range(len(head))]
    table_ = [
        "  ".join(cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(r, widths, strict=True))) for r in rows
    ]
    return [*sentences(document), "", *(line.rstrip() for line in table_)]


def render(document: Doc) -> str:
    first, *rest = sentences(document)
    heads = [esc(text) for text in ("Run", _capital(named(document["metric"])), "95 %", "Behind the best", "Validation loss", "Steps")]
    rows = []
    for run in document["runs"]:
        name, *cells = _cells(document, run)
        kind = "main" if run["name"] == document["best"] else ""
        rows.append(row(bdi(name), [("number", esc(cell)) for cell in cells], kind))
    note = '<p class="note">On the validation rows, best first; differences are paired. Test rows are read for the winner alone.</p>'
    sections = {"runs": ("Runs", note + _plot(document) + table(heads, rows)), "settings": ("Settings", _settings(document))}
    return frame.page(document["name"], f"{len(document['runs'])} runs", [first, *rest], sections)


def named(metric: str) -> str:
    """A metric within a sentence; the loss on the validation rows is one too."""
    return "validation loss" if metric == LOSS else lower(metric)


def _capital(words: str) -> str:
    return words[0].upper() + words[1:]


def shown(metric: str, value: float | None, *, signed: bool = False) -> str:
    """A figure in its unit; a loss in nats a token."""
    return amount("nll" if metric == LOSS else metric, value, signed=signed)


def _with_interval(metric: str, figure: Doc) -> str:
    if figure["low"] is None:
        return shown(metric, figure["value"])
    return f"{shown(metric, figure['value'])} ({interval(metric, figure)}, n = {figure['n']:,})"


def _clearly(document: Doc) -> Iterator[str]:
    """Against how many of the others that is more than luck."""
    if document["ties"]:
        yield f"The very same figure: {', '.join(document['ties'])}; the lowest validation loss decides."
    behind = {run["name"]: run["behind"] for run in document["runs"] if run["behind"] is not None}
    level = [name for name, gap in behind.items() if gap["low"] is None or gap["low"] <= 0 <= gap["high"]]
    level = [name for name in level if name not in document["ties"]]
    if behind and not level and not document["ties"]:
        yield f"It is clearly better than {'all ' if len(behind) > 1 else ''}{len(behind)} other{'s' if len(behind) > 1 else ''}."
    elif level:
        names = ", ".join(level[:4]) + (f" and {len(level) - 4} more" if len(level) > 4 else "")
        yield f"There is no clear difference to {names}: take which of them is cheaper."


def _tested(document: Doc) -> Iterator[str]:
    """The winner's figure on the test rows, and how often they have been read."""
    test = document["test"]
    if test is None:
        yield "It was chosen for this figure, which therefore flatters it; there are no test rows that would say more."
        return
    figure = test["metrics"].get(document["metric"])
    if figure is not None:
        told = _with_interval(document["metric"], figure)
        yield f"It was chosen for this figure, which therefore flatters it. On test rows: {told}."
    if len(document["tested"]) > 1:
        names = ", ".join(entry["name"] for entry in document["tested"])
        yield f"The test rows have been read for {len(document['tested'])} runs of this sweep ({names}): they flatter a little too."


def _cells(document: Doc, run: Doc) -> list[str]:
    if run["error"]:
        return [run["name"], "failed", "", "", "", ""]
    figure, gap = run["figure"], run["behind"]
    if figure is None:
        return [run["name"], "waiting", "", "", "", ""]
    behind = "" if gap is None else f"{shown(document['metric'], gap['value'], signed=True)}"
    if gap is not None and gap["low"] is not None:
        behind += f" ({interval(document['metric'], gap)})"
    spread = interval(document["metric"], figure) if figure["low"] is not None else "–"
    loss = "–" if run["valid_loss"] is None else f"{run['valid_loss']:.4f}"
    return [run["name"], shown(document["metric"], figure["value"]), spread, behind, loss, f"{run['steps']:,}"]


def _plot(document: Doc) -> str:
    known = [run for run in document["runs"] if run["figure"] and run["figure"]["value"] is not None]
    if not known:
        return ""
    metric = "nll" if document["metric"] == LOSS else document["metric"]
    figures = [_whole(run["figure"]) for run in known]
    low, high, ticks = metrics.axis(metric, figures)
    dots = [
        plots.Dot(
            _short(document, run),
            figure["value"],
            figure["low"],
            figure["high"],
            amount(metric, figure["value"]),
            run["name"] == document["best"],
        )
        for run, figure in zip(known, figures, strict=True)
    ]
    words = "; ".join(f"{dot.name} {dot.shown}" for dot in dots)
    keys = " · ".join(key for key, values in document["over"].items() if len(values) > 1)
    alt = f"{named(document['metric'])} of each run: {words}"
    caption = f"<figcaption>{esc(_capital(named(document['metric'])))} by {bdi(keys)}</figcaption>" if keys else ""
    return f"<figure>{plots.dots(dots, low, high, ticks, alt)}{caption}</figure>"


def _short(document: Doc, run: Doc) -> str:
    """By the values alone of what was swept: beside a plot there is little room."""
    swept = [key for key, values in document["over"].items() if len(values) > 1]
    return " · ".join(_value(run["settings"].get(key)) for key in swept) or run["name"]


def _whole(figure: Doc) -> dict[str, Any]:
    """A figure without an interval is a point."""
    return dict(figure) | ({"low": figure["value"], "high": figure["value"]} if figure["low"] is None else {})


def _settings(document: Doc) -> str:
    keys = list(document["over"])
    rows = [row(bdi(run["name"]), [("words", bdi(_value(run["settings"].get(key)))) for key in keys]) for run in document["runs"]]
    return table(["Run", *(f'<span class="words code">{bdi(key)}</span>' for key in keys)], rows)


def _value(value: Any) -> str:
    return "none" if value is None else ", ".join(map(str, value)) if isinstance(value, list) else str(value)
