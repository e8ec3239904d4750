"""What the student hands back: the promise in words, what it did on the test rows, and the price of other promises."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mlx_distill.evaluation.pages import plots
from mlx_distill.evaluation.pages.markup import bdi, cell, esc, grid, row, table
from mlx_distill.evaluation.pages.sections import _metrics as metrics

Doc = Mapping[str, Any]
CURVE = (
    "From left to right more rows are kept, the surest first; upwards, the share of the kept ones that is wrong. The dashed line is the "
    "error that was promised, the ring the threshold that was found for it on other rows, the band each point’s own 95 % interval."
)
BAND = 0.5
"""Intervals that reach higher are not drawn: of the first few rows, they would flatten the rest."""
OTHERS = (
    "What other promises would keep. Each line holds with the same certainty by itself, if it was chosen before one looked: the best of "
    "them, picked afterwards, is promised by nobody."
)
GROUPS = "The test rows are of groups that the threshold was not found on. What happened in each of them, the worst first:"


def render(document: Doc) -> str:
    found = document.get("deferral")
    if not found:
        return ""
    verdict = '<p><span class="{}">{}</span> {}</p>'.format(*_verdict(found), esc(found["promise"]))
    return verdict + _happened(found) + _curve(found) + _others(found) + _groups(found)


def markdown(document: Doc) -> str:
    found = document.get("deferral")
    if not found:
        return ""
    _, word = _verdict(found)
    lines = grid(["rows", "n", "kept", "wrong among them", "95 %"], [[name, *cells] for name, cells in _counts(found)])
    return f"{word} {cell(found['promise'])}\n\n{lines}"


def _verdict(found: Doc) -> tuple[str, str]:
    """A class and a word: whether there is a threshold, and whether the test rows speak against it."""
    if found["threshold"] is None:
        return "bad", "✗ No honest threshold."
    if found["verdict"] == "missed":
        return "bad", "✗ The test rows speak against it."
    return "good", f"✓ Keeps {metrics.percent(found['test']['coverage']['value'])} of the test rows."


def _counts(found: Doc) -> list[tuple[str, list[str]]]:
    """A line of cells for the rows that the threshold was found on, for the test rows, and for those without any deferral."""
    lines = []
    for name, side in (("found on", found["found"]), ("test", found["test"])):
        error = side["error"]
        kept = f"{metrics.counted(side['kept'])} ({metrics.percent(side['coverage']['value'])})"
        lines.append((name, [metrics.counted(side["n"]), kept, metrics.percent(error["value"]), _ends(error)]))
    everything = found["everything"]
    all_kept = [metrics.counted(everything["n"]), "all", metrics.percent(everything["value"]), _ends(everything)]
    return [*lines, ("test, nothing handed back", all_kept)]


def _happened(found: Doc) -> str:
    rows = [row(esc(name), [("number", one) for one in cells]) for name, cells in _counts(found)]
    at = "" if found["threshold"] is None else f"A row is kept from a confidence of {found['threshold']:.3f} on. "
    area = f"Area under the risk-coverage curve: {metrics.percent(found['aurc'])}; of a confidence that says nothing: "
    note = f'<p class="note">{at}{area}{metrics.percent(found["aurc_of_chance"])}.</p>'
    return table(["rows", "n", "kept", "wrong among them", "95 %"], rows, f"Wrong: {bdi(found['wrong'])}") + note


def _ends(figure: Doc) -> str:
    return "–" if figure["low"] is None else " to ".join(metrics.percent(figure[end]).removesuffix(" %") for end in ("low", "high"))


def _curve(found: Doc) -> str:
    curve, test = found["curve"], found["test"]
    if len(curve) < 2:
        return ""
    first, last = curve[0], curve[-1]
    points = [(point["coverage"], point["error"]) for point in curve]
    band = [(point["coverage"], point["low"], point["high"]) for point in curve if point["high"] <= BAND]
    limit = [(point["coverage"], found["max_error"]) for point in curve]
    marks = []
    if test["kept"]:
        words = f"keeps {metrics.percent(test['coverage']['value'])}, {metrics.percent(test['error']['value'])} of them wrong"
        marks.append(plots.Mark("kept", test["coverage"]["value"], words, y=test["error"]["value"]))
    alt = f"Share wrong among the kept rows, from {metrics.percent(first['coverage'])} kept, {metrics.percent(first['error'])} wrong, to "
    alt += f"{metrics.percent(last['coverage'])} kept, {metrics.percent(last['error'])} wrong"
    axes = plots.Axes(across="rows kept", up="wrong among them", shares=(True, True), whole=False)
    drawn = plots.curves([plots.Line("target", limit), plots.Line("main", points, band=band)], alt, marks=marks, low=0.0, axes=axes)
    return f'<figure>{drawn}</figure><p class="note">{CURVE}</p>{_points(found)}'


def _points(found: Doc) -> str:
    """The curve in numbers, at every tenth."""
    rows, wanted = [], [i / 10 for i in range(1, 11)]
    for coverage in wanted:
        reached = next((point for point in found["curve"] if point["coverage"] >= coverage - 1e-9), None)
        if reached is not None:
            cells = [("number", metrics.percent(reached["error"])), ("range", _ends(reached)), ("number", f"{reached['threshold']:.3f}")]
            rows.append(row(metrics.percent(reached["coverage"]), cells))
    head = ["kept", "wrong among them", "95 %", "confidence from"]
    return f"<details><summary>The curve in numbers</summary>{table(head, rows)}</details>"


def _others(found: Doc) -> str:
    rows = [
        row(
            f"at most {metrics.percent(other['max_error'])}",
            [
                ("number", "–" if other["value"] is None else f"{other['value']:.3f}"),
                ("number", metrics.percent(other["coverage"]["value"])),
                ("number", metrics.percent(other["error"]["value"])),
                ("range", _ends(other["error"])),
            ],
            "main" if other["max_error"] == found["max_error"] else "",
        )
        for other in found["others"]
    ]
    head = ["promised", "confidence from", "kept (test)", "wrong among them", "95 %"]
    return f"<h3>What other promises would cost</h3>{table(head, rows)}<p class='note'>{OTHERS}</p>" if rows else ""


def _groups(found: Doc) -> str:
    rows = [
        row(
            bdi(group["group"] or "(none)") + (' <span class="small">few rows</span>' if group["small"] else ""),
            [
                ("number", metrics.counted(group["n"])),
                ("number", metrics.percent(group["coverage"]["value"])),
                ("number", metrics.percent(group["error"]["value"])),
                ("range", _ends(group["error"])),
            ],
        )
        for group in found["groups"] or ()
    ]
    head = [bdi(found["group_by"]), "n", "kept", "wrong among them", "95 %"]
    return f"<h3>Groups</h3><p class='note'>{GROUPS}</p>{table(head, rows)}" if rows else ""
