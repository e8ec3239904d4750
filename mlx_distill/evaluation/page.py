"""report.html: the document of `report` for a person, as one file that needs no network and no script.

    render(document)      HTML, from report.json's document alone

It frames what `sections` and `progression` draw; it computes no figure.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mlx_distill.evaluation import progression
from mlx_distill.evaluation.sections import answers as sections
from mlx_distill.evaluation.markup import bdi, esc
from mlx_distill.evaluation.words import NAMES

Doc = Mapping[str, Any]


def render(document: Doc) -> str:
    """The whole page. The sections without figures are left out."""
    parts = {
        "targets": ("Targets", sections.targets(document)),
        "fields": ("Student and baselines", sections.fields(document)),
        "figures": ("All figures", sections.figures(document)),
        "slices": ("Where it is worst", sections.slices(document)),
        "confusion": ("What it confuses", sections.confusions(document)),
        "scores": ("Scores: too high, too low", sections.scores(document)),
        "confidence": ("Does it know when it is right?", sections.reliability(document)),
        "training": ("Training", progression.curve(document)),
        "disagreements": ("Worst disagreements", sections.disagreements(document)),
        "lineage": ("How it came about", sections.lineage(document)),
    }
    shown = {key: part for key, part in parts.items() if part[1]}
    body = "".join(f'<section id="{key}"><h2>{name}</h2>{content}</section>' for key, (name, content) in shown.items())
    links = "".join(f'<a href="#{key}">{name}</a>' for key, (name, _) in shown.items())
    style = Path(__file__).with_suffix(".css").read_text(encoding="utf-8")
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{esc(document['name'])}: report</title><style>{style}</style></head>\n<body>"
        f'{_header(document)}<main><nav aria-label="Sections">{links}</nav>{body}</main>{_footer(document)}</body></html>\n'
    )


def _header(document: Doc) -> str:
    first, *rest = document["summary"]
    splits = ", ".join(f"{n:,} to {esc(word)}" for word, n in _split_words(document["splits"]))
    paragraphs = "".join(f"<p>{esc(sentence)}</p>" for sentence in rest)
    return (
        f'<header><p class="eyebrow">{bdi(document["name"])} · {document["rows"]:,} judged rows{f" ({splits})" if splits else ""}</p>'
        f'<div class="verdict {esc(document["verdict"])}"><h1>{esc(first)}</h1>{paragraphs}</div></header>'
    )


def _split_words(splits: Doc) -> Iterator[tuple[str, int]]:
    words = {"train": "train", "valid": "validate", "test": "test"}
    return ((words.get(name, name), n) for name, n in splits.items())


def _footer(document: Doc) -> str:
    return (
        f"<footer><p>Intervals are 95 % percentile bootstraps, {document['bootstrap']:,} resamples of the rows, each taken as independent; "
        "but rows of one event or source resemble each other, so on a new one more may change than they say. A row without the judge's "
        "label does not count for that field; one without a valid answer counts as wrong, and has no error in points. "
        "An interval without width means that every row was alike, not that nothing could change. "
        f"Baselines: {'; '.join(esc(NAMES.get(name, name)) for name in document['baselines']) or 'none'}.</p></footer>"
    )
