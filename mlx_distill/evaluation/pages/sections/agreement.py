"""The student beside its baselines, field by field: one figure a field, drawn with its interval, and how far it is from each baseline."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from mlx_distill.evaluation import judge
from mlx_distill.evaluation.pages.markup import bdi, cell, esc, grid, row, table
from mlx_distill.evaluation.pages.sections import _metrics as metrics
from mlx_distill.evaluation.words import NAMES, amount, lower, standing, title

Doc = Mapping[str, Any]
SHORT = {"majority": "Majority", "tfidf": "TF-IDF", "untrained": "Untrained"}
NOTE = (
    "A difference is student − baseline, with its paired 95 % interval; where that holds 0, there is no clear difference. Majority: always "
    "the most common answer of the student's own rows. TF-IDF: words and characters of the same rows, with a linear model. Untrained: the "
    "student's base before it learned, asked the same way."
)


def render(document: Doc) -> str:
    blocks = "".join(_field(document, name, field) for name, field in _fields(document))
    note = f'<p class="note">{NOTE}</p>' if document["baselines"] else ""
    return note + blocks if blocks else ""


def markdown(document: Doc) -> str:
    rows = []
    for name, field in _fields(document):
        metric, own = field["headline"], document["metrics"][field["headline"]]
        against = (_standing(metric, baseline, key) for key, baseline in document["baselines"].items())
        figure = f"{metrics.value(metric, own)} ({metrics.spread(metric, own)})"
        word = cell(lower(metric.partition(".")[0]))
        rows.append([cell(name), word, figure, metrics.counted(own["n"]), "; ".join(filter(None, against))])
    return grid(["field", "figure", "student (95 %)", "n", "against baselines"], rows)


def _fields(document: Doc) -> Iterator[tuple[str, Doc]]:
    """Those with a figure that stands for them."""
    return ((name, field) for name, field in document["fields"].items() if field["headline"] in document["metrics"])


def _standing(metric: str, baseline: Doc, key: str) -> str:
    gap = baseline["difference"].get(metric)
    if gap is None or gap["value"] is None:
        return ""
    words = {"better": "better than", "worse": "**worse** than", "level": "level with"}[standing(metric, gap)]
    return f"{words} {cell(NAMES.get(key, key))}"


def _field(document: Doc, name: str, field: Doc) -> str:
    metric = field["headline"]
    own = document["metrics"][metric]
    others = {key: baseline for key, baseline in document["baselines"].items() if metric in baseline["metrics"]}
    lines = [("Student", own, None)] + [
        (SHORT.get(key, key), baseline["metrics"][metric], baseline["difference"].get(metric)) for key, baseline in others.items()
    ]
    rows = [
        row(
            esc(who),
            [("number", metrics.value(metric, figure)), ("range", metrics.spread(metric, figure)), ("number", _difference(metric, gap))],
            kind,
        )
        for (who, figure, gap), kind in zip(lines, ["main"] + [""] * len(others), strict=True)
    ]
    word = esc(lower(metric.partition(".")[0]))
    better = "lower is better" if judge.lower_is_better(metric) else "higher is better"
    drawn = metrics.dots(metric, f"{title(metric)}, with 95 % intervals", [(who, figure) for who, figure, _ in lines])
    caption = f'<span class="unseen">{bdi(name)}: student and baselines</span>'
    return (
        f'<div class="pair"><h3>{bdi(name)} <span class="small">{word}, {better}, n = {metrics.counted(own["n"])}</span></h3>'
        f"<figure>{drawn}</figure>{table(['', word, '95 %', 'difference'], rows, caption)}</div>"
    )


def _difference(metric: str, gap: Doc | None) -> str:
    """Student − baseline, coloured where it is clear; and its interval."""
    if gap is None or gap["value"] is None:
        return ""
    css = {"better": "good", "worse": "bad", "level": "small"}[standing(metric, gap)]
    low, high = (amount(metric, gap[end], signed=True) for end in ("low", "high"))
    return f'<span class="{css}">{amount(metric, gap["value"], signed=True)}</span> <span class="small">({low} to {high})</span>'
