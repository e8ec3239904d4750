"""The report for a pull request: the verdict, what was to be reached, how far it agrees, then each section in few lines.

    render(document)      Markdown, from report.json's document alone

No text of a row stands in it, and what comes from data is escaped (`markup.cell`): it is neither markup nor a link, and calls nobody.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mlx_distill.evaluation.pages import contents, short
from mlx_distill.evaluation.pages.markup import cell

MARKS = {"met": "✓ ", "missed": "✗ ", "none": ""}
FOLDED = ("figures",)
"""Sections that fold themselves, and so need no heading."""


def render(document: Mapping[str, Any]) -> str:
    first, *rest = document["summary"]
    blocks = [
        f"## {cell(document['name'])}: {MARKS[document['verdict']]}{cell(first)}",
        *map(cell, rest),
        cell(short.beside(document) or ""),
        _short(document),
    ]
    for section in contents.in_markdown(document):
        heading = "" if section.name in FOLDED else f"### {section.title}\n\n"
        blocks.append(heading + section.content.strip())
    return "\n\n".join(filter(None, blocks)) + "\n"


def _short(document: Mapping[str, Any]) -> str:
    """What `short` says beyond the summary."""
    said = set(document["summary"])
    lines = [
        f"- **{answer.question}** {' '.join(map(cell, kept))}"
        for answer in short.answers(document)
        if (kept := [sentence for sentence in answer.sentences if sentence not in said])
    ]
    return "\n".join(lines)
