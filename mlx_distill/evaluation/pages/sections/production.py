"""What it takes to answer in earnest: answers that could be read, refused rows, lengths, tokens; seconds and memory if known."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from mlx_distill.evaluation.pages.markup import bdi, cell, esc, grid, row, table
from mlx_distill.evaluation.pages.sections import _metrics as metrics

Doc = Mapping[str, Any]
LENGTHS = {"answer_chars": "Characters an answer, as compact JSON", "tokens": "Tokens an answer, without the shared prefix"}
REASONS = 10
"""Reasons for a refusal that are shown, the most frequent."""


def render(document: Doc) -> str:
    found = document.get("production") or {}
    facts = [row(esc(name), [("number", esc(shown))]) for name, shown in _facts(found)]
    lengths = [row(esc(name), [("number", figure) for figure in figures]) for name, figures in _lengths(found)]
    reasons = [row(bdi(reason), [("number", n)]) for reason, n in _reasons(found)]
    return (
        (table(["", "value"], facts) if facts else "")
        + (table(["", "mean", "median", "95 % are below"], lengths) if lengths else "")
        + (table(["why it refused", "rows"], reasons) if reasons else "")
    )


def markdown(document: Doc) -> str:
    found = document.get("production") or {}
    lengths = [(name, f"{mean} (median {median})") for name, (mean, median, _) in _lengths(found)]
    return grid(["in use", "value"], [[cell(name), cell(shown)] for name, shown in [*_facts(found), *lengths]])


def _facts(found: Doc) -> Iterator[tuple[str, str]]:
    """What is one number each."""
    if found.get("valid_json") is not None:
        yield "Valid JSON", metrics.percent(found["valid_json"])
        refused = found["refused"]
        yield "Refused rows", f"{metrics.counted(refused['n'])} ({metrics.percent(refused['share'])})"
    if seconds := found.get("seconds_per_answer"):
        yield "Seconds an answer", f"{seconds:.3g}"
        yield "Answers an hour", metrics.counted(round(3600 / seconds))
    if memory := found.get("peak_memory_bytes"):
        yield "Peak memory", f"{memory / 2**30:.2f} GiB"
    if device := found.get("device"):
        yield "Computed on", str(device)


def _lengths(found: Doc) -> Iterator[tuple[str, tuple[str, str, str]]]:
    for key, name in LENGTHS.items():
        if (spread := found.get(key)) and spread["n"]:
            mean, median, most = (f"{spread[part]:,.0f}" for part in ("mean", "median", "p95"))
            yield name, (mean, median, most)


def _reasons(found: Doc) -> Iterator[tuple[str, str]]:
    refused = found.get("refused") or {"reasons": {}}
    for reason, n in list(refused["reasons"].items())[:REASONS]:
        yield reason, metrics.counted(n)
