"""All that is found out about how sure a student's answers are, in the order that its promises need.

    confidence = learn(recipe, valid, calibrate)           maps, threshold and sets, each on the rows that it may be found on
    after = [judged(row, confidence, task) for row in rows]     rows as `infer` would give them
    documents(recipe, confidence, before, after)           `calibration`, `deferral` and `conformal` of report.json

Rows that chose the model may fit maps, for that promises nothing. What carries a promise (the threshold, the sets) is found on rows that
served for neither: those of data.split.calibrate.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from typing import Any

from mlx_distill.evaluation.sheet import Judged
from mlx_distill.evaluation.trust import calibration, conformal, deferral, selective
from mlx_distill.recipe.schema import Recipe, TaskSpec
from mlx_distill.records import Prediction
from mlx_distill.task.confidence import Confidence
from mlx_distill.task.decision import place
from mlx_distill.task.fields import values_of


def learn(recipe: Recipe, valid: Sequence[Judged], calibrate: Sequence[Judged], *, adapter_sha256: str | None = None) -> Confidence:
    """What the recipe asks for. Rows are as the student said them, uncalibrated; their order does not matter.

    `confidence.facts` tells how each part was found, for the report.
    """
    task = recipe.task
    fit, guarantee, split = rows_for(valid, calibrate, recipe)
    maps, facts = calibration.learned(task, fit, recipe.evaluate.calibrate, recipe.data.split.group_by)
    found = Confidence(fields=maps, adapter_sha256=adapter_sha256, facts={"calibration": {"split": split, "fields": facts}})
    if recipe.targets.defer is None and recipe.evaluate.coverage is None:
        return found
    fitted, tried = ([judged(row, found, task) for row in rows] for rows in (fit, guarantee))
    if recipe.targets.defer is not None:
        threshold, own = deferral.find(task, recipe.targets.defer, fitted, tried)
        found = dataclasses.replace(found, threshold=threshold, facts={**found.facts, "deferral": {"split": "calibrate", **own}})
    if recipe.evaluate.coverage is not None:
        sets, each = conformal.find(task, recipe.evaluate.coverage, fitted, tried)
        told = {**found.facts, "conformal": {"split": "calibrate", "fields": each}}
        found = dataclasses.replace(found, sets=sets, coverage=recipe.evaluate.coverage, facts=told)
    return found


def rows_for(valid: Sequence[Judged], calibrate: Sequence[Judged], recipe: Recipe) -> tuple[list[Judged], list[Judged], str]:
    """(rows that fit the maps, rows that promises are found on, what the first are called).

    Where a promise is asked for, maps are fitted on the validation rows, and without those on half of the calibrate rows, by the hash of
    their ids. Where none is, on the calibrate rows, and without those on the validation rows.
    """
    if recipe.targets.defer is None and recipe.evaluate.coverage is None:
        return (list(calibrate), [], "calibrate") if calibrate else (list(valid), [], "valid")
    if valid or not calibrate:
        return list(valid), list(calibrate), "valid"
    even = [hashlib.sha256(row.id.encode("utf-8", "surrogatepass")).digest()[0] % 2 == 0 for row in calibrate]
    fit, guarantee = ([row for row, own in zip(calibrate, even, strict=True) if own is side] for side in (True, False))
    return fit, guarantee, "half of calibrate"


def judged(row: Judged, confidence: Confidence, task: TaskSpec) -> Judged:
    """A row with what `confidence` makes of its answer. One that has been through it already, with `raw`, starts from that again."""
    if row.answer is None:
        return row
    said = {name: p[place(task.fields[name], values_of(task.fields[name]), row.answer[name])] for name, p in row.raw.items()}
    prediction = Prediction(row.id, row.answer, {**row.confidence, **said}, row.raw or row.probabilities, row.overall, row.tier)
    made = confidence.apply(task, prediction)
    return dataclasses.replace(
        row,
        confidence=made.confidence,
        probabilities=made.probabilities,
        raw=made.raw,
        sure=made.sure,
        defer=made.defer,
        sets=made.sets,
    )


def documents(recipe: Recipe, confidence: Confidence, before: Sequence[Judged], after: Sequence[Judged]) -> dict[str, Any]:
    """Of the test rows, as the student said them and as `judged` made them: by key of report.json, None where there is nothing to tell."""
    task = recipe.task
    most = {name.removeprefix("ece."): target for name, target in recipe.targets.metrics.items() if name.startswith("ece.")}
    settings = {"bootstrap": recipe.evaluate.bootstrap, "seed": recipe.train.seed}
    return {
        "calibration": calibration.document(task, confidence, before, after, most=most, **settings),
        "deferral": selective.document(task, confidence, after, recipe.data.split.group_by),
        "conformal": conformal.document(task, confidence, after),
    }
