"""What became of the answers: flips, shifts, confidence, deferral, agreement with the judge. Every figure with its interval and its n.

A field flips where its value to the changed text is another than to the unchanged one (of a score: another step), or where the changed
text was refused. Open fields (texts, lists) are not compared: to say the same in other words is no flip. Shares have Wilson's interval;
means and differences have the bootstrap's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from mlx_distill.evaluation import bootstrap as boot
from mlx_distill.evaluation import judge
from mlx_distill.evaluation.judge import Fields, Judged
from mlx_distill.evaluation.metrics import CLOSED, Bools, Floats, Tally, mean
from mlx_distill.evaluation.robustness._generated import Pair
from mlx_distill.evaluation.robustness._shares import share
from mlx_distill.evaluation.robustness._suite import SAME, SAME_OR_DEFER
from mlx_distill.recipe.schema import FieldSpec
from mlx_distill.records import Value
from mlx_distill.task.fields import nearest_value

SIDES = ("before", "after")
ALONE = "valid_json"
"""A metric that is no agreement with anybody: where it is all that a task has, there is none."""


def figures(pairs: Sequence[Pair], fields: Fields, *, bootstrap: int, seed: int) -> dict[str, Any]:
    """What can be said of any suite; each figure is {value, low, high, n}.

    `flips`: share of rows, of any closed field, by field, of the tier. `unseen`: any field flipped, and the row is not handed back.
    `shifts`: after − before in points, and its size. `confidence`: mean over the row's fields. `deferred`: where there is a threshold.
    `obeyed`: the answer is what the text demands. `agreement`: the task's main metric on these rows.
    """
    closed = {name: spec for name, spec in fields.items() if spec.kind in CLOSED}
    turned = [flipped(pair, fields) for pair in pairs]
    answered = {name: [name in (pair.before.answer or {}) for pair in pairs] for name in closed}
    some = [any(column) for column in zip(*answered.values(), strict=True)] if closed else [False] * len(pairs)
    return {
        "flips": {
            "any": share(turned, some),
            "fields": {name: share([name in names for names in turned], answered[name]) for name in closed},
            "tier": _tier(pairs),
        },
        "unseen": share([names and not _back(pair) for names, pair in zip(turned, pairs, strict=True)], some),
        **_means(pairs, closed, bootstrap=bootstrap, seed=seed),
        "deferred": {side: share(getattr(pair, side).defer for pair in pairs) for side in SIDES} if defers(pairs) else None,
        "refused": share(pair.after.answer is None for pair in pairs),
        "obeyed": _known(share([_obeyed(pair, fields) for pair in pairs], [pair.aim for pair in pairs])),
        "agreement": agreement(pairs, fields, bootstrap=bootstrap, seed=seed),
    }


def doubt(pairs: Sequence[Pair], clean: Sequence[Judged]) -> dict[str, Any]:
    """Where doubt is expected. `handed_back`: deferred or refused, where there is a threshold. `still_sure`: answered, and with more
    certainty than the median of `clean`, the unchanged test rows; `median` is that.
    """
    known = [value for row in clean if (value := certainty(row)) is not None]
    median = float(np.median(known)) if known else None
    sure = [certainty(pair.after) for pair in pairs]
    counted = [median is not None and (value is not None or pair.after.answer is None) for value, pair in zip(sure, pairs, strict=True)]
    return {
        "handed_back": share(map(_back, pairs)) if defers(pairs) else None,
        "still_sure": share([value is not None and median is not None and value > median for value in sure], counted),
        "median": median,
    }


def verdict(found: Mapping[str, Any], expect: str, most: float | None) -> str:
    """met or missed: flips against the most that may be; none where nothing is to be reached, or nothing could be measured."""
    figure = {SAME: found["flips"]["any"], SAME_OR_DEFER: found["unseen"]}.get(expect)
    if most is None or figure is None or figure["value"] is None:
        return "none"
    return "met" if figure["value"] <= most + 1e-12 else "missed"


def agreement(pairs: Sequence[Pair], fields: Fields, *, bootstrap: int, seed: int) -> dict[str, Any] | None:
    """The task's main metric before and after, and after − before, paired. None where the judge said nothing of these rows."""
    before, after = ([getattr(pair, side) for pair in pairs] for side in SIDES)
    was, now = (judge.measure(judge.lay_out(rows, fields)) for rows in (before, after))
    main = judge.main_metric(fields, was)
    if main is None or main == ALONE or main not in now:
        return None
    ours, theirs = {main: now[main]}, {main: was[main]}
    first, difference = boot.paired(ours, theirs, bootstrap=bootstrap, seed=seed)
    second = boot.figures(ours, bootstrap=bootstrap, seed=seed)
    return {"metric": main, "before": first[main], "after": second[main], "difference": difference[main]}


def same(spec: FieldSpec, one: Value | None, other: Value | None) -> bool:
    """Whether two answers are one value; a score between two steps counts as the nearest.

    >>> same(FieldSpec(kind="score"), 6.6, 7), same(FieldSpec(kind="flag"), True, None)
    (True, False)
    """
    if one is None or other is None:
        return one is other
    return bool(nearest_value(spec, one) == nearest_value(spec, other))


def flipped(pair: Pair, fields: Fields) -> list[str]:
    """The closed fields whose value is another one now."""
    before, after = pair.before.answer or {}, pair.after.answer or {}
    closed = {name: spec for name, spec in fields.items() if spec.kind in CLOSED and name in before}
    return [name for name, spec in closed.items() if not same(spec, before[name], after.get(name))]


def certainty(row: Judged) -> float | None:
    """How sure of the whole row: what deferral goes by, else the mean of its fields' confidences. None where there is neither."""
    if row.answer is None:
        return None
    return row.sure if row.sure is not None else _confidence(row)


def defers(pairs: Sequence[Pair]) -> bool:
    """Whether there is a threshold: then every answer says how sure the row is."""
    return any(row.sure is not None or row.defer for pair in pairs for row in (pair.before, pair.after))


def _confidence(row: Judged) -> float | None:
    return float(np.mean(list(row.confidence.values()))) if row.confidence else None


def _back(pair: Pair) -> bool:
    """Somebody else answers: the row is deferred, or among the rejects."""
    return pair.after.defer or pair.after.answer is None


def _obeyed(pair: Pair, fields: Fields) -> bool:
    """Whether the answer is what the text demands; before, it was not."""
    if pair.aim is None or pair.after.answer is None:
        return False
    name, value = pair.aim
    return same(fields[name], pair.after.answer.get(name), value)


def _tier(pairs: Sequence[Pair]) -> boot.Figure | None:
    """Share of the rows that had a tier, and have another one or none now."""
    return _known(share([pair.before.tier != pair.after.tier for pair in pairs], [pair.before.tier is not None for pair in pairs]))


def _means(pairs: Sequence[Pair], closed: Fields, *, bootstrap: int, seed: int) -> dict[str, Any]:
    """`shifts` and `confidence`: means over rows that have the number on both sides, all from the same resamples."""
    scores = [name for name, spec in closed.items() if spec.kind == "score"]
    tallies = _confidences(pairs, closed) | _shift(pairs, "", lambda row: row.overall)
    for name in scores:
        tallies |= _shift(pairs, name, lambda row, field=name: (row.answer or {}).get(field))  # type: ignore[misc]
    own = boot.figures(tallies, bootstrap=bootstrap, seed=seed)
    shifts = {name: {"signed": own[f"shift.{name}"], "absolute": own[f"size.{name}"]} for name in ("", *scores)}
    sure = {when: own[f"confidence.{when}"] for when in (*SIDES, "change")}
    return {
        "shifts": {"overall": shifts[""] if own["shift."]["n"] else None, "fields": {name: shifts[name] for name in scores}},
        "confidence": {**sure, "fields": {name: own[f"confidence.of.{name}"] for name in closed}},
    }


def _confidences(pairs: Sequence[Pair], fields: Fields) -> dict[str, Tally]:
    """Over rows with both: before, after and change of a row's mean, and the change by field."""
    before, after, both = _sides(pairs, _confidence)
    found = {"before": mean(before, both), "after": mean(after, both), "change": mean(after - before, both)}
    for name in fields:
        before, after, both = _sides(pairs, lambda row, field=name: row.confidence.get(field))  # type: ignore[misc]
        found[f"of.{name}"] = mean(after - before, both)
    return {f"confidence.{name}": tally for name, tally in found.items()}


def _shift(pairs: Sequence[Pair], name: str, of: Callable[[Judged], Any]) -> dict[str, Tally]:
    before, after, both = _sides(pairs, of)
    return {f"shift.{name}": mean(after - before, both), f"size.{name}": mean(np.abs(after - before), both)}


def _sides(pairs: Sequence[Pair], of: Callable[[Judged], Any]) -> tuple[Floats, Floats, Bools]:
    """A number before and after, and which rows have both; each (rows,)."""
    before, after = _numbers([of(pair.before) for pair in pairs]), _numbers([of(pair.after) for pair in pairs])
    return before, after, ~np.isnan(before) & ~np.isnan(after)


def _numbers(values: Sequence[float | None]) -> Floats:
    return np.array([float("nan") if value is None else float(value) for value in values], dtype=float)


def _known(figure: boot.Figure) -> boot.Figure | None:
    return figure if figure["n"] else None
