"""Sets and intervals: how often they hold the judge's answer, against what was promised, and how much they leave open."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mlx_distill.evaluation.pages.markup import bdi, cell, esc, grid, row, table
from mlx_distill.evaluation.pages.sections import _metrics as metrics

Doc = Mapping[str, Any]
NOTE = (
    "Of a choice the set names the values that the judge’s is among, of a score the interval from lowest to highest. Promised is an "
    "average over rows: a single row, or a kind of row, may be held less often."
)
METHODS = {
    "lac": "values likely enough",
    "aps": "likeliest values up to a sum",
    "raps": "likeliest values, few",
    "cdf": "middle of the distribution",
    "distance": "answer, give or take",
}


def render(document: Doc) -> str:
    found = document.get("conformal")
    if not found:
        return ""
    rows = [row(bdi(name), [*_cells(found, entry)]) for name, entry in found["fields"].items()]
    head = ["", '<span class="words">verdict</span>', "holds", "95 %", "n", "mean size", '<span class="words">made of</span>']
    promised = f"Promised: {metrics.percent(found['coverage'])} of the rows."
    return f'<p class="note">{promised} {NOTE}</p>{table(head, rows)}{_sizes(found)}'


def markdown(document: Doc) -> str:
    found = document.get("conformal")
    if not found:
        return ""
    rows = [
        [cell(name), _holds(entry), _ends(entry), metrics.counted(entry["coverage"]["n"]), _size(entry), cell(_verdict(found, entry)[1])]
        for name, entry in found["fields"].items()
    ]
    return f"Promised: {metrics.percent(found['coverage'])}.\n\n" + grid(["field", "holds", "95 %", "n", "mean size", "verdict"], rows)


def _cells(found: Doc, entry: Doc) -> list[tuple[str, str]]:
    css, word = _verdict(found, entry)
    made = METHODS[entry["method"]]
    return [
        ("words", f'<span class="{css}">{esc(word)}</span>'),
        ("number", _holds(entry)),
        ("range", _ends(entry)),
        ("number", metrics.counted(entry["coverage"]["n"])),
        ("number", _size(entry)),
        ("words", esc(made)),
    ]


def _verdict(found: Doc, entry: Doc) -> tuple[str, str]:
    """A class and words: whether the test rows agree with what was promised."""
    if entry["every"]:
        return "small", f"every value: {metrics.counted(entry.get('n'))} rows promise no less"
    if entry["coverage"]["high"] < found["coverage"]:
        return "bad", "✗ holds less than promised"
    return "good", "✓ as promised"


def _holds(entry: Doc) -> str:
    return metrics.percent(entry["coverage"]["value"])


def _ends(entry: Doc) -> str:
    return " to ".join(metrics.percent(entry["coverage"][end]).removesuffix(" %") for end in ("low", "high"))


def _size(entry: Doc) -> str:
    return f"{entry['size']:.2f} {'points' if entry['kind'] == 'score' else 'values'}"


def _sizes(found: Doc) -> str:
    """How many rows have a set of one value, of two, ..."""
    known = {name: dict(entry["counts"]) for name, entry in found["fields"].items() if entry["counts"]}
    if not known:
        return ""
    sizes = sorted({size for counts in known.values() for size in counts})
    rows = [row(bdi(name), [("number", metrics.counted(counts.get(size, 0))) for size in sizes]) for name, counts in known.items()]
    return table(["values in the set", *(str(size) for size in sizes)], rows, "Rows by the size of their set")
