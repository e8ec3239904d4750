"""Answers made elsewhere, judged without any model: another model's, a cloud judge's, a table with both sides in it.

Rows come from one file, labels from it too, or from the recipe's data by id; the report goes into a folder of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mlx_distill.data import examples
from mlx_distill.data.examples import listed
from mlx_distill.data.read import read
from mlx_distill.data.sources import STANDARD_INPUT, SourceRow
from mlx_distill.errors import DataError, OutputError
from mlx_distill.evaluation import report, slices
from mlx_distill.evaluation.ceiling import ceiling, remarks
from mlx_distill.evaluation.elsewhere.columns import Columns
from mlx_distill.evaluation.elsewhere.outside import TEST, Read, Reader
from mlx_distill.evaluation.elsewhere.stored import write_rows
from mlx_distill.evaluation.pages import page
from mlx_distill.evaluation.sheet import Answer, Judged
from mlx_distill.evaluation.trust import assurance
from mlx_distill.files import exclusive, sha256, write_json, write_text
from mlx_distill.recipe.check import require_criteria
from mlx_distill.recipe.lock import recipe_hash
from mlx_distill.recipe.schema import FieldSpec, Recipe, SourceSpec
from mlx_distill.records import BadRow, Example
from mlx_distill.task import rubric
from mlx_distill.training.run import Run
from mlx_distill.workflows.again import second_answers
from mlx_distill.workflows.inferring import source_of
from mlx_distill.workflows.setting import Document, Setting

FILES = ("report.json", "report.html", "predictions.jsonl")
FOUND_ON = ("valid", "calibrate")
"""Splits of rows that maps and promises are found on."""
PEEKED = 100
"""Rows that are asked which columns there are."""


def judge(
    setting: Setting,
    file: Path,
    task: Path,
    sets: Sequence[str] = (),
    *,
    columns: str = "",
    out: Path | None = None,
    delimiter: str | None = None,
) -> Document:
    """report.json, report.html and predictions.jsonl of the answers in `file`. Raises DistillError.

    `out`: the folder that they go into (default: one beside the file, of its name).
    `task` is a recipe; of it only the task and what answers are judged by has to be there.
    """
    recipe, where = require_criteria(setting.load(task, sets)), Columns.parse(columns)
    place = _place(file, out)
    with setting.progress.step("read", unit="rows") as step:
        found, notes, data_sha256 = _read(recipe, file, where, delimiter)
        step.advance(len(found.rows))
    with exclusive(place), setting.progress.step("report"):
        lineage = _lineage(recipe, file, data_sha256)
        found.rows, assured, more = _assured(recipe, found.rows)
        notes += more
        document = _report(recipe, found, assured, where, [*notes, *found.remarks(texts=recipe.report.show_texts)], file, place, lineage)
        write_rows(place / FILES[2], found.rows)
        write_text(place / FILES[1], page.render(document))
        write_json(place / FILES[0], document)
    setting.progress.say("\n".join([*(f"note: {note}" for note in document["notes"]), *map(str, document["summary"])]))
    return document


def _place(file: Path, out: Path | None) -> Path:
    """The folder of the report. Raises DistillError where there is nothing to read, or the report would overwrite what it is not."""
    if file == STANDARD_INPUT:
        raise DataError("answers are read from a file, not from standard input", hint="write them to answers.jsonl, and name that")
    if file.is_dir():
        raise DataError("this is a folder, and answers stand in a file", file=file, hint=f"--predictions {file / 'predictions.jsonl'}")
    place = file.with_name(f"{file.name.partition('.')[0] or file.name}.report") if out is None else out
    if Run(place).exists():
        hint = "name a folder of its own with --out"
        raise OutputError("this is a run, whose report is about its own student", file=place, hint=hint)
    if place.exists() and not place.is_dir():
        raise OutputError("a file stands where the folder of the report is to be", file=place, hint="name another with --out")
    if any((place / name).exists() and file.exists() and (place / name).samefile(file) for name in FILES):
        raise OutputError("the report would overwrite the answers", file=file, hint="name another folder with --out")
    return place


def _read(recipe: Recipe, file: Path, columns: Columns, delimiter: str | None) -> tuple[Read, list[str], str | None]:
    """The rows, remarks on them, and the hash of the recipe's data where labels came from there."""
    rows = list(read(source_of(file, recipe, delimiter), file))
    records = [row.record for row in rows if isinstance(row, SourceRow)]
    if not records:
        raise DataError("there is no row to judge in it", file=file, hint="; ".join(listed(_bad(rows), file)[:1]) or "a header alone?")
    columns.require({name: value for record in records[PEEKED::-1] for name, value in record.items()}, recipe.task, str(file))
    labelled, notes, data_sha256 = _labelled(recipe, records, columns, file)
    found = Reader(recipe.task, columns, missing=recipe.data.missing, labelled=labelled).rows(rows)
    if len(found.bad) > recipe.data.max_bad_share * len(rows):
        raise examples.too_many(found.bad, len(rows), recipe.data.max_bad_share, file)
    if not found.rows:
        hint = f"labels come from {columns.reference!r}, or by id from the recipe's data; the first id here is {found.unlabelled[0]!r}"
        raise DataError("no row has a label to be judged by", file=file, hint=hint)
    again, texts = second_answers(recipe, columns.id), recipe.report.show_texts
    found.rows = [replace(row, again=again.answers.get(row.id, {})) for row in found.rows]
    seconds = list(again.records.values())
    notes += [*again.remarks(), *remarks(recipe.task, [row.record for row in found.rows], seconds, recipe.data.missing, texts=texts)]
    return found, notes, data_sha256


def _bad(rows: Iterable[SourceRow | BadRow]) -> list[BadRow]:
    return [row for row in rows if isinstance(row, BadRow)]


def _labelled(
    recipe: Recipe, records: Sequence[Mapping[str, Any]], columns: Columns, file: Path
) -> tuple[dict[str, Example], list[str], str | None]:
    """The recipe's own rows by id: needed where a record has no labels, wanted where slices, raters or caps may name columns of theirs."""
    alone = Reader(recipe.task, columns, missing=recipe.data.missing)
    needed = not all(map(alone.has_labels, records))
    source, task = recipe.data.source, recipe.task
    if not source.path:
        if needed and not any(map(alone.has_labels, records)):
            hint = "name their column, --columns 'reference=oracle_{field}', or give the recipe its data"
            raise DataError(
                f"rows have no labels in {columns.reference!r}, and the recipe has no data to take them from", file=file, hint=hint
            )
        return {}, [], None
    asked = recipe.evaluate.slices or task.caps or any(spec.raters for spec in task.fields.values())
    if not needed and not asked:
        return {}, [], None
    try:
        loaded = _collect(recipe, source)
    except DataError as error:
        if needed:
            raise
        why = f": {error.message}" if recipe.report.show_texts else ""  # it may quote bad rows
        return {}, [f"The recipe's data were not read, so its columns are not known{why}."], None
    return {row.id: row for row in loaded.rows}, [], loaded.sha256


def _collect(recipe: Recipe, source: SourceSpec) -> examples.Examples:
    return examples.collect(recipe.task, source, Path(source.path), missing=recipe.data.missing, max_bad_share=recipe.data.max_bad_share)


def _report(
    recipe: Recipe,
    found: Read,
    parts: Mapping[str, Any],
    columns: Columns,
    notes: Sequence[str],
    file: Path,
    place: Path,
    lineage: Mapping[str, Any],
) -> Document:
    """Of the test rows; where the lines name no split, all are."""
    fields, left_out = _judged_fields(recipe, found, columns, file)
    rows = _tested(recipe, found.rows)
    records, tiers = {row.id: row.record for row in rows}, recipe.task.tiers_upwards
    bootstrap, seed = recipe.evaluate.bootstrap, recipe.train.seed

    def assess(name: str, answer: Answer) -> tuple[float | None, str | None]:
        return rubric.assess(recipe.task, answer, records[name])

    document = report.build(
        rows,
        fields,
        name=recipe.name,
        run=str(file),
        report=str(place / FILES[1]),
        targets=recipe.targets.metrics,
        slices={name: slices.values(name, rows, recipe.task.fields) for name in recipe.evaluate.slices},
        bootstrap=bootstrap,
        seed=seed,
        rubric=assess,
        tiers=tiers,
        splits={TEST: len(rows)},
        learned=None,
        lineage=lineage,
        notes=[*notes, *left_out],
        parts={**parts, "ceiling": ceiling(rows, fields, bootstrap=bootstrap, seed=seed, rubric=assess, tiers=tiers)},
        show=recipe.report,
    )
    return {**document, "remedies": []}  # they are about a training, and nothing was trained here


def _judged_fields(recipe: Recipe, found: Read, columns: Columns, file: Path) -> tuple[dict[str, FieldSpec], list[str]]:
    """The fields that answers were given for. A column that is not there was not asked for; a field that objects lack was not answered."""
    whole = columns.of("answer", recipe.task) == [columns.answer]
    kept = {
        name: spec
        for name, spec in recipe.task.fields.items()
        if name in found.seen or (whole and spec.kind in ("score", "choice", "flag"))
    }
    out = [name for name in recipe.task.fields if name not in kept]
    needed = [name for name in out if recipe.task.fields[name].weight is not None or recipe.task.fields[name].gate is not None]
    if needed:
        hint = f"the overall is made of {', '.join(needed)}: name its column with --columns, or take its weight and gate out of the task"
        raise DataError(f"no row has an answer to {', '.join(needed)}", file=file, hint=hint)
    return kept, [f"Not judged, for no row has an answer to it: {', '.join(out)}."] if out else []


def _promises(recipe: Recipe) -> bool:
    return recipe.targets.defer is not None or recipe.evaluate.coverage is not None


def _tested(recipe: Recipe, rows: Sequence[Judged]) -> list[Judged]:
    """The test rows; where the lines name no split, all are. What a promise was found on is never what it is tested on."""
    test = [row for row in rows if row.split == TEST]
    return test or [row for row in rows if not (_promises(recipe) and row.split in FOUND_ON)]


def _assured(recipe: Recipe, rows: Sequence[Judged]) -> tuple[list[Judged], Document, list[str]]:
    """All rows, with a threshold or sets where the recipe asks for them and the file has rows to find them on; what came of it; remarks.

    Raises DataError where a row would serve for a promise and for its test.
    """
    if not _promises(recipe):
        return list(rows), {}, []
    _require_apart(rows)
    parts = {name: [row for row in rows if row.split == name] for name in FOUND_ON}
    what = "threshold" if recipe.targets.defer is not None else "sets"
    if not any(row.probabilities or row.confidence for row in parts["calibrate"]):
        return list(rows), {}, [f"There is no {what}: found on rows of the split `calibrate` with probabilities, and the file has none."]
    confidence = assurance.learn(recipe, parts["valid"], parts["calibrate"])
    after = [assurance.judged(row, confidence, recipe.task) for row in rows]
    before, tested = _tested(recipe, rows), _tested(recipe, after)
    untested = [] if tested else ["There is no row of the split `test`: what was promised is not tested."]
    return after, assurance.documents(recipe, confidence, before, tested), untested


def _require_apart(rows: Sequence[Judged]) -> None:
    seen: dict[str, str] = {}
    for row in rows:
        if (other := seen.setdefault(row.id, row.split)) != row.split:
            hint = "a promise is worth nothing on the rows that it was found on: give each row one split"
            raise DataError(f"the row {row.id!r} is of the split {other} and of {row.split}", hint=hint)


def _lineage(recipe: Recipe, file: Path, data_sha256: str | None) -> dict[str, Any]:
    found = {"answers": str(file), "answers_sha256": sha256(file), "recipe_sha256": recipe_hash(recipe)}
    found |= {"data_sha256": data_sha256} if data_sha256 else {}
    return found | {"reported": datetime.now(UTC).isoformat(timespec="seconds")}
