"""How far the judge agrees with itself, or raters with each other, and what share of that the student reaches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mlx_distill.evaluation import judge
from mlx_distill.evaluation.pages.markup import bdi, cell, esc, grid, row, table
from mlx_distill.evaluation.pages.sections import _metrics as metrics
from mlx_distill.evaluation.words import title

Doc = Mapping[str, Any]
Figure = Mapping[str, Any]
ICC = "ICC(A,1)"
AMONG = {
    "pairwise": "two of them agree in",
    "fleiss_kappa": "Fleiss’ κ",
    "alpha": "Krippendorff’s α",
    "icc_a1": "ICC(A,1), one rater’s agreement",
    "icc_c1": "ICC(C,1), one rater’s consistency",
    "icc_ak": "ICC(A,k), agreement of their mean",
}
APART = "two of them are apart by (points)"
SHARE = (
    "A share is the student’s agreement over the one before it; of errors, that one over the student’s. At 100 % it is as good as can be "
    "expected: nobody agrees with a judge better than the judge does."
)
OTHERS = (
    "Each rater is held against what the other raters say, and the student against the very same: against a label that is their majority "
    "a rater would look better than anyone else could, for his own voice is in it."
)


def render(document: Doc) -> str:
    found = document.get("ceiling")
    if not found:
        return ""
    parts = [f'<p class="note">{SHARE}</p>']
    if again := found.get("again"):
        parts.append(f"<h3>The judge, asked again about {metrics.counted(again['n'])} rows</h3>{_compared(again['metrics'], 'judge')}")
    return "".join([*parts, *(_raters(name, field) for name, field in found["raters"].items())])


def markdown(document: Doc) -> str:
    """One figure a field: the first that there is."""
    found = document.get("ceiling")
    if not found:
        return ""
    again = (found.get("again") or {"metrics": {}})["metrics"]
    rows = [_in_short(name, sides) for name, sides in _leading(again)]
    rows += [_in_short(name, sides) for field in found["raters"].values() for name, sides in list(field["others"].items())[:1]]
    return grid(["", "judge or rater (95 %)", "student (95 %)", "student’s share", "n"], rows)


def _leading(compared: Doc) -> Iterator[tuple[str, Doc]]:
    """Of each field, and of the whole answer, the first metric."""
    seen: set[str] = set()
    for name, sides in compared.items():
        field = judge.parts(name)[1] or ""
        if field not in seen or name in ("overall_mae", "tier_agreement"):
            seen.add(field)
            yield name, sides


def _in_short(name: str, sides: Doc) -> list[str]:
    first, second = (f"{_amount(name, sides[side])} ({_spread(name, sides[side])})" for side in ("judge", "student"))
    return [_name(name, plain=True), first, second, _share(sides["share"]), metrics.counted(sides["judge"]["n"])]


def _compared(compared: Doc, who: str) -> str:
    rows = []
    for name, sides in compared.items():
        cells = [
            ("number", _amount(name, sides["judge"])),
            ("range", _spread(name, sides["judge"])),
            ("number", _amount(name, sides["student"])),
            ("range", _spread(name, sides["student"])),
            ("number", _share(sides["share"])),
            ("number", metrics.counted(sides["judge"]["n"])),
        ]
        rows.append(row(_name(name), cells))
    return table(["", who, "95 %", "student", "95 %", "student’s share (95 %)", "n"], rows) if rows else ""


def _raters(name: str, field: Doc) -> str:
    several = len(field["raters"]) > 1
    heading = f"<h3>{bdi(name)}: {len(field['raters'])} {'raters' if several else 'rater'} of {metrics.counted(field['n'])} rows</h3>"
    among = [row(esc(_among(key, field["kind"])), [("number", shown), ("number", n)]) for key, shown, n in _agreement(field)]
    note = ""
    if several and field["compared"]:
        left = f" On {metrics.percent(field['divided'] / field['compared'])} of these occasions the others were divided evenly: left out."
        note = f'<p class="note">{OTHERS}{left if field["divided"] else ""}</p>'
    return (
        heading
        + (table(["among the raters", "agreement (95 %)", "n"], among) if among else "")
        + note
        + _compared(field["others"], "a rater" if several else "the rater")
        + _labels(field)
    )


def _agreement(field: Doc) -> Iterator[tuple[str, str, str]]:
    for key, figure in field["agreement"].items():
        write = metrics.percent if key == "pairwise" and field["kind"] != "score" else _plain
        if figure["value"] is not None:
            yield key, f"{write(figure['value'])} ({write(figure['low'])} to {write(figure['high'])})", metrics.counted(figure["n"])


def _among(key: str, kind: str) -> str:
    return APART if key == "pairwise" and kind == "score" else AMONG[key]


def _labels(field: Doc) -> str:
    """Each rater against the label that the student was judged by."""
    names: Sequence[str] = list(dict.fromkeys(name for one in field["label"] for name in one))
    rows = [
        row(bdi(rater), [*(("number", _amount(name, one.get(name))) for name in names), ("number", _n(one))])
        for rater, one in zip(field["raters"], field["label"], strict=False)
        if one
    ]
    caption = "Each rater against the label: who took part in it looks better than he is"
    return table(["", *(_family(name) for name in names), "n"], rows, caption) if rows and len(field["raters"]) > 1 else ""


def _n(figures: Mapping[str, Figure]) -> str:
    return metrics.counted(max(figure["n"] for figure in figures.values()))


def _is_icc(name: str) -> bool:
    return name.startswith("icc.")


def _name(name: str, *, plain: bool = False) -> str:
    if not _is_icc(name):
        return metrics.named_plainly(name) if plain else metrics.named(name)
    return f"{ICC} of {(cell if plain else bdi)(name.partition('.')[2])}"


def _family(name: str) -> str:
    return ICC if _is_icc(name) else esc(title(judge.parts(name)[0]))


def _amount(name: str, figure: Figure | None) -> str:
    return (_plain(figure["value"]) if figure else "–") if _is_icc(name) else metrics.value(name, figure)


def _spread(name: str, figure: Figure) -> str:
    if figure["low"] is None or not _is_icc(name):
        return metrics.spread(name, figure)
    return f"{_plain(figure['low'])} to {_plain(figure['high'])}"


def _share(figure: Figure) -> str:
    if figure["value"] is None:
        return "–"
    low, high = (f"{figure[end] * 100:.0f}" for end in ("low", "high"))
    return f"{figure['value'] * 100:.0f} % ({low} to {high})".replace("-", "−")


def _plain(number: float | None) -> str:
    return "–" if number is None else f"{number:.3f}".replace("-", "−")
