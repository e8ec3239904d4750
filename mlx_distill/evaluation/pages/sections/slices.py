"""Where the student is worst: a table for each slice, a row for each of its values, the worst first, all rows together for comparison."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mlx_distill.evaluation import judge
from mlx_distill.evaluation.pages import plots
from mlx_distill.evaluation.pages.markup import bdi, cell, esc, grid, row, table
from mlx_distill.evaluation.pages.sections import _metrics as metrics
from mlx_distill.evaluation.words import amount, interval, lower

Doc = Mapping[str, Any]
AT_MOST = 4
"""Fields whose own figures stand beside the main one."""
IN_SHORT = 3
"""Values of each slice that a pull request names."""
NOTE = (
    f"✗ marks what is clearly worse than all rows together: its whole interval lies on the worse side. Few rows: fewer than {judge.SMALL}, "
    "so the figure says little. Of many slices some are worst by chance; look for those that would make sense."
)


def render(document: Doc) -> str:
    main = document["main"]
    if main is None or not document["slices"]:
        return ""
    tables = "".join(_slice(document, column, entries, main) for column, entries in document["slices"].items())
    return f'<p class="note">{NOTE}</p>{tables}'


def markdown(document: Doc) -> str:
    """The worst values of each slice that have rows enough, and how many have not."""
    return "\n".join(_in_short(document))


def _in_short(document: Doc) -> Iterator[str]:
    main = document["main"]
    for column, entries in document["slices"].items() if main else ():
        known = [entry for entry in entries if not entry["small"] and main in entry["metrics"]]
        rows = []
        for entry in known[:IN_SHORT]:
            figure = entry["metrics"][main]
            mark = "✗ " if _is_worse(main, figure, document["metrics"].get(main)) else ""
            shown = [metrics.counted(figure["n"]), metrics.value(main, figure), metrics.spread(main, figure)]
            rows.append([mark + cell(entry["value"] or "(empty)"), *shown])
        small = sum(entry["small"] for entry in entries)
        if rows:
            yield grid([f"worst by {cell(column)}", "n", cell(lower(main)), "95 %"], rows)
        if small:
            values = "1 value" if small == 1 else f"{small} values"
            yield f"By {cell(column)}, {values} of fewer than {judge.SMALL} rows {'is' if small == 1 else 'are'} left out here.\n"


def _slice(document: Doc, column: str, entries: Sequence[Doc], main: str) -> str:
    """A row a value with every field's headline beside the main metric; below them all rows."""
    own = [field["headline"] for field in document["fields"].values() if field["headline"] in document["metrics"]]
    headlines = own if 1 < len(own) <= AT_MOST else []
    whole = {"value": None, "n": document["rows"], "small": False, "metrics": document["metrics"]}
    low, high, _ = metrics.axis(main, [entry["metrics"][main] for entry in (*entries, whole) if main in entry["metrics"]])
    rows = [_value(entry, main, headlines, (low, high), document["metrics"].get(main)) for entry in entries]
    rows.append(_value(whole, main, headlines, (low, high), None, kind="main"))
    word = esc(lower(main.partition(".")[0]))
    head = [bdi(column), "n", word, "95 %", "", *(bdi(name.partition(".")[2]) for name in headlines)]
    return table(head, rows, f"By {bdi(column)}, worst first")


def _value(entry: Doc, main: str, headlines: Sequence[str], axis: tuple[float, float], whole: Doc | None, kind: str = "") -> str:
    figure = entry["metrics"].get(main)
    small = ' <span class="small">few rows</span>' if entry["small"] else ""
    worse = '<span class="bad">✗</span> ' if _is_worse(main, figure, whole) else ""
    name = "all rows" if kind else bdi(entry["value"] or "(empty)")
    cells = [
        ("number", _rows(entry["n"], figure)),
        ("number", metrics.value(main, figure)),
        ("range", metrics.spread(main, figure)),
        ("", _drawn(main, figure, *axis)),
        *(("number", _headline(headline, entry)) for headline in headlines),
    ]
    return row(worse + name + small, cells, kind)


def _rows(number: int, figure: Doc | None) -> str:
    """Rows of the slice; and of them those that the figure is about, where not all have a label."""
    if figure is None or figure["n"] == number:
        return metrics.counted(number)
    return f'{metrics.counted(figure["n"])} <span class="small">of {metrics.counted(number)}</span>'


def _headline(metric: str, entry: Doc) -> str:
    figure = entry["metrics"].get(metric)
    few = f' <span class="small">n = {metrics.counted(figure["n"])}</span>' if figure and figure["n"] != entry["n"] else ""
    return metrics.value(metric, figure) + few


def _is_worse(metric: str, figure: Doc | None, whole: Doc | None) -> bool:
    """Whether its whole interval lies on the worse side of the figure for all rows."""
    if not figure or not whole or figure["low"] is None or whole["value"] is None:
        return False
    return bool(figure["low"] > whole["value"] if judge.lower_is_better(metric) else figure["high"] < whole["value"])


def _drawn(metric: str, figure: Doc | None, low: float, high: float) -> str:
    if not figure or figure["value"] is None:
        return ""
    words = f"{amount(metric, figure['value'])}, {interval(metric, figure)}"
    return plots.interval(figure["value"], figure["low"], figure["high"], low, high, words)
