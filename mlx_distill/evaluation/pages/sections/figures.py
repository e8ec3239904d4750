"""Every figure that was measured, in one table: those of the whole task first, then field by field."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from mlx_distill.evaluation import judge
from mlx_distill.evaluation.pages.markup import esc, grid, row, table
from mlx_distill.evaluation.pages.sections import _metrics as metrics

Doc = Mapping[str, Any]


def render(document: Doc) -> str:
    rows = [
        row(
            f'{metrics.named(name)} <span class="small code">{esc(name)}</span>',
            [("number", metrics.value(name, figure)), ("range", metrics.spread(name, figure)), ("number", metrics.counted(figure["n"]))],
        )
        for name, figure in _figures(document)
    ]
    return table(["", "value", "95 %", "n"], rows) if rows else ""


def markdown(document: Doc) -> str:
    rows = [
        [metrics.named_plainly(name), metrics.value(name, figure), metrics.spread(name, figure), metrics.counted(figure["n"])]
        for name, figure in _figures(document)
    ]
    folded = grid(["figure", "value", "95 %", "n"], rows)
    return f"<details><summary>All {len(rows)} figures</summary>\n\n{folded}\n</details>\n" if rows else ""


def _figures(document: Doc) -> Iterator[tuple[str, Doc]]:
    places = list(document["fields"])

    def place(metric: str) -> tuple[int, str]:
        field = judge.parts(metric)[1]
        return (places.index(field) if field in places else -1, metric)

    for name in sorted(document["metrics"], key=place):
        if not judge.is_alias(name):
            yield name, document["metrics"][name]
