"""One counterfactual scenario: what differs between the fillings of each gap, scores by filling, the two answers furthest apart."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from mlx_distill.evaluation.pages.markup import bdi, cell, esc, row, table
from mlx_distill.evaluation.pages.sections._gaps import PLAIN, chance, drawn, percent, sign, size, spread, wide, worst_first

Doc = Mapping[str, Any]
KINDS = {
    "overall": "overall",
    "tier": "tier",
    "confidence": "how sure it is",
    "deferred": "handed back",
    "refused": "not answered",
}
"""Measures that are no field of the task."""
NOTE = (
    "A difference is the largest between two fillings: of means, in points and as a share of the range; of names (choices, flags, tiers), "
    "the share of texts alike but for this gap whose answers differ. By chance: the difference that is expected if fillings changed places "
    "at random, and how often one as large would come (p); of names, how often they would go one way so much. Intervals speak for other "
    "texts of this kind; where fewer than ten contexts (fillings of the other gaps) stand behind a difference it has none, is exact for "
    "these texts, and says little of others."
)


def render(name: str, part: Doc, most: float, texts: bool) -> str:
    gaps = "".join(_gap(gap, found, most, texts) for gap, found in worst_first(part["gaps"]))
    return f'<h3>Scenario {bdi(name)} {sign(part["verdict"])}</h3><p class="small">{_asked(part)}</p>{gaps}'


def lines(name: str, part: Doc) -> Iterator[list[str]]:
    """Markdown: what missed, else the largest difference of each gap."""
    for gap, found in worst_first(part["gaps"]):
        missed = [entry for entry in found["measures"] if entry["verdict"] == "missed"]
        for entry in missed or [entry for entry in found["measures"] if entry["decides"]][:1]:
            what = f"{cell(name)}, {cell(gap)}: {cell(_named(entry))}"
            yield [what, PLAIN[entry["verdict"]] + _doubt(entry), size(entry), spread(entry), chance(entry), cell(_between(entry))]


def _asked(part: Doc) -> str:
    of = f"{part['texts']:,} texts"
    if part["texts"] < part["combinations"]:
        of += f", drawn from {part['combinations']:,} combinations so that each filling is tried as often as any other"
    if part["refused"]:
        reasons = "; ".join(f"{esc(reason)} ({count})" for reason, count in part["reasons"].items())
        of += f'. <span class="bad">✗ {part["refused"]:,} of them were not answered{": " + reasons if reasons else ""}</span>'
    return of + "."


def _gap(gap: str, found: Doc, most: float, texts: bool) -> str:
    """What differs; what does not is named in a line."""
    if not found["measures"]:
        return f"<p>{bdi(gap)}: no answer to compare.</p>"
    apart = [entry for entry in found["measures"] if entry["value"]]
    if not apart:
        return f"<p>{sign(found['verdict'])} Changing {bdi(gap)} changes nothing ({_alike(found['measures'])}).</p>"
    columns = _columns(apart)
    rows = [row(bdi(_named(entry)), [(css, show(entry)) for _, css, show in columns]) for entry in apart]
    alike = [entry for entry in found["measures"] if not entry["value"]]
    rest = f'<p class="small">Without any difference: {_alike(alike)}.</p>' if alike else ""
    plot = drawn([(_named(entry), entry) for entry in apart if entry["decides"]], most, f"Changing {gap}, largest differences")
    example = _example(gap, found["example"]) if found["example"] and texts else ""
    title = f"Changing {bdi(gap)}, and nothing else ({found['contexts']:,} contexts)"
    return f"{table(['', *(head for head, _, _ in columns)], rows, title)}{rest}{plot}{_means(gap, found)}{example}"


def _columns(entries: Sequence[Doc]) -> list[tuple[str, str, Callable[[Doc], str]]]:
    """(heading, class, what stands in it); intervals and chance only where there are any."""
    columns: list[tuple[str, str, Callable[[Doc], str]]] = [
        ('<span class="words">verdict</span>', "words", lambda entry: sign(entry["verdict"]) + _doubtful(entry)),
        ("largest difference", "number", size),
        ('<span class="words">between</span>', "words", lambda entry: wide(_between(entry))),
    ]
    if any(entry["low"] is not None for entry in entries):
        columns.insert(2, ("95 %", "range", spread))
    if any(entry["p"] is not None for entry in entries):
        columns.insert(3, ("by chance", "range", chance))
    return columns


def _doubtful(entry: Doc) -> str:
    return f' <span class="small">{_doubt(entry).lstrip(", ")}</span>' if _doubt(entry) else ""


def _alike(entries: Sequence[Doc]) -> str:
    """Names of what is the same whatever fills the gap, and how far that could be from true of other texts."""
    highest = max((entry["high"] or 0.0 for entry in entries), default=0.0)
    names = ", ".join(bdi(_named(entry)) for entry in entries)
    return f"{names}; 95 %: at most {percent(highest)}" if highest else names


def _named(entry: Doc) -> str:
    return KINDS.get(entry["kind"], str(entry["of"]))


def _doubt(entry: Doc) -> str:
    return ", not certain" if entry["certain"] is False else ""


def _between(entry: Doc) -> str:
    """The two fillings that differ most, the higher first, or which way flips go."""
    if not entry["value"]:
        return "–"
    one, other = entry["pair"]
    if entry["unit"] == "difference":
        return f"{one} above {other}"
    if not entry["shift"]:
        return f"{one} and {other}, both ways alike"
    ours, theirs = entry["shift"]["shares"]
    return f"{one} and {other}: {entry['shift']['value']} {percent(ours)} against {percent(theirs)}"


def _means(gap: str, found: Doc) -> str:
    """Scores, overall and shares by filling."""
    numbers = [entry for entry in found["measures"] if entry["unit"] == "difference" and entry["value"]]
    if not numbers:
        return ""
    rows = [row(bdi(filling), [("number", _mean(entry, place)) for entry in numbers]) for place, filling in enumerate(found["fillings"])]
    return table(["", *(bdi(_named(entry)) for entry in numbers)], rows, f"Means by {bdi(gap)}")


def _mean(entry: Doc, place: int) -> str:
    value = entry["fillings"][place]["mean"]
    return f"{value:.2f}" if entry["points"] is not None else percent(value)


def _example(gap: str, example: Doc) -> str:
    if any(variant["text"] is None for variant in example["variants"]):
        return ""
    cards = "".join(_card(gap, variant, other) for variant, other in zip(example["variants"], example["variants"][::-1], strict=True))
    return f'<p class="small">The two answers that differ most:</p><div class="cards">{cards}</div>'


def _card(gap: str, variant: Doc, other: Doc) -> str:
    ours, theirs = _values(variant), _values(other)
    rows = [
        row(bdi(name), [("words", bdi(value) if theirs.get(name) == value else f'<span class="bad">≠ {bdi(value)}</span>')])
        for name, value in ours.items()
    ]
    head = '<th scope="col" class="words">field</th><th scope="col" class="words">answer</th>'
    title = f'<caption class="unseen">Answer where {bdi(gap)} is {bdi(variant["filling"])}</caption>'
    body = f"<table class='facts'>{title}<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
    text = f'<p class="text" dir="auto">{esc(variant["text"])}</p>'
    return f'<article><p class="small">{bdi(gap)}: {bdi(variant["filling"])}</p>{text}{body}</article>'


def _values(variant: Doc) -> dict[str, str]:
    if variant["answer"] is None:
        return {"no answer": variant["refused"] or "–"}
    whole = {
        name: f"{variant[name]:.2f}" if isinstance(variant[name], float) else str(variant[name])
        for name in ("overall", "tier")
        if variant[name] is not None
    }
    return {**variant["answer"], **whole, **({"handed back": "true"} if variant["deferred"] else {})}
