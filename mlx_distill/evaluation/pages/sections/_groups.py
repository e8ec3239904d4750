"""Groups of one column: the gaps between them, the worst first, and each group's own figures beside."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from mlx_distill.evaluation import judge
from mlx_distill.evaluation.pages.markup import bdi, cell, row, table
from mlx_distill.evaluation.pages.sections._gaps import ORDER, PLAIN, chance, drawn, percent, sign, size, spread, wide

Doc = Mapping[str, Any]
NAMES = {
    "accuracy": "accuracy",
    "equalized_odds": "equalised odds",
    "equal_opportunity": "equal opportunity",
    "demographic_parity": "demographic parity",
    "mae": "mean error",
    "bias": "bias",
}
RATES = {"tpr": "true positive rate of", "fpr": "false positive rate of", "selection": "share called"}
NOTE = (
    "Equalised odds: the larger gap of true and false positive rates (equal opportunity: of the true alone; Hardt et al. 2016); of a "
    "choice, one label after the other against the rest. Demographic parity, how often each group is given a label, decides nothing: where "
    "the judge gives it more often to one group, so must a student that agrees. Intervals hold for all pairs of groups at once: met where "
    "the whole of it is within what is allowed, missed where the whole is beyond, else not certain. By chance: the gap expected of a "
    "student whose answers follow from the judge's alone, among groups of these sizes."
)


def render(column: str, part: Doc, most: float) -> str:
    found = "".join(_field(name, field) for name, field in part["fields"].items())
    gaps = _ordered(part)
    plot = drawn(
        [(f"{field}: {NAMES[gap['name']]}", gap) for field, gap in gaps if gap["decides"]], most, f"Gaps between groups of {column}"
    )
    details = f"<details><summary>Every group's figures</summary>{found}</details>" if found else ""
    return f"<h3>By {bdi(column)} {sign(part['verdict'])}</h3><p class='small'>{_who(part)}</p>{_gaps(column, gaps)}{plot}{details}"


def lines(column: str, part: Doc) -> Iterator[list[str]]:
    """Markdown: the gaps that decide and are not met, else the largest."""
    gaps = [(field, gap) for field, gap in _ordered(part) if gap["decides"]]
    for field, gap in [pair for pair in gaps if pair[1]["verdict"] != "met"] or gaps[:1]:
        what = f"{cell(column)}: {NAMES[gap['name']]} of {cell(field)}"
        yield [what, PLAIN[gap["verdict"]], size(gap), spread(gap), chance(gap), cell(_between(gap))]


def _ordered(part: Doc) -> list[tuple[str, Doc]]:
    """Every field's gaps: those that decide first, missed before uncertain ones, the larger before the smaller."""
    gaps = [(name, gap) for name, field in part["fields"].items() for gap in field["gaps"]]
    return sorted(gaps, key=lambda pair: (not pair[1]["decides"], ORDER.index(pair[1]["verdict"]), -pair[1]["value"]))


def _who(part: Doc) -> str:
    """How many groups there are, and which of them are too small to count."""
    small = [group["value"] for group in part["groups"] if group["small"]]
    words = [f"{len(part['groups'])} groups" if part["groups"] else "No row has a value of it"]
    if small:
        names = ", ".join(map(bdi, small[:8])) + (f" and {len(small) - 8} more" if len(small) > 8 else "")
        words.append(f"{names} {'has' if len(small) == 1 else 'have'} fewer than {judge.SMALL} rows: shown, and no part of the verdict")
    if part["left_out"]:
        words.append(f"{part['left_out']:,} rarer values are left out")
    if part["unknown"] and part["groups"]:
        words.append(f"{part['unknown']:,} rows have no value")
    return "; ".join(words) + "."


def _gaps(column: str, gaps: list[tuple[str, Doc]]) -> str:
    if not gaps:
        return "<p>There are no two groups with enough rows to compare.</p>"
    rows = [
        row(
            f"{bdi(field)}: {NAMES[gap['name']]}",
            [
                ("words", sign(gap["verdict"])),
                ("number", size(gap)),
                ("range", spread(gap)),
                ("range", chance(gap)),
                ("words", wide(_between(gap))),
            ],
        )
        for field, gap in gaps
    ]
    head = ["", '<span class="words">verdict</span>', "gap", "95 %", "by chance", '<span class="words">between</span>']
    return table(head, rows, f"Gaps between groups of {bdi(column)}")


def _between(gap: Doc) -> str:
    if not gap["value"]:
        return "–"
    shown = (
        percent
        if gap.get("points") is None
        else (lambda points: f"{points:+.2f}".replace("-", "−") if gap["name"] == "bias" else f"{points:.2f}")
    )
    one, other = (f"{name} {shown(value)}" for name, value in zip(gap["pair"], gap["values"], strict=True))
    what = RATES.get(gap["rate"], "")
    label = f" {gap['label']}" if gap["label"] is not None and what else ""
    return f"{what}{label}{': ' if what else ''}{one}, {other}"


def _field(name: str, field: Doc) -> str:
    if "mae" in field["groups"][0]:
        rows = [
            row(bdi(group["value"]), [("number", f"{group['n']:,}"), *_points(group["mae"]), *_points(group["bias"])], _kind(group))
            for group in field["groups"]
        ]
        return table(["", "n", "mean error", "95 %", "bias", "95 %"], rows, f"{bdi(name)} by group")
    labels = list(field["groups"][0]["labels"])
    return "".join(_label(name, label, field, first=i == 0) for i, label in enumerate(labels))


def _label(name: str, label: str, field: Doc, first: bool) -> str:
    """One label's rates; the accuracy of the field stands with its first."""
    rates = ("selection", "reference", "tpr", "fpr", "precision")
    rows = [
        row(
            bdi(group["value"]),
            [
                ("number", f"{group['n']:,}"),
                *([("number", percent(group["accuracy"]["value"])), ("range", spread(group["accuracy"]))] if first else []),
                *[("number", percent(group["labels"][label][rate]["value"])) for rate in rates],
            ],
            _kind(group),
        )
        for group in field["groups"]
    ]
    head = ["", "n", *(["accuracy", "95 %"] if first else []), "given it", "by the judge", "true positive", "false positive", "precision"]
    return table(head, rows, f"{bdi(name)}: {bdi(label)} by group")


def _points(figure: Doc) -> list[tuple[str, str]]:
    if figure["value"] is None:
        return [("number", "–"), ("range", "–")]
    value, low, high = (f"{figure[key]:.2f}".replace("-", "−") for key in ("value", "low", "high"))
    return [("number", value), ("range", f"{low} to {high}")]


def _kind(group: Doc) -> str:
    return "small" if group["small"] else ""
