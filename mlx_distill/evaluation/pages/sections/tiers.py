"""Which tier each side puts the rows into: how many rows every tier has, and which tier is taken for which."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from mlx_distill.evaluation.pages import plots
from mlx_distill.evaluation.pages.markup import bdi, cell, esc, grid, row, table
from mlx_distill.evaluation.pages.sections import _metrics as metrics
from mlx_distill.evaluation.words import title

Doc = Mapping[str, Any]
FIGURES = ("tier_agreement", "tier_adjacent", "tier_kappa")
NONE = "no tier"


def render(document: Doc) -> str:
    found = document.get("tiers")
    if not found or not found["n"]:
        return ""
    return _agreement(document) + _distribution(found) + _matrix(found)


def markdown(document: Doc) -> str:
    found = document.get("tiers")
    if not found or not found["n"]:
        return ""
    figures = [f"{cell(title(name))} {shown} (n = {n})" for name, shown, n in _figures(document)]
    rows = [[cell(name), *(metrics.percent(found[side][i]) for side in ("reference", "student"))] for i, name in _tiers(found)]
    return ("; ".join(figures) + ".\n\n" if figures else "") + grid(["tier", "judge", "student"], rows)


def _figures(document: Doc) -> Iterator[tuple[str, str, str]]:
    for name in FIGURES:
        if (figure := document["metrics"].get(name)) and figure["value"] is not None:
            yield name, f"{metrics.value(name, figure)} ({metrics.spread(name, figure)})", metrics.counted(figure["n"])


def _agreement(document: Doc) -> str:
    rows = [row(esc(title(name)), [("number", shown), ("number", n)]) for name, shown, n in _figures(document)]
    return table(["", "agreement (95 %)", "n"], rows) if rows else ""


def _tiers(found: Doc) -> list[tuple[int, str]]:
    """Place and name, the highest first; the rows without a tier last, where there are any."""
    size = len(found["names"])
    alone = found["matrix"][size] + [line[size] for line in found["matrix"]]
    return [*reversed(list(enumerate(found["names"]))), *([(size, NONE)] if any(alone) else [])]


def _distribution(found: Doc) -> str:
    """How large a share of the rows each side puts into each tier."""
    pairs = [plots.Pair(name, found["reference"][i], found["student"][i]) for i, name in _tiers(found)]
    shares = [(pair.name, metrics.percent(pair.judge), metrics.percent(pair.student)) for pair in pairs]
    words = "; ".join(f"{name}: judge {judge}, student {student}" for name, judge, student in shares)
    rows = [
        row(bdi(pair.name), [("number", judge), ("number", student), ("number", _gap(pair.student - pair.judge))])
        for pair, (_, judge, student) in zip(pairs, shares, strict=True)
    ]
    note = f'<p class="note">Shares of all {metrics.counted(found["n"])} rows. A student that shifts them is biased.</p>'
    drawn = f"<figure>{plots.bars(pairs, f'Share of the rows in each tier. {words}')}</figure>"
    return f'<div class="pair"><h3>How many rows each tier has</h3>{drawn}{table(["", "judge", "student", "difference"], rows)}</div>{note}'


def _gap(share: float) -> str:
    """
    >>> _gap(-0.0125)
    '−1.2'
    """
    return f"{share * 100:+.1f}".replace("-", "−")


def _matrix(found: Doc) -> str:
    tiers = _tiers(found)
    rows = []
    for i, name in tiers:
        support = sum(found["matrix"][i])
        rows.append(f'<tr><th scope="row">{bdi(name)}</th>{"".join(_heat(found["matrix"][i][j], support, i == j) for j, _ in tiers)}</tr>')
    note = '<p class="note">A row is the judge’s tier, a column the student’s; under each count its share of the row.</p>'
    return f"<h3>Which tier is taken for which</h3>{note}" + table(
        ["judge ↓ student →", *(bdi(name) for _, name in tiers)], rows, "", "matrix"
    )


def _heat(count: int, support: int, hit: bool) -> str:
    share = count / support if support else 0.0
    css = " ".join(word for word, holds in (("hit", hit), ("strong", share > 0.6), ("zero", not count)) if holds)
    shown = f"{metrics.counted(count)}<br>{share * 100:.0f} %" if count else "0"
    return f'<td class="{css}" style="--share:{share:.2f}">{shown}</td>'
