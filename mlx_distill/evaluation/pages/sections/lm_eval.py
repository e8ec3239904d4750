"""What lm-evaluation-harness says of base and student, where it was asked: its own metrics, each with its standard error."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from mlx_distill.evaluation.pages.markup import bdi, cell, esc, grid, row, table

Doc = Mapping[str, Any]
HEAD = ("task", "metric", "n", "base", "student")


def render(document: Doc) -> str:
    found = document.get("lm_eval")
    if not found:
        return ""
    rows = [
        row(bdi(task), [("words", bdi(metric)), ("number", esc(n)), ("number", esc(base)), ("number", esc(student))])
        for task, metric, n, base, student in _rows(found)
    ]
    return table(HEAD, rows) + f"<p class='note'>{esc(_note(found))}</p>"


def markdown(document: Doc) -> str:
    found = document.get("lm_eval")
    if not found:
        return ""
    return f"{grid(HEAD, [[cell(value) for value in line] for line in _rows(found)])}\n\n{cell(_note(found))}\n"


def _rows(found: Doc) -> Iterator[tuple[str, str, str, str, str]]:
    for task, own in found["tasks"].items():
        for metric, sides in own["metrics"].items():
            n = "–" if own["n"] is None else f"{own['n']:,}"
            yield task, metric, n, _shown(sides.get("base")), _shown(sides.get("student"))


def _shown(figure: Doc | None) -> str:
    """
    >>> _shown({"value": 0.51234, "stderr": 0.02}), _shown({"value": 12.5, "stderr": None}), _shown(None)
    ('0.512 ± 0.020', '12.500', '–')
    """
    if figure is None:
        return "–"
    return f"{figure['value']:.3f}" + ("" if figure["stderr"] is None else f" ± {figure['stderr']:.3f}")


def _note(found: Doc) -> str:
    of = f", {found['limit']:,} questions of each task at most" if found["limit"] else ""
    return f"Measured by lm-evaluation-harness {found['version']}{of}; ± is one standard error."
