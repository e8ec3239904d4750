"""The report's remedies: what to try where targets are missed, in order, each with what this run's own figures say for it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mlx_distill.evaluation.pages.markup import bdi, cell, row, table

MARKS = {"likely": "✓ likely", "unlikely": "✗ unlikely", "unknown": "unknown"}
KINDS = {"likely": "good", "unlikely": "bad", "unknown": "small"}


def render(document: Mapping[str, Any]) -> str:
    """A table, the first remedy first. "" where nothing is missed."""
    found = document.get("remedies") or []
    if not found:
        return ""
    rows = [
        row(
            bdi(entry["remedy"]),
            [
                ("words", f'<span class="{KINDS[entry["worth"]]}">{MARKS[entry["worth"]]}</span>'),
                ("words", bdi(entry["evidence"])),
                ("words", f'<span class="code">{bdi(entry["how"])}</span>'),
            ],
        )
        for entry in found
    ]
    note = '<p class="note">In this order. What this run’s own figures say for each; where they say nothing, it is unknown.</p>'
    heads = [f'<span class="words">{name}</span>' for name in ("Would it help?", "Evidence", "How")]
    return note + table(["Remedy", *heads], rows)


def markdown(document: Mapping[str, Any]) -> str:
    """A list of as many lines as there are remedies."""
    found = document.get("remedies") or []
    lines = (f"{i}. **{cell(entry['remedy'])}**: {entry['worth']}. {cell(entry['evidence'])}." for i, entry in enumerate(found, start=1))
    return "\n".join(lines)
