"""A page beside the report: one self-contained file in the report's own style, of a title, a few sentences, and sections of HTML.

It knows nothing of what stands in it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from mlx_distill.evaluation.pages.markup import bdi, esc

STYLE = Path(__file__).parents[1] / "page.css"
UNIT = re.compile(r"(?<=\d) (?=%)")
"""A number and its unit stay on one line."""


def page(title: str, eyebrow: str, sentences: Sequence[str], sections: Mapping[str, tuple[str, str]]) -> str:
    """`sections`: id: (heading, HTML); those without HTML are left out. Of the sentences, the first is the heading of the page."""
    shown = {key: part for key, part in sections.items() if part[1]}
    first, *rest = sentences
    paragraphs = "".join(f"<p>{bdi(sentence)}</p>" for sentence in rest)
    links = "".join(f'<li><a href="#{esc(key)}">{esc(name)}</a></li>' for key, (name, _) in shown.items())
    body = "".join(f'<section id="{esc(key)}"><h2>{esc(name)}</h2>{content}</section>' for key, (name, content) in shown.items())
    content = (
        f'<header><p class="eyebrow">{bdi(title)} · {esc(eyebrow)}</p><div class="verdict"><h1>{bdi(first)}</h1>{paragraphs}</div></header>'
        f'<div class="layout"><nav aria-label="Contents"><ul>{links}</ul></nav><main>{body}</main></div>'
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{esc(title)}</title><style>{STYLE.read_text(encoding='utf-8')}</style></head>\n"
        f"<body>{re.sub(UNIT, chr(0xA0), content)}</body></html>\n"
    )
