"""report.html: the document of `report` for a person, as one file that needs no network and no script.

    render(document)      HTML, from report.json's document alone

The verdict comes first, then the sections of `contents`. It frames what they draw; it computes no figure.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from mlx_distill.evaluation.pages import contents, short
from mlx_distill.evaluation.pages.contents import Section
from mlx_distill.evaluation.pages.markup import bdi, esc
from mlx_distill.evaluation.words import NAMES

Doc = Mapping[str, Any]
SHORT = "In short"


def render(document: Doc) -> str:
    """The whole page. Sections without figures are left out."""
    style = Path(__file__).with_suffix(".css").read_text(encoding="utf-8")
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{esc(document['name'])}: report</title><style>{style}</style></head>\n<body>{_body(document)}</body></html>\n"
    )


def _body(document: Doc) -> str:
    sections = list(contents.rendered(document))
    shown = (
        f'<a class="skip" href="#short">To the report</a>{_header(document)}<div class="layout">{_navigation(sections)}'
        f"<main>{_short(document)}{''.join(map(_section, sections))}</main></div>{_footer(document)}"
    )
    return re.sub(r"(?<=\d) %", "\u00a0%", shown)  # a number and its unit stay on one line


def _header(document: Doc) -> str:
    splits = ", ".join(f"{n:,} to {esc(word)}" for word, n in _split_words(document["splits"]))
    first, *rest = document["summary"][:2]  # what compares follows in short
    paragraphs = "".join(f"<p>{esc(sentence)}</p>" for sentence in filter(None, [*rest, short.beside(document)]))
    return (
        f'<header><p class="eyebrow">{bdi(document["name"])} · {document["rows"]:,} judged rows{f" ({splits})" if splits else ""}</p>'
        f'<div class="verdict {esc(document["verdict"])}"><h1>{esc(first)}</h1>{paragraphs}</div></header>'
    )


def _split_words(splits: Doc) -> Iterator[tuple[str, int]]:
    words = {"train": "train", "valid": "validate", "calibrate": "calibrate", "test": "test"}
    return ((words.get(name, name), n) for name, n in splits.items())


def _navigation(sections: Sequence[Section]) -> str:
    """Links in groups, a list each."""
    groups = []
    for group, members in groupby(sections, key=lambda section: section.group):
        links = "".join(f'<li><a href="#{section.name}">{esc(section.title)}</a></li>' for section in members)
        groups.append(f"<li><span>{esc(group)}</span><ul>{links}</ul></li>")
    first = f'<li><a href="#short">{SHORT}</a></li>'
    return f'<nav aria-label="Contents"><ul>{first}{"".join(groups)}</ul></nav>'


def _short(document: Doc) -> str:
    """What a person who decides asks first."""
    cards = "".join(
        f'<div class="answer {answer.standing}"><h3>{esc(answer.question)}</h3>{_sentences(answer.sentences)}</div>'
        for answer in short.answers(document)
    )
    return f'<section id="short"><h2>{SHORT}</h2><div class="answers">{cards}</div></section>'


def _sentences(sentences: Sequence[str]) -> str:
    if len(sentences) < 2:
        return "".join(f"<p>{esc(sentence)}</p>" for sentence in sentences)
    return f"<ul>{''.join(f'<li>{esc(sentence)}</li>' for sentence in sentences)}</ul>"


def _section(section: Section) -> str:
    return f'<section id="{section.name}"><h2>{esc(section.title)}</h2>{section.content}</section>'


def _footer(document: Doc) -> str:
    return (
        f"<footer><p>Intervals are 95 % bootstraps, {document['bootstrap']:,} resamples of the rows, each taken as independent; "
        "but rows of one event or source resemble each other, so on a new one more may change than they say. A row without the judge's "
        "label does not count for that field; one without a valid answer counts as wrong, and has no error in points. "
        "A share's interval is at least as wide as Wilson's; a calibration error's begins at 0 where a calibrated student could have one "
        "as large. Any other figure's without width means that every row was alike, not that nothing could change. "
        f"Baselines: {'; '.join(esc(NAMES.get(name, name)) for name in document['baselines']) or 'none'}.</p></footer>"
    )
