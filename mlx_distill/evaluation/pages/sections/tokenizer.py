"""What a text costs in tokens: the data's own languages, and the same content in seven of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mlx_distill.evaluation.language.paragraphs import REFERENCE
from mlx_distill.evaluation.pages import plots
from mlx_distill.evaluation.pages.markup import bdi, cell, esc, grid, row, table

Doc = Mapping[str, Any]
DEAR = 1.5
"""So many times the tokens of English, and a language is named for it."""
NOTE = (
    "More tokens for the same content take more time and memory, and a long text loses its middle sooner. Characters a token can be "
    "compared within a script alone: a Han character says as much as a word. The last table has the same two short texts in each language, "
    "written for this purpose."
)


def render(document: Doc) -> str:
    found = document.get("tokenizer")
    if not found:
        return ""
    return f"<p>{esc(said(found))}</p>{_own(found)}{_paragraphs(found)}<p class='note'>{NOTE}</p>"


def markdown(document: Doc) -> str:
    found = document.get("tokenizer")
    if not found:
        return ""
    rows = [
        [cell(name), _characters(own), f"{own['tokens'] / own['counted']:,.0f}", f"{own['texts']:,}"]
        for name, own in found["languages"].items()
    ]
    return f"{cell(said(found))}\n\n{grid(['language', 'characters a token', 'tokens a text', 'texts'], rows)}".strip() + "\n"


def said(found: Doc) -> str:
    """What stands out, in a sentence.

    >>> said({"paragraphs": {"English": {"relative": 1.0}, "Greek": {"relative": 3.06}, "French": {"relative": 1.4}}})
    'For the same content, Greek costs 3.1 times as many tokens as English.'
    """
    costs = sorted(((own["relative"], name) for name, own in found["paragraphs"].items() if name != REFERENCE), reverse=True)
    dear = [f"{name} {cost:.1f}" for cost, name in costs if cost >= DEAR]
    if not dear:
        return f"For the same content, no language that was tried costs {DEAR:g} times as many tokens as {REFERENCE}."
    names = dear[0].replace(" ", " costs ", 1) + " times"
    rest = ", ".join(f"{one} times" for one in dear[1:])
    return f"For the same content, {names} as many tokens as {REFERENCE}{f' ({rest})' if rest else ''}."


def _own(found: Doc) -> str:
    if not found["languages"]:
        return ""
    rows = [
        row(
            bdi(name),
            [
                ("number", _characters(own)),
                ("range", _spread(own["characters_per_token"])),
                ("number", "–" if own["tokens_per_word"] is None else f"{own['tokens_per_word']['value']:.2f}"),
                ("number", f"{own['bytes_per_token']['value']:.2f}"),
                ("number", f"{own['tokens'] / own['counted']:,.0f}"),
                ("number", f"{own['texts']:,}"),
            ],
        )
        for name, own in found["languages"].items()
    ]
    head = ["", "characters a token", "95 %", "tokens a word", "bytes a token", "tokens a text", "texts"]
    rest = f"; {found['left_out']} rarer ones are left out" if found["left_out"] else ""
    return table(head, rows, f"The data's own texts, told apart by {bdi(found['by'])}{rest}")


def _characters(own: Doc) -> str:
    return f"{own['characters_per_token']['value']:.2f}"


def _spread(figure: Doc) -> str:
    return f"{figure['low']:.2f} to {figure['high']:.2f}"


def _paragraphs(found: Doc) -> str:
    ordered = sorted(found["paragraphs"].items(), key=lambda item: -item[1]["relative"])
    rows = [
        row(
            esc(name),
            [("number", f"{own['relative']:.2f}"), ("number", f"{own['tokens']:,}"), ("number", f"{own['characters_per_token']:.2f}")],
        )
        for name, own in ordered
    ]
    top = max(2.0, *(own["relative"] for _, own in ordered))
    lines = [
        plots.Dot(name, own["relative"], own["relative"], own["relative"], f"{own['relative']:.2f}", main=own["relative"] >= DEAR)
        for name, own in ordered
    ]
    words = "; ".join(f"{line.name} {line.shown}" for line in lines)
    drawn = plots.dots(lines, 0.0, top, [(0.0, "0"), (1.0, "as English")], f"Tokens for the same content, English is 1: {words}")
    caption = "The same content in seven languages"
    return f"<h3>{caption}</h3>{drawn}{table(['', 'tokens for one in English', 'tokens', 'characters a token'], rows, caption)}"
