"""A suite that someone wrote: asks its rows, and counts how many behave as is expected, by functional test, language, or any column."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mlx_distill.evaluation.bootstrap import Figure
from mlx_distill.evaluation.judge import SMALL, Fields, Judged, label
from mlx_distill.evaluation.metrics import CLOSED
from mlx_distill.evaluation.robustness._cases import ANSWER, DEFER, FLAG, REFUSE, SAME, Case, Cases
from mlx_distill.evaluation.robustness._columns import answers
from mlx_distill.evaluation.robustness._examples import SHOWN, beginning
from mlx_distill.evaluation.robustness._figures import same
from mlx_distill.evaluation.robustness._shares import share
from mlx_distill.evaluation.robustness._suite import Ask
from mlx_distill.recipe.schema import TaskSpec
from mlx_distill.records import BadRow, Example, Prediction, Value

Answer = Mapping[str, Value]
Tried = tuple[Case, Prediction | BadRow, bool]
"""A case, what the student said, and whether that is what was expected."""


def judge_suite(cases: Cases, task: TaskSpec, rows: Sequence[Judged], ask: Ask, *, texts: bool, most: float | None) -> dict[str, Any]:
    """Pass rates, over all and by column, worst first. `rows` have the clean answers that `of` may name."""
    asked = [*cases.drawn, *cases.originals]
    said = dict(zip((case.id for case in asked), answers(ask, [case.asked for case in asked]), strict=True))
    clean: dict[str, Answer | None] = {row.id: row.answer for row in rows}
    clean |= {name: one.answer if isinstance(one, Prediction) else None for name, one in said.items()}
    compared = [case for case in cases.drawn if case.kind != SAME or clean.get(case.of or "") is not None]
    tried = [(case, said[case.id], passes(case, said[case.id], clean.get(case.of or ""), task.fields)) for case in compared]
    passed = _share(tried, lambda one: one[2])
    kinds = sorted({case.kind for case in compared})
    return {
        "n": len(tried),
        "bad": len(cases.bad) + len(cases.drawn) - len(compared),
        "reasons": cases.reasons if texts else [],
        "expect": {kind: _share([one for one in tried if one[0].kind == kind], lambda one: one[2]) for kind in kinds},
        "passed": passed,
        "unseen": _share(tried, lambda one: not one[2] and not _back(one[1])),
        "deferred": _share(tried, lambda one: isinstance(one[1], Prediction) and one[1].defer),
        "refused": _share(tried, lambda one: isinstance(one[1], BadRow)),
        "by": {column: _by(tried, column) for column in (cases.drawn[0].groups if cases.drawn else ())},
        "verdict": _verdict(passed, kinds, most),
        "examples": [_example(one) for one in tried if not one[2]][:SHOWN] if texts else [],
    }


def passes(case: Case, said: Prediction | BadRow, original: Answer | None, fields: Fields) -> bool:
    """Whether the student did what is expected. One that refuses has given no answer, and none that is wrong."""
    if isinstance(said, BadRow):
        return case.kind == REFUSE
    if case.kind in (DEFER, REFUSE):
        return said.defer
    if case.kind == FLAG:
        return said.answer.get(case.flag) is True
    expected = case.labels if case.kind == ANSWER else {name: v for name, v in (original or {}).items() if fields[name].kind in CLOSED}
    return all(_agrees(name, value, said.answer.get(name), fields) for name, value in expected.items())


def _agrees(name: str, expected: Value, said: Value | None, fields: Fields) -> bool:
    if fields[name].kind == "list":
        return isinstance(expected, list) and isinstance(said, list) and set(expected) == set(said)
    return same(fields[name], expected, said)


def _share(tried: Sequence[Tried], holds: Callable[[Tried], bool]) -> Figure:
    return share(map(holds, tried))


def _by(tried: Sequence[Tried], column: str) -> list[dict[str, Any]]:
    """One entry a value of the column, worst first."""
    groups: dict[str, list[Tried]] = {}
    for one in tried:
        groups.setdefault(one[0].groups[column], []).append(one)
    found = [
        {"value": value, "n": len(own), "small": len(own) < SMALL, "passed": _share(own, lambda one: one[2])}
        for value, own in groups.items()
    ]
    return sorted(found, key=lambda entry: (entry["passed"]["value"], entry["value"]))


def _verdict(passed: Figure, kinds: Sequence[str], most: float | None) -> str:
    """A suite that is to change no answer is held against the most that may flip; of any other nothing is demanded in numbers."""
    if most is None or list(kinds) != [SAME] or passed["value"] is None:
        return "none"
    return "met" if 1 - passed["value"] <= most + 1e-12 else "missed"


def _back(said: Prediction | BadRow) -> bool:
    return isinstance(said, BadRow) or said.defer


def _example(one: Tried) -> dict[str, Any]:
    case, said, _ = one
    return {
        "id": case.id,
        "text": beginning(case.asked.text) if isinstance(case.asked, Example) else "",
        "expected": _words(case),
        "answer": dict(said.answer) if isinstance(said, Prediction) else None,
        "confidence": dict(said.confidence) if isinstance(said, Prediction) else {},
        "deferred": isinstance(said, Prediction) and said.defer,
        "refused": said.reason if isinstance(said, BadRow) else None,
        "groups": dict(case.groups),
    }


def _words(case: Case) -> str:
    if case.kind == ANSWER:
        return ", ".join(f"{name}: {label(value)}" for name, value in case.labels.items())
    return {SAME: f"the same answer as to {case.of}", FLAG: f"{case.flag}: true", DEFER: "deferred", REFUSE: "refused or deferred"}[
        case.kind
    ]
