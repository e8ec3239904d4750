"""The ceiling: how far the judge agrees with itself, or raters with each other; and how much of that the student reaches.

Nobody can agree with a judge better than the judge does. Where it was asked again, the same rows give both figures: its second answers
against its first, and the student's against its first. Where several people rated a row, the one to compare with is a rater:

    rater     each rater against what the OTHERS say: their majority, of scores their mean
    student   the student against the very same

and not a rater against the label, where the label is what the raters said in majority: that rater's own voice is in it. Three raters who
toss coins each agree with their majority in 75 % of the rows and with anybody else's coin in 50 %; a student measured against that
majority would have to beat a ceiling that no outsider can reach. Rows on which the others are divided evenly say nothing, and are counted.

    ceiling(rows, fields, ...)      the figures
    raters_of(task, record)         the raters' labels in a row's record
    again_of(task, record)          the judge's second answer in the record of another source

`share` is the student's figure over the judge's, or of errors the judge's over the student's: 1 is as good as the judge itself. It comes
from the same resamples for both. This knows rows and fields; no file and no model.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from mlx_distill.evaluation import agreement
from mlx_distill.evaluation import bootstrap as boot
from mlx_distill.evaluation.judge import Rubric
from mlx_distill.evaluation.metrics import CLOSED, LABELS, AnyTally, Floats
from mlx_distill.evaluation.naming import lower_is_better, measure, parts
from mlx_distill.evaluation.sheet import Fields, Judged, lay_out
from mlx_distill.recipe.schema import FieldSpec, TaskSpec
from mlx_distill.records import Value
from mlx_distill.task.fields import ABSENT, closed_values, follow, label_of, lookup, missing_values

FAMILIES = (
    "accuracy", "cohen_kappa", "macro_f1", "exact", "mae", "dimension_mae", "kappa", "spearman", "list_f1",
    "overall_mae", "overall_within_1.0", "tier_agreement", "tier_kappa",
)  # fmt: skip
"""Metrics that say how far two answers agree."""
ICC = "icc"
"""Beside them, of a score: ICC(A,1), that is Shrout and Fleiss' ICC(2,1)."""

Tallies = Mapping[str, AnyTally]
Records = Sequence[Mapping[str, Any]]


def ceiling(
    rows: Sequence[Judged], fields: Fields, *, bootstrap: int, seed: int, rubric: Rubric | None = None, tiers: Sequence[str] = ()
) -> dict[str, Any] | None:
    """`again` {n, metrics: {name: {judge, student, share}}}, and by field `raters`; None where nobody was asked twice.

    `metrics` has them together: the judge's own, and where it was not asked again, a rater's.
    `rubric` gives the overall and the tier of the judge's second answers, `tiers` their order, from the lowest.
    """
    rows = sorted(rows, key=lambda row: row.id)  # resamples go by place
    drawing = {"bootstrap": bootstrap, "seed": seed}
    again = _again([row for row in rows if row.again], fields, rubric, tiers, drawing)
    rated = {name: _rated(rows, name, spec, drawing) for name, spec in fields.items()}
    raters = {name: found for name, found in rated.items() if found is not None}
    if again is None and not raters:
        return None
    metrics = {name: sides for found in raters.values() for name, sides in found["others"].items()} | (again or {"metrics": {}})["metrics"]
    return {"metrics": metrics, "again": again, "raters": raters}


# from records


def raters_of(task: TaskSpec, record: Mapping[str, Any], missing: Sequence[str] = ()) -> dict[str, list[Value | None]]:
    """The raters' labels by field, in the order of `raters`; None where a column is empty, or holds what the field cannot take."""
    absent = missing_values(missing)
    return {
        name: [_read(spec, follow(record, column), absent) for column in spec.raters] for name, spec in task.fields.items() if spec.raters
    }


def again_of(task: TaskSpec, record: Mapping[str, Any], missing: Sequence[str] = ()) -> dict[str, Value]:
    """The judge's second answer, its columns those of the first; a field that is empty, or cannot be read, is absent."""
    absent = missing_values(missing)
    found = {name: _read(spec, lookup(name, spec, record), absent) for name, spec in task.fields.items()}
    return {name: value for name, value in found.items() if value is not None}


def remarks(task: TaskSpec, records: Records, again: Records = (), missing: Sequence[str] = (), *, texts: bool = True) -> list[str]:
    """What of the raters' labels, and of the second answers, could not be read, in sentences. `texts` False: without quoting any."""
    absent = missing_values(missing)
    unread: Counter[tuple[str, str]] = Counter()
    first: dict[tuple[str, str], str] = {}
    for whose, reasons in (
        ("raters' labels", (found for record in records for found in _unread_raters(task, record, absent))),
        ("second answers", (found for record in again for found in _unread_again(task, record, absent))),
    ):
        for name, reason in reasons:
            unread[whose, name] += 1
            first.setdefault((whose, name), reason)
    quoted = {key: f"; the first: {reason}" if texts else "" for key, reason in first.items()}
    return [f"{n} of the {whose} in {name} cannot be read{quoted[whose, name]}." for (whose, name), n in unread.items()]


def _unread_raters(task: TaskSpec, record: Mapping[str, Any], absent: frozenset[str]) -> Iterator[tuple[str, str]]:
    for spec in task.fields.values():
        for column in spec.raters or ():
            if (reason := _refusal(spec, follow(record, column), absent)) is not None:
                yield column, reason


def _unread_again(task: TaskSpec, record: Mapping[str, Any], absent: frozenset[str]) -> Iterator[tuple[str, str]]:
    for name, spec in task.fields.items():
        if (reason := _refusal(spec, lookup(name, spec, record), absent)) is not None:
            yield name, reason


def _read(spec: FieldSpec, raw: Any, absent: frozenset[str]) -> Value | None:
    try:
        return None if raw is ABSENT else label_of(spec, raw, absent)
    except ValueError:
        return None


def _refusal(spec: FieldSpec, raw: Any, absent: frozenset[str]) -> str | None:
    try:
        label_of(spec, raw, absent)
    except ValueError as error:
        return str(error)
    return None


# the judge, asked again


def _again(
    rows: Sequence[Judged], fields: Fields, rubric: Rubric | None, tiers: Sequence[str], drawing: Mapping[str, int]
) -> dict[str, Any] | None:
    """On the fields that both answers have."""
    if not rows:
        return None
    pairs = [_pair(row, rubric) for row in rows]
    judge, student = (_tallies([pair[side] for pair in pairs], fields, tiers) for side in (0, 1))
    return {"n": len(rows), "metrics": _compared([judge], [student], drawing)}


def _pair(row: Judged, rubric: Rubric | None) -> tuple[Judged, Judged]:
    """The first answer with the second beside it, and with the student's."""
    first = {name: value for name, value in row.reference.items() if name in row.again}
    overall, tier = rubric(row.id, row.again) if rubric else (None, None)
    known = {
        "reference_overall": None if overall is None else row.reference_overall,
        "reference_tier": None if tier is None else row.reference_tier,
    }
    judge = Judged(id=row.id, split=row.split, reference=first, answer=row.again, overall=overall, tier=tier, **known)  # type: ignore[arg-type]
    student = Judged(id=row.id, split=row.split, reference=first, answer=row.answer, overall=row.overall, tier=row.tier, **known)  # type: ignore[arg-type]
    return judge, student


# several raters


def _rated(rows: Sequence[Judged], name: str, spec: FieldSpec, drawing: Mapping[str, int]) -> dict[str, Any] | None:
    """All that the raters of one field tell. With one rater beside the label the two of them are the pair to be compared."""
    number = max((len(row.raters.get(name, ())) for row in rows), default=0)
    if not any(value is not None for row in rows for value in row.raters.get(name, ())):
        return None
    columns = [[row.raters[name][i] if i < len(row.raters.get(name, ())) else None for row in rows] for i in range(number)]
    labels = [row.reference.get(name) for row in rows]
    judges = [_held(rows, name, spec, labels, own) for own in columns]
    found = {
        "kind": spec.kind,
        "raters": list(spec.raters or (f"rater {i + 1}" for i in range(number))),
        "n": sum(any(value is not None for value in ratings) for ratings in zip(*columns, strict=True)),
        "label": _figures_of_each(judges, drawing),
    }
    if number == 1 or spec.kind not in CLOSED:
        students = [_held(rows, name, spec, labels, own, student=True) for own in columns]
        return found | {"agreement": {}, "compared": None, "divided": 0, "others": _compared(judges, students, drawing)}
    return found | _among(rows, name, spec, columns, drawing)


def _among(
    rows: Sequence[Judged], name: str, spec: FieldSpec, columns: Sequence[Sequence[Value | None]], drawing: Mapping[str, int]
) -> dict[str, Any]:
    """How far raters agree with each other, and each with the others, beside the student.

    `compared`: how often a rater could be held against others, over all raters; `divided`: how often of that these were divided evenly.
    """
    ratings = np.array([_codes(own, spec) for own in columns]).T
    judges, students, compared, divided = [], [], 0, 0
    for i, own in enumerate(columns):
        others = list(zip(*(other for j, other in enumerate(columns) if j != i), strict=True))
        said = [_consensus([value for value in row if value is not None], spec) for row in others]
        rated = [value is not None and any(other is not None for other in row) for value, row in zip(own, others, strict=True)]
        compared += sum(rated)
        divided += sum(here and one is None for here, one in zip(rated, said, strict=True))
        judges.append(_held(rows, name, spec, said, own))
        students.append(_held(rows, name, spec, said, own, student=True))
    return {
        "agreement": boot.figures(_agreement(ratings, spec), **drawing),
        "compared": compared,
        "divided": divided,
        "others": _compared(judges, students, drawing),
    }


def _agreement(ratings: Floats, spec: FieldSpec) -> Tallies:
    names = spec.kind in LABELS
    found = {"pairwise": agreement.pairwise(ratings, names=names), "alpha": agreement.alpha(ratings, names=names)}
    if names:
        found |= {"fleiss_kappa": agreement.fleiss_kappa(ratings)} if ratings.shape[1] > 2 else {}
    else:
        found |= {f"icc_{kind.lower()}": agreement.icc(ratings, kind) for kind in ("A1", "C1", "Ak")}
    return {name: tally for name, tally in found.items() if tally.n}


def _codes(values: Sequence[Value | None], spec: FieldSpec) -> list[float]:
    if spec.kind == "score":
        return [np.nan if value is None else float(value) for value in values]  # type: ignore[arg-type]
    places = {value: float(i) for i, value in enumerate(closed_values(spec) or [])}
    return [np.nan if value is None else places[value] for value in values]


def _consensus(values: Sequence[Value], spec: FieldSpec) -> Value | None:
    """The majority of names, None where there is none; the mean of scores."""
    if not values:
        return None
    if spec.kind == "score":
        return sum(map(float, values)) / len(values)  # type: ignore[arg-type]
    (first, n), *rest = Counter(values).most_common(2)
    return None if rest and rest[0][1] == n else first


def _held(
    rows: Sequence[Judged],
    name: str,
    spec: FieldSpec,
    said: Sequence[Value | None],
    rater: Sequence[Value | None],
    *,
    student: bool = False,
) -> Tallies:
    """One rater, or the student, against what is `said`: on the rows that have both what is said and the rater's label."""
    made = []
    for row, one, own in zip(rows, said, rater, strict=True):
        reference = {} if one is None or own is None else {name: one}
        answer = row.answer if student else {} if own is None else {name: own}
        made.append(Judged(id=row.id, split=row.split, reference=reference, answer=answer))
    return _tallies(made, {name: spec})


# figures


def _tallies(rows: Sequence[Judged], fields: Fields, tiers: Sequence[str] = ()) -> dict[str, AnyTally]:
    """The metrics of agreement; of a task with one field those of that field alone, which say the same."""
    sheet = lay_out(rows, fields, tiers)
    found = {name: tally for name, tally in measure(sheet).items() if parts(name)[0] in FAMILIES}
    for name, column in sheet.of_kind("score").items():
        found[f"{ICC}.{name}"] = agreement.icc(np.stack([column.reference, column.answer], axis=1), "A1")
    if len(fields) == 1:
        found = {
            name: tally for name, tally in found.items() if parts(name)[1] is not None or parts(name)[0].startswith(("overall", "tier"))
        }
    return {name: tally for name, tally in found.items() if tally.n}


def _figures_of_each(many: Sequence[Tallies], drawing: Mapping[str, int]) -> list[dict[str, boot.Figure]]:
    """Of several raters, drawn together."""
    found = boot.figures({f"{i} {name}": tally for i, one in enumerate(many) for name, tally in one.items()}, **drawing)
    return [{name: found[f"{i} {name}"] for name in one} for i, one in enumerate(many)]


def _compared(judges: Sequence[Tallies], students: Sequence[Tallies], drawing: Mapping[str, int]) -> dict[str, dict[str, boot.Figure]]:
    """{metric: {judge, student, share}}; of several judges the mean of each one's figure, and of the student's beside it."""
    shared = [name for name in judges[0] if all(name in side for side in (*judges, *students))]
    sides = {"judge": judges, "student": students}
    drawn = boot.resample(
        {f"{side} {i} {name}": one[name] for side, many in sides.items() for i, one in enumerate(many) for name in shared}, **drawing
    )
    found = {}
    for name in shared:
        n = int(np.any([tallies[name].counted for tallies in judges], axis=0).sum())
        value = {side: float(np.mean([one[name].total() for one in many])) for side, many in sides.items()}
        samples = {side: np.mean([drawn[f"{side} {i} {name}"] for i in range(len(many))], axis=0) for side, many in sides.items()}
        figures = {side: boot.figure(value[side], samples[side], n) for side in sides}
        share = _share(name, np.array(value["judge"]), np.array(value["student"]))
        figures["share"] = boot.figure(float(share), _share(name, samples["judge"], samples["student"]), n)
        found[name] = figures
    return found


def _share(name: str, judge: Floats, student: Floats) -> Floats:
    """Of an agreement the student's over the judge's, of an error the judge's over the student's; NaN where that is no share."""
    part, whole = (judge, student) if not name.startswith(f"{ICC}.") and lower_is_better(name) else (student, judge)
    return np.asarray(np.divide(part, whole, out=np.full(np.shape(part), np.nan), where=np.asarray(whole) > 0))
