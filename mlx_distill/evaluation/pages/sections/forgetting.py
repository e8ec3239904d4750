"""What of the base's general ability is left: base and student side by side on general benchmarks, the worst task of each first."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from mlx_distill.evaluation.pages import plots
from mlx_distill.evaluation.pages.markup import bdi, cell, esc, grid, row, table
from mlx_distill.evaluation.pages.sections._gaps import PLAIN, sign, spread
from mlx_distill.evaluation.pages.sections._metrics import percent

Doc = Mapping[str, Any]
MEANING = (
    "Base and student answer the same questions in the same words, as bare text. What is lost is a share of what the base answers rightly; "
    "a verdict is certain where the 95 % interval lies on one side of its limit. p is McNemar's: how often questions would part so "
    "unevenly between two that are equally good."
)
GUESSING = "At chance: nothing to forget."
TASKS_SHOWN = 8
SIDES = (("Base", "base"), ("Student", "student"))


def render(document: Doc) -> str:
    found = document.get("forgetting")
    if not found or not found["benchmarks"]:
        return ""
    parts = "".join(_benchmark(name, entry) for name, entry in found["benchmarks"].items())
    return f'<p>{sign(found["verdict"])} {_said(found, bdi)}</p><p class="note">{MEANING}</p>{parts}'


def markdown(document: Doc) -> str:
    found = document.get("forgetting")
    if not found or not found["benchmarks"]:
        return ""
    head = ["benchmark", "base", "student", "lost", "95 %", "verdict", "floor", "n"]
    return f"{_said(found, cell)}\n\n{grid(head, [_line(name, entry) for name, entry in found['benchmarks'].items()])}"


def _said(found: Doc, name: Callable[[object], str]) -> str:
    """The verdict in words, with the names of those that turned it."""
    if found["verdict"] == "none":
        return "Nothing was judged."

    def named(part: str, verdict: str) -> list[str]:
        return [name(key) for key, entry in found["benchmarks"].items() if entry[part]["verdict"] == verdict]

    most = f"{percent(found['max_drop'])} of what its base answers rightly"
    told = {
        f"Lost more than {most}": named("drop", "missed"),
        "Below the floor": named("floor", "missed"),
        f"Lost perhaps more than {most}": named("drop", "not certain"),
        "Perhaps below the floor": named("floor", "not certain"),
    }
    sentences = [f"{what}: {', '.join(names)}." for what, names in told.items() if names]
    return " ".join(sentences) or f"It lost at most {most}, and stands above every floor."


def _line(name: str, entry: Doc) -> list[str]:
    drop, floor = entry["drop"], entry["floor"]
    lost = (
        ["–", "–", cell(GUESSING)]
        if entry["at_chance"]
        else [_loss(drop), spread(drop).replace("-", "−"), PLAIN[drop["verdict"] or "none"]]
    )
    above = f"{percent(floor['value'])}: {PLAIN[floor['verdict'] or 'none']}"
    return [cell(name), _share(entry["base"]), _share(entry["student"]), *lost, above, f"{entry['n']:,}"]


def _benchmark(name: str, entry: Doc) -> str:
    title = f'<h3>{bdi(name)} <span class="small">{esc(entry["title"])}, share of right answers, n = {entry["n"]:,}</span></h3>'
    notes = "".join(f" {esc(note)}" for note in entry["notes"])
    note = f'<p class="note">{notes.strip()}</p>' if notes else ""
    if entry["student"] is None:
        return f"{title}{note}"
    return f'<div class="pair">{title}<figure>{_dots(entry)}</figure>{_sides(entry)}</div>{_verdicts(entry)}{note}{_tasks(entry)}'


def _dots(entry: Doc) -> str:
    sides = [(name, entry[key]) for name, key in SIDES if entry[key] is not None]
    lines = [
        plots.Dot(name, figure["value"], figure["low"], figure["high"], percent(figure["value"]), main=name == "Student")
        for name, figure in sides
    ]
    ticks = [(i / 4, plots.percent(i / 4)) for i in range(5)]
    words = "; ".join(f"{line.name} {line.shown}" for line in lines)
    return plots.dots(lines, 0.0, 1.0, ticks, f"{entry['title']}, with 95 % intervals: {words}; floor {percent(entry['floor']['value'])}")


def _sides(entry: Doc) -> str:
    rows = [
        row(name, [("number", _share(entry[key])), ("range", spread(entry[key]))], "main" if key == "student" else "")
        for name, key in SIDES
        if entry[key] is not None
    ]
    if entry["chance"]:
        rows.append(row("Guessing", [("number", percent(entry["chance"])), ("range", "–")]))
    if entry["difference"] is not None:
        gap = entry["difference"]
        rows.append(row("Difference, points", [("number", _points(gap["value"])), ("range", _between(gap))]))
    return table(["", "right", "95 %"], rows)


def _verdicts(entry: Doc) -> str:
    drop, floor = entry["drop"], entry["floor"]
    lines = []
    if entry["at_chance"]:
        lines.append(f'<span class="small">{GUESSING}</span> The base is not clearly better than guessing.')
    elif drop["verdict"]:
        parted = f"{entry['lost']:,} that the base alone answers, {entry['won']:,} that the student alone does, {_p(entry['p'])}"
        lines.append(f"{sign(drop['verdict'])} {_changed(drop)} of what the base answers rightly; {parted}.")
    base = {"missed": " So is its base.", "not certain": "", "met": " Its base is above."}.get(floor["base"] or "", "")
    below = {"missed": "below", "not certain": "not certainly above", "met": "above"}[floor["verdict"]] if floor["verdict"] else ""
    if below:
        beside = base if floor["verdict"] == "missed" else ""
        lines.append(f"{sign(floor['verdict'])} {below[0].upper()}{below[1:]} the floor of {percent(floor['value'])}.{beside}")
    return "".join(f"<p>{line}</p>" for line in lines)


def _tasks(entry: Doc) -> str:
    """Those that it lost most of; all of them stand in report.json."""
    tasks = entry["tasks"]
    if len(tasks) < 2:
        return ""
    rows = [
        row(
            bdi(task["task"]),
            [
                ("number", f"{task['n']:,}"),
                ("number", _share(task["base"])),
                ("number", _share(task["student"])),
                ("number", "–" if task["difference"] is None else _points(task["difference"]["value"])),
                ("range", "–" if task["difference"] is None else _between(task["difference"])),
            ],
        )
        for task in tasks[:TASKS_SHOWN]
    ]
    which = f"{len(rows)} of {len(tasks)} tasks, those that it lost most of first" if len(tasks) > len(rows) else "By task, worst first"
    head = ["", "n", "base", "student", "difference", "95 %"]
    return f"<details><summary>{which}</summary>{table(head, rows)}</details>"


def _between(figure: Doc) -> str:
    return f"{_points(figure['low'])} to {_points(figure['high'])}"


def _share(figure: Doc | None) -> str:
    return "–" if figure is None or figure["value"] is None else percent(figure["value"])


def _points(difference: float) -> str:
    """
    >>> _points(-0.031)
    '−3.1'
    """
    return f"{difference * 100:+.1f}".replace("-", "−")


def _changed(drop: Doc) -> str:
    """
    >>> _changed({"value": -0.076, "low": -0.137, "high": -0.019}), _changed({"value": 0.05, "low": -0.01, "high": 0.11})
    ('Gained 7.6 % (95 %: gained 1.9 to 13.7 %)', 'Lost 5.0 % (95 %: gained 1.0 % to lost 11.0 %)')
    """
    value, low, high = (drop[end] for end in ("value", "low", "high"))
    word = "gained" if value < 0 else "lost"
    if low < 0 < high:
        between = f"gained {percent(-low)} to lost {percent(high)}"
    else:
        between = f"{word} {spread({'low': min(abs(low), abs(high)), 'high': max(abs(low), abs(high))})}"
    return f"{word.capitalize()} {percent(abs(value))} (95 %: {between})"


def _loss(drop: Doc) -> str:
    return percent(drop["value"]).replace("-", "−")


def _p(p: float) -> str:
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"
