"""Small pieces of HTML and of Markdown. What comes from data is escaped, and keeps its own direction: right-to-left turns no page around.

esc, bdi, table, row      for report.html
cell, grid                for a pull request, where a row's words are to be neither markup nor a link nor the call of a person
"""

from __future__ import annotations

import html
import re
from collections.abc import Sequence

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
_RIGHT_TO_LEFT = re.compile(r"[\u0590-\u08ff\u200f\u202a-\u202e\u2066-\u2069\ufb1d-\ufdff\ufe70-\ufeff]")
_MEANT = re.compile(r"[\\`*_{}\[\]|~$]")
"""What Markdown takes for markup anywhere; what it does only at the start of a line never starts one here."""


def esc(value: object) -> str:
    """Text made safe for HTML: markup escaped, control characters shown as their pictures (NUL as ␀), lone surrogates replaced."""
    return html.escape(_printable(value), quote=True)


def _printable(value: object) -> str:
    pictured = _CONTROL.sub(lambda found: chr(0x2421 if found[0] == "\x7f" else 0x2400 + ord(found[0])), str(value))
    return pictured.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def bdi(value: object) -> str:
    """Somebody's words within ours: in their own direction, and free to break after an underscore."""
    return f'<bdi dir="auto">{esc(value).replace("_", "_<wbr>")}</bdi>'


def table(head: Sequence[str], rows: Sequence[str], caption: str = "", kind: str = "") -> str:
    """A table that scrolls on its own where a screen is too narrow for it. `head` and `rows` are HTML."""
    label = f"<caption>{caption}</caption>" if caption else ""
    heads = "".join(f'<th scope="col">{cell}</th>' if cell else "<td></td>" for cell in head)
    name = _words(caption) or _words(", ".join(filter(None, head)))
    return (
        f'<div class="scroll" role="group" tabindex="0" aria-label="{name}"><table{_css(kind)}>{label}'
        f"<thead><tr>{heads}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def row(first: str, cells: Sequence[tuple[str, str]], kind: str = "") -> str:
    """(class, HTML) cells after a heading cell."""
    return f'<tr{_css(kind)}><th scope="row">{first}</th>' + "".join(f"<td{_css(css)}>{cell}</td>" for css, cell in cells) + "</tr>"


def _css(kind: str) -> str:
    return f' class="{kind}"' if kind else ""


def _words(markup: str) -> str:
    """Of HTML the words alone."""
    return re.sub(r"\s+", " ", re.sub("<[^>]*>", "", markup)).strip()


def cell(value: object) -> str:
    r"""Text made safe for Markdown, in one line: no markup, no HTML, no link, nobody called, no issue named.

    >>> cell("a|b <i> *c*"), cell("line 1\nline 2")
    ('a\\|b &lt;i&gt; \\*c\\*', 'line 1 line 2')
    """
    text = re.sub(r"(?<=[@#])(?=\w)", "\u2060", _MEANT.sub(r"\\\g<0>", " ".join(_printable(value).split())))
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("://", "&#58;//").replace("www.", "www&#46;")
    return isolated(text)


def isolated(text: str) -> str:
    """Somebody's words within a sentence of plain text: what runs from right to left in them turns nothing else around."""
    return f"\u2068{text}\u2069" if _RIGHT_TO_LEFT.search(text) else text


def grid(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of Markdown, numbers to the right. `head` and `rows` are Markdown: what comes from data went through `cell`."""
    if not rows:
        return ""
    ruler = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, ruler, *rows)) + "\n"
