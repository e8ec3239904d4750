"""Whether the student's scores are too high or too low on average."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from mlx_distill.evaluation.pages.markup import bdi, cell, grid, row, table
from mlx_distill.evaluation.pages.sections._metrics import counted

Doc = Mapping[str, Any]
HEAD = ("judge's mean", "student's mean", "student − judge", "n")


def render(document: Doc) -> str:
    rows = [row(bdi(name), [("number", figure) for figure in figures]) for name, figures in _means(document)]
    return table(["", *HEAD], rows) if rows else ""


def markdown(document: Doc) -> str:
    return grid(["score", *HEAD], [[cell(name), *figures] for name, figures in _means(document)])


def _means(document: Doc) -> Iterator[tuple[str, list[str]]]:
    for name, entry in document["scores"].items():
        if entry["n"]:
            gap = f"{entry['bias']:+.2f}".replace("-", "−")
            yield name, [f"{entry['reference_mean']:.2f}", f"{entry['student_mean']:.2f}", gap, counted(entry["n"])]
