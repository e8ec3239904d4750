"""Rows to look at in the section on robustness: a text before and after, and what the student made of each. Folded away."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mlx_distill.evaluation.pages.markup import bdi, esc, row
from mlx_distill.evaluation.pages.sections.disagreements import written

Doc = Mapping[str, Any]


def shown(document: Doc) -> bool:
    """Whether the recipe lets the report have texts: `report: {texts: false}` keeps them out."""
    settings = document.get("report")
    return bool(document.get("texts", True)) and not (isinstance(settings, Mapping) and settings.get("texts") is False)


def changes(suites: Sequence[Doc], texts: bool) -> str:
    """What each suite does to a text, and examples of it where the report may have texts."""
    parts = "".join(
        f"<h4>{esc(suite['title'])}</h4><p>{esc(suite['meaning'][0].upper() + suite['meaning'][1:])}.</p>{_cards(suite) if texts else ''}"
        for suite in suites
    )
    return _folded("What was done to the texts" + (", with examples" if texts else ""), parts)


def _cards(suite: Doc) -> str:
    cards = "".join(_pair(example) for example in suite["examples"])
    return f'<div class="cards">{cards}</div>' if cards else ""


def failed(suite: Doc) -> str:
    """Rows of a given suite that did not do what was expected."""
    cards = "".join(_case(example) for example in suite["examples"])
    return _folded("Rows that failed", f'<div class="cards">{cards}</div>' if cards else "")


def _folded(title: str, inside: str) -> str:
    return f"<details><summary>{title}</summary>{inside}</details>" if inside else ""


def _pair(example: Doc) -> str:
    before, after, turned = example["answer"], example["changed_answer"] or {}, example["flipped"]
    rows = [
        row(
            bdi(name), [("words", bdi(written(before.get(name)))), ("words", _value(after.get(name), name in turned)), _sure(example, name)]
        )
        for name in dict.fromkeys([*before, *after])
    ]
    texts = _text("before", example["text"]) + _text("after", example["changed"])
    return _card(example, texts, _answers(example["id"], ("field", "before", "after", "sure"), rows), _demand(example["demanded"]))


def _case(example: Doc) -> str:
    rows = [row(bdi(name), [("words", bdi(written(value))), _sure(example, name)]) for name, value in (example["answer"] or {}).items()]
    groups = ", ".join(f"{name}: {value}" for name, value in example["groups"].items())
    expected = f"expected: {bdi(example['expected'])}"
    return _card(example, _text("", example["text"]), _answers(example["id"], ("field", "student", "sure"), rows), expected, bdi(groups))


def _card(example: Doc, texts: str, answers: str, *remarks: str) -> str:
    fate = [f"refused: {esc(example['refused'])}"] if example["refused"] else ["handed back"] if example["deferred"] else []
    said = "".join(f'<p class="small">{remark}</p>' for remark in [*remarks, *fate] if remark)
    return f'<article>{texts}{said}{answers}<p class="small code">{bdi(example["id"])}</p></article>'


def _answers(id: str, head: tuple[str, ...], rows: list[str]) -> str:
    heads = "".join(f'<th scope="col" class="words">{name}</th>' for name in head)
    caption = f'<caption class="unseen">Answers to row {bdi(id)}</caption>'
    return f"<table>{caption}<thead><tr>{heads}</tr></thead><tbody>{''.join(rows)}</tbody></table>" if rows else ""


def _demand(demanded: Doc | None) -> str:
    return "" if not demanded else "demanded: " + ", ".join(f"{bdi(name)} {bdi(written(value))}" for name, value in demanded.items())


def _text(name: str, text: str) -> str:
    return (f'<p class="small">{name}</p>' if name else "") + f'<p class="text" dir="auto">{esc(text)}</p>'


def _sure(example: Doc, name: str) -> tuple[str, str]:
    sure = example["confidence"].get(name)
    return "number", "" if sure is None else f"{sure * 100:.0f} %"


def _value(value: object, flipped: bool) -> str:
    return f'<span class="bad">✗ {bdi(written(value))}</span>' if flipped else bdi(written(value))
