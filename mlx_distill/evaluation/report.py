"""The report as one document: report.json. `page` draws the same document for a person.

    build(rows, fields, name=..., ...)   everything that is known of a student's answers, with stable keys, as strict JSON

It composes what `judge` finds; it opens no file and runs no model.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from mlx_distill.evaluation import judge, remedies
from mlx_distill.evaluation.bootstrap import RESAMPLES
from mlx_distill.evaluation.distance import distance
from mlx_distill.evaluation.judge import Answer, Fields, Judged, Rubric
from mlx_distill.evaluation.metrics import CLOSED
from mlx_distill.evaluation.words import summary
from mlx_distill.recipe.schema import ReportSpec
from mlx_distill.task.fields import limits, nearest_value

VERSION = 2
WORST = ReportSpec().worst
TEXT_CHARS = 1200
"""A longer text is cut in the report: it is there to be recognised."""
JUDGED_PARTS = ("robustness", "fairness", "forgetting", "deferral", "calibration")
"""Those that may say `verdict: missed`, as a target does."""
HEADLINES = {"choice": "accuracy", "flag": "accuracy", "score": "mae", "list": "list_f1"}
"""The one metric that stands for a field of each kind. A text has none."""


def build(
    rows: Sequence[Judged],
    fields: Fields,
    *,
    name: str,
    run: str,
    report: str,
    targets: Mapping[str, float] | None = None,
    slices: Mapping[str, Sequence[str]] | None = None,
    bootstrap: int = RESAMPLES,
    seed: int = 0,
    baselines: Mapping[str, Mapping[str, Answer]] | None = None,
    rubric: Rubric | None = None,
    tiers: Sequence[str] = (),
    splits: Mapping[str, int] | None = None,
    curve: Sequence[Mapping[str, Any]] = (),
    training: Mapping[str, Any] | None = None,
    lineage: Mapping[str, Any] | None = None,
    learned: int | None = 0,
    notes: Sequence[str] = (),
    parts: Mapping[str, Any] | None = None,
    show: ReportSpec | None = None,
) -> dict[str, Any]:
    """report.json. `rows` are those to be judged (as a rule the test's), each with both answers.

    `run` and `report` are paths, as they are to be shown; `baselines` answers by name and id; `rubric` gives a baseline's overall and tier;
    `curve` and `training` as `curves` makes them of the events; `lineage` hashes, versions, seed, base, backend, times: any nested facts;
    `learned` how many of the rows may be among those that were learned from (None: nobody knows); `notes` what a reader should know of it;
    `tiers` the task's, from the lowest to the highest; `slices` the rows' values by the slice's name; `parts` what other modules found out,
    by their key (calibration, deferral, robustness, ...). A part may have a verdict of its own, which counts as a target does.
    Raises RecipeError for a target that is no metric of this task.
    """
    show = show or ReportSpec()
    judged = judge.judge(rows, fields, bootstrap=bootstrap, seed=seed, slices=slices or {}, tiers=tiers)
    reached, verdict = judge.verdict(judged["metrics"], targets or {}, judge.metric_names(fields, tiers=bool(tiers)))
    others = dict(parts or {})
    judged["production"] = {**judged.get("production", {}), **others.pop("production", {})}
    document = {
        "version": VERSION,
        "name": name,
        "run": run,
        "report": report,
        "rows": len(rows),
        "learned": learned,
        "splits": dict(splits or {}),
        "fields": {field: {"kind": spec.kind, "headline": headline(field, spec.kind), **_shape(spec)} for field, spec in fields.items()},
        "targets": reached,
        "verdict": verdict,
        **judged,
        "bootstrap": bootstrap,
        "baselines": _baselines(rows, fields, baselines or {}, rubric, bootstrap, seed, tiers),
        "texts": show.show_texts,
        "disagreements": disagreements(rows, fields, worst=show.worst, texts=show.show_texts),
        "curve": [dict(point) for point in curve],
        "training": dict(training or {}),
        "lineage": dict(lineage or {}),
        "notes": list(notes),
        **others,
    }
    document["verdict"] = _overall_verdict(verdict, document)
    document["remedies"] = remedies.remedies(document)
    document["summary"] = summary(document)
    found: dict[str, Any] = strict(document)
    return found


def headline(field: str, kind: str) -> str | None:
    return f"{HEADLINES[kind]}.{field}" if kind in HEADLINES else None


def _overall_verdict(verdict: str, document: Mapping[str, Any]) -> str:
    """Met, missed or none, the parts' own verdicts counted."""
    found = [verdict, *(part.get("verdict") for name in JUDGED_PARTS if (part := document.get(name)))]
    known = [word for word in found if word in ("met", "missed")]
    return "missed" if "missed" in known else "met" if known else "none"


def disagreements(rows: Sequence[Judged], fields: Fields, *, worst: int = WORST, texts: bool = True) -> list[dict[str, Any]]:
    """The rows that student and judge see most differently: every wrong field counts, more if the student was sure, or far off.

    `texts` False: without the rows' texts, and without what was written about them.
    """
    scored = sorted(((-_distance(row, fields), row.id, i) for i, row in enumerate(rows)), key=lambda item: item[:2])
    return [_disagreement(rows[i], fields, texts=texts) for cost, _, i in scored[:worst] if cost < 0]


def strict(value: Any) -> Any:
    """The same, as strict JSON has it: NaN and infinities are null, NumPy's numbers Python's, a lone surrogate U+FFFD."""
    if isinstance(value, Mapping):
        return {strict(str(key)): strict(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [strict(inner) for inner in value]
    if isinstance(value, str):
        return value if value.isascii() else value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if value is None or isinstance(value, (bool, int, float)) else str(value)


def _baselines(
    rows: Sequence[Judged],
    fields: Fields,
    baselines: Mapping[str, Mapping[str, Answer]],
    rubric: Rubric | None,
    bootstrap: int,
    seed: int,
    tiers: Sequence[str],
) -> dict[str, Any]:
    """On the closed fields that a baseline answers. Whether its JSON is valid says nothing, so that is left out."""
    found = {}
    for name, answers in baselines.items():
        answered = {field for answer in answers.values() for field in answer}
        closed = {field: spec for field, spec in fields.items() if spec.kind in CLOSED and field in answered}
        theirs = judge.against(rows, judge.answered_by(rows, answers, rubric), closed, bootstrap=bootstrap, seed=seed, tiers=tiers)
        for part in theirs.values():
            part.pop("valid_json", None)
        found[name] = theirs
    return found


def _shape(spec: Any) -> dict[str, Any]:
    if spec.kind == "score":
        low, high, step = limits(spec)
        return {"min": low, "max": high, "step": step, "weight": spec.weight}
    return {"choices": list(spec.choices)} if spec.choices else {}


def _distance(row: Judged, fields: Fields) -> float:
    """Sum over the fields the judge answered: 0 right, 1 wrong (2 if the student was certain); a score's error over its range, likewise."""
    total = 0.0
    for name, spec in fields.items():
        if name not in row.reference or spec.kind not in CLOSED:
            continue
        ours = None if row.answer is None else row.answer.get(name)
        total += distance(row.reference[name], ours, spec) * (1 + row.confidence.get(name, 0.0))
    return total


def _disagreement(row: Judged, fields: Fields, *, texts: bool) -> dict[str, Any]:
    def shown(answer: Answer) -> dict[str, Any]:
        return {name: value for name, value in answer.items() if texts or name not in fields or fields[name].kind in CLOSED}

    closed = {name: spec for name, spec in fields.items() if name in row.reference and spec.kind in CLOSED}
    wrong = [
        name
        for name, spec in closed.items()
        if distance(nearest_value(spec, row.reference[name]), (row.answer or {}).get(name), spec) > 1e-9
    ]
    return {
        "id": row.id,
        "text": None if not texts else row.text if len(row.text) <= TEXT_CHARS else row.text[:TEXT_CHARS] + " …",
        "reference": shown(row.reference),
        "answer": None if row.answer is None else shown(row.answer),
        "defer": row.defer,
        "confidence": dict(row.confidence),
        "wrong": wrong,
        "overall": {"reference": row.reference_overall, "answer": row.overall},
        "tier": {"reference": row.reference_tier, "answer": row.tier},
    }
