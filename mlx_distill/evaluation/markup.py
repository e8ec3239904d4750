"""Small pieces of HTML. What comes from data is escaped, and keeps its own direction: right-to-left does not turn the page around."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")


def esc(value: object) -> str:
    """Text made safe for HTML: markup escaped, control characters shown as their pictures (NUL as ␀), lone surrogates replaced."""
    pictured = _CONTROL.sub(lambda found: chr(0x2421 if found[0] == "\x7f" else 0x2400 + ord(found[0])), str(value))
    return html.escape(pictured.encode("utf-16", "surrogatepass").decode("utf-16", "replace"), quote=True)


def bdi(value: object) -> str:
    """Somebody's words within ours: in their own direction, and free to break after an underscore."""
    return f'<bdi dir="auto">{esc(value).replace("_", "_<wbr>")}</bdi>'


def table(head: Sequence[str], rows: Sequence[str], caption: str = "", kind: str = "") -> str:
    """A table that scrolls on its own where a screen is too narrow for it. `head` and `rows` are HTML."""
    label = f"<caption>{caption}</caption>" if caption else ""
    heads = "".join(f'<th scope="col">{cell}</th>' for cell in head)
    name = re.sub("<[^>]*>", "", caption) or re.sub("<[^>]*>", "", " ".join(head))
    return (
        f'<div class="scroll" role="region" tabindex="0" aria-label="{name}"><table class="{kind}">{label}'
        f"<thead><tr>{heads}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def row(first: str, cells: Sequence[tuple[str, str]], kind: str = "") -> str:
    """(class, HTML) cells after a heading cell."""
    return f'<tr class="{kind}"><th scope="row">{first}</th>' + "".join(f'<td class="{css}">{cell}</td>' for css, cell in cells) + "</tr>"
