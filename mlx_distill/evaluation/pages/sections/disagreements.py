"""The rows that student and judge see most differently: what was read, and both answers side by side.

Where the recipe hides texts, report.json holds none, and a card has what was chosen alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from mlx_distill.evaluation import judge
from mlx_distill.evaluation.pages.markup import bdi, esc, row

Doc = Mapping[str, Any]
NOTE = "The rows that student and judge see most differently, the student being sure, come first. The judge can be wrong as well."
HIDDEN = "Texts are kept out of this report: the recipe says <code>report: {texts: false}</code>. The ids lead to them."


def render(document: Doc) -> str:
    entries = document["disagreements"]
    if not entries:
        return ""
    hidden = "" if document.get("texts", True) else f'<p class="note">{HIDDEN}</p>'
    cards = "".join(_card(number, entry, document["fields"]) for number, entry in enumerate(entries, 1))
    return f'<p class="note">{NOTE}</p>{hidden}<div class="cards">{cards}</div>'


def markdown(document: Doc) -> str:
    """How many; a pull request is no place for a row's words."""
    number = len(document["disagreements"])
    return f"The worst {number} rows, with both answers, are in report.html.\n" if number else ""


def _card(number: int, entry: Doc, fields: Doc) -> str:
    head = "".join(f'<th scope="col" class="words">{cell}</th>' for cell in ("field", "judge", "student", "sure"))
    text = "" if entry["text"] is None else f'<p class="text" dir="auto">{esc(entry["text"])}</p>'
    deferred = '<p class="small">The student would have handed this row back.</p>' if entry.get("defer") else ""
    body = "".join([*_answers(entry, fields), *_whole(entry)])
    return (
        f'<article><h3 class="small">{number}. <span class="code">{bdi(entry["id"])}</span></h3>{text}{deferred}'
        f'<table><caption class="unseen">Both answers to row {bdi(entry["id"])}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></article>"
    )


def _answers(entry: Doc, fields: Doc) -> Iterator[str]:
    answer = entry["answer"] or {}
    for name in fields:
        if name in entry["reference"] or name in answer:
            ours = written(answer.get(name)) if entry["answer"] is not None else "no valid answer"
            yield _line(bdi(name), written(entry["reference"].get(name)), ours, name in entry["wrong"], entry["confidence"].get(name))


def _whole(entry: Doc) -> Iterator[str]:
    """Overall and tier, where the task has them."""
    for name in ("overall", "tier"):
        both = entry.get(name) or {}
        if both.get("reference") is not None:
            theirs, ours = (round(side, 2) if isinstance(side, float) else side for side in (both["reference"], both["answer"]))
            yield _line(f"<i>{name}</i>", written(theirs), written(ours), name == "tier" and theirs != ours, None)


def _line(name: str, theirs: str, ours: str, wrong: bool, sure: float | None) -> str:
    said = f'<span class="bad">✗ {bdi(ours)}</span>' if wrong else bdi(ours)
    return row(name, [("words", bdi(theirs)), ("words", said), ("number", "" if sure is None else f"{sure * 100:.0f} %")])


def written(value: object) -> str:
    """An answer's value, or any fact, as a person reads it; a dash for none.

    >>> written(["a", "b"]), written(True), written(None)
    ('a, b', 'true', '–')
    """
    if value is None:
        return "–"
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else judge.label(value)
