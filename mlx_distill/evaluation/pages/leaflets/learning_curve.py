"""A learning curve for a person: what more labels would bring, in plain words, a table, and a plot.

    sentences(document)   lines(document)   render(document)

It draws the document of `workflows.learning_curve`, and computes no figure.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from mlx_distill.evaluation import judge
from mlx_distill.evaluation.pages import plots
from mlx_distill.evaluation.pages.leaflets import frame
from mlx_distill.evaluation.pages.leaflets.sweep import LOSS, named, shown
from mlx_distill.evaluation.pages.markup import bdi, esc, row, table
from mlx_distill.evaluation.words import interval

Doc = Mapping[str, Any]
TIMES = {2: "Twice", 4: "Four times"}
NOTE = (
    "Every run is judged on the same validation rows; the test rows are not read. The curve is a + b·n^−c; it presumes more labels of the "
    "same kind, and that the settings suit them as well."
)


def sentences(document: Doc) -> list[str]:
    """What twice the labels would bring first; then four times; then how far that can be trusted."""
    found = [_ahead(document, entry) for entry in document["extrapolated"]]
    if document.get("lawless"):
        return [f"{document['lawless'][0].upper()}{document['lawless'][1:]}.", *list(_trust(document))[1:]]
    if not found:
        failed = [run for run in document["runs"] if run["error"]]
        why = f"; {failed[0]['name']} failed: {failed[0]['error']['message']}" if failed else ""
        return [f"{len(document['points'])} sizes are no curve: a law of three numbers takes three sizes or more{why}."]
    return [*found, *_trust(document)]


def lines(document: Doc) -> list[str]:
    rows = [["labels", named(document["metric"]), "95 %", "runs"], *([labels, *cells] for labels, *cells in _cells(document))]
    widths = [max(len(line[i]) for line in rows) for i in range(4)]
    return [*sentences(document), "", *("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in rows)]


def render(document: Doc) -> str:
    first, *rest = sentences(document)
    rows = [
        row(labels, [("number", esc(value)), ("range", esc(spread)), ("words", esc(runs))])
        for labels, value, spread, runs in _cells(document)
    ]
    heads = ["Labels", esc(_title(document)), "95 %", '<span class="words">Runs</span>']
    curve = f'<p class="note">{NOTE}</p>' + _plot(document) + table(heads, rows) + _law(document)
    judged = f"{len(document['runs'])} runs, judged on {document['rows'] or 0:,} validation rows"
    return frame.page(document["name"], judged, [first, *rest], {"curve": ("Curve", curve), "runs": ("Runs", _runs(document))})


def _cells(document: Doc) -> Iterator[tuple[str, str, str, str]]:
    """A line for each size, and for each that is foretold: labels, figure, interval, the runs' own figures."""
    metric = document["metric"]
    for point in document["points"]:
        own = ", ".join(shown(metric, value) for value in point["seeds"].values())
        yield f"{point['labels']:,}", shown(metric, point["figure"]["value"]), _spread(document, point["figure"]), own
    for entry in document["extrapolated"]:
        yield f"{entry['labels']:,}", shown(metric, entry["value"]["value"]), _spread(document, entry["value"]), "foretold"


def better_by(metric: str, gain: float) -> str:
    """A gain in its unit, without a sign: of shares percentage points."""
    unit = judge.metric("nll" if metric == LOSS else metric).UNIT
    number = shown(metric, abs(gain), signed=True).removeprefix("+")
    return f"{number} percentage points" if unit.startswith("share") else number


def _ahead(document: Doc, entry: Doc) -> str:
    """One sentence on so many times the labels."""
    metric, gain = document["metric"], entry["gain"]
    who = f"{TIMES[entry['times']]} the labels ({entry['labels']:,})"
    if gain["low"] is None:
        return f"{who} may better {named(metric)} by about {better_by(metric, gain['value'])}; how far that can be trusted is not known."
    ends = f"{_signed(metric, gain['low'])} to {_signed(metric, gain['high'])}"
    if max(abs(gain["low"]), abs(gain["high"])) < 1e-9:
        return f"{who} would bring nothing that these rows can show."
    if gain["low"] > 0:
        to, would = shown(metric, entry["value"]["value"]), "would" if document["noise"] else "may"
        return f"{who} {would} better {named(metric)} by about {better_by(metric, gain['value'])} ({ends}), to about {to}."
    if gain["high"] <= 0:
        return f"{who} would not better {named(metric)}: {_signed(metric, gain['value'])} ({ends})."
    about = f"by about {_signed(metric, gain['value'])} ({ends})"
    return f"Whether {who[0].lower()}{who[1:]} would better {named(metric)} cannot be told: {about}."


def _signed(metric: str, gain: float) -> str:
    return shown(metric, gain, signed=True).removeprefix("+")


def _trust(document: Doc) -> Iterator[str]:
    noise = document["noise"]
    if noise is None:
        yield "How much luck is in one training is not known: add --seeds 2, or a size more."
    elif noise["told_by"] == "seeds":
        yield f"One training differs from the next by about {better_by(document['metric'], noise['value'])}, which is counted in."
    else:
        off = better_by(document["metric"], noise["value"])
        yield f"The figures are off the curve by about {off}, which is counted in as the luck of a training."
    failed = [run["name"] for run in document["runs"] if run["error"]]
    if failed:
        yield f"Left out, because they failed: {', '.join(failed)}."


def _spread(document: Doc, figure: Doc) -> str:
    return "–" if figure["low"] is None else interval(_unit(document), figure)


def _unit(document: Doc) -> str:
    """The metric whose unit the figures are in."""
    return "nll" if document["metric"] == LOSS else document["metric"]


def _title(document: Doc) -> str:
    words = named(document["metric"])
    return words[0].upper() + words[1:]


def _law(document: Doc) -> str:
    fit = document["fit"]
    if fit is None:
        return ""
    law = f"{fit['a']:.4g} + {fit['b']:.4g} · n<sup>−{fit['c']:.2f}</sup>"
    floor = esc(shown(document["metric"], fit["floor"]))
    return f'<p class="note">As an error: {law}. With ever more labels it would come to {floor}, as far as these sizes tell.</p>'


def _plot(document: Doc) -> str:
    """The curve with its band, and the measured figures on it."""
    if not document["points"]:
        return ""
    shares = judge.metric(_unit(document)).UNIT.startswith("share")
    points = [(p["labels"], p["figure"]["value"]) for p in document["points"]]
    drawn = [plots.Line("other", points, dots=True)]
    if document["band"]:
        curve = [(one["labels"], one["value"]) for one in document["band"]]
        known = [(one["labels"], one["low"], one["high"]) for one in document["band"] if one["low"] is not None]
        drawn.insert(0, plots.Line("main", curve, band=known))
    words = "; ".join(f"{n:,} labels {shown(document['metric'], value)}" for n, value in points)
    axes = plots.Axes(across="labels", up=named(document["metric"]), shares=(False, shares), log=True)
    alt = f"{named(document['metric'])} by number of labels: {words}"
    return f"<figure>{plots.curves(drawn, alt, axes=axes)}</figure>"


def _runs(document: Doc) -> str:
    rows = []
    for run in document["runs"]:
        steps = "–" if run["steps"] is None else f"{run['steps']:,}"
        loss = "failed" if run["error"] else "–" if run["valid_loss"] is None else f"{run['valid_loss']:.4f}"
        rows.append(row(bdi(run["name"]), [("number", f"{run['labels']:,}"), ("number", steps), ("number", loss)]))
    return table(["Run", "Labels", "Steps", "Validation loss"], rows)
