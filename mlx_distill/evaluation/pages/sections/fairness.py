"""Whether like cases get like answers: counterfactual scenarios first, then groups of labelled rows, the worst of each first."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from mlx_distill.evaluation.pages.markup import esc, grid
from mlx_distill.evaluation.pages.sections import _groups as groups
from mlx_distill.evaluation.pages.sections import _scenarios as scenarios
from mlx_distill.evaluation.pages.sections._gaps import percent, sign, worst_first

Doc = Mapping[str, Any]
VERDICTS = {
    "met": "Nothing that was compared differs by more than {most}.",
    "missed": "Some things that should be alike differ by more than {most}.",
    "not certain": "No difference is certain to be above {most}, and some are not certain to be below it: more rows would tell.",
    "none": "Nothing could be compared.",
}
LIMITS = (
    "The judge's own answers count as right: where the judge treats like cases differently, a student that agrees does so too, and groups "
    "do not show it. Scenarios do, for they need no judge; but they speak for the texts that were written, not for all."
)


def render(document: Doc) -> str:
    found = document.get("fairness")
    if not found:
        return ""
    said = VERDICTS[found["verdict"]].format(most=percent(found["max_gap"]))
    texts = bool(document.get("texts", True))
    parts = [scenarios.render(name, part, found["max_gap"], texts) for name, part in worst_first(found["scenarios"])]
    parts += [groups.render(column, part, found["max_gap"]) for column, part in worst_first(found["groups"])]
    return f'<p>{sign(found["verdict"])} {esc(said)}</p><p class="note">{LIMITS}{_by_chance(found)}</p>{"".join(parts)}'


def markdown(document: Doc) -> str:
    found = document.get("fairness")
    if not found:
        return ""
    rows = [*_lines(found)]
    head = ["compared", "verdict", "largest difference", "95 %", "by chance", "between"]
    return f"{VERDICTS[found['verdict']].format(most=percent(found['max_gap']))}\n\n{grid(head, rows)}".strip() + "\n"


def _lines(found: Doc) -> Iterator[list[str]]:
    for name, part in worst_first(found["scenarios"]):
        yield from scenarios.lines(name, part)
    for column, part in worst_first(found["groups"]):
        yield from groups.lines(column, part)


def _by_chance(found: Doc) -> str:
    """What looking at many gaps does."""
    if found["tested"] < 2:
        return ""
    return (
        f" {found['tested']} gaps between groups were looked at. Each interval allows for the number of its groups, not for the number of "
        "gaps: of twenty where there is no difference, one may still seem to have one."
    )
