"""A sweep: a run for every combination of settings, the best of them by a metric on the validation rows, and the test rows for it alone.

FOLDER/NAME=VALUE,.../   a Run each          sweep.json   sweep.html

A sweep that was stopped goes on: finished runs are kept, the one that was being trained goes on from its checkpoint. A run that fails, of a
learning rate too high say, is recorded and the next one is begun.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mlx_distill.errors import RecipeError
from mlx_distill.evaluation.choosing.ranking import Contestant, rank
from mlx_distill.evaluation.pages.leaflets import sweep as page
from mlx_distill.files import exclusive, write_json, write_text
from mlx_distill.recipe.grid import Grid
from mlx_distill.recipe.problem import Problem, as_error
from mlx_distill.task.fields import closed_values
from mlx_distill.training.run import Run
from mlx_distill.training.validation import LOSS
from mlx_distill.workflows import evaluate
from mlx_distill.workflows.reported import reported
from mlx_distill.workflows.setting import Document, Setting
from mlx_distill.workflows.trials import Trial, Tried, begin, checked, lower_is_better, metric_of, try_all

RECORD, PAGE = "sweep.json", "sweep.html"
ROWS = ("data.source", "data.split", "data.missing", "data.max_bad_share")
"""Settings that decide which rows there are: with another one, validation rows are others."""
JUDGING = ("evaluate", "robustness", "fairness", "forgetting", "report", "targets", "name")
"""Settings of which nothing that is learned depends."""


def sweep(
    setting: Setting, recipe: Path, over: Sequence[str], folder: Path, sets: Sequence[str], *, metric: str | None, resume: bool
) -> Document:
    """Raises RecipeError, before anything is trained, with all that is wrong with any combination; Interrupted, with everything saved."""
    grid, problems = Grid.of(over)
    problems += _senseless(grid)
    if problems:
        raise as_error(problems)
    with exclusive(folder):
        begin(folder, RECORD, resume=resume)
        trials = checked(setting, recipe, sets, grid.points())
        _require_one_question(trials)
        chosen = metric_of(trials[0].recipe, metric)
        tested = _tested_before(folder)
        tried: list[Tried] = []
        _write(folder, _document(folder, grid, trials, tried, chosen, tested))
        for one in try_all(setting, trials, folder):
            tried.append(one)
            _write(folder, _document(folder, grid, trials, tried, chosen, tested))
        document = _document(folder, grid, trials, tried, chosen, tested)
        document = _judged(setting, folder, trials, document)
        write_text(folder / PAGE, page.render(document))
    return document


def _senseless(grid: Grid) -> Iterator[Problem]:
    """Keys over which runs cannot be compared, or would not differ."""
    for key in grid.over:
        file = f"--over {key}"
        if key.startswith(tuple(f"{name}." for name in ROWS)) or key in ROWS:
            yield Problem(
                file, None, key, "the runs would be judged on different rows", "run each recipe, then: mlx-distill compare RUN RUN"
            )
        elif key.partition(".")[0] in JUDGING:
            yield Problem(
                file, None, key, "the runs would learn the same", "sweep what is learned, or how: lora., train., base., data.balance"
            )


def _require_one_question(trials: Sequence[Trial]) -> None:
    """Raises RecipeError where the runs do not answer the same fields with the same values."""
    shapes = {
        json.dumps({name: [spec.kind, closed_values(spec)] for name, spec in trial.recipe.task.fields.items()}, sort_keys=True): trial
        for trial in trials
    }
    if len(shapes) > 1:
        names = " and ".join(trial.point.name for trial in list(shapes.values())[:2])
        raise RecipeError(f"{names} have different fields, so no metric compares them", hint="run each, then: mlx-distill compare RUN RUN")


def _document(
    folder: Path, grid: Grid, trials: Sequence[Trial], tried: Sequence[Tried], metric: str, tested: Sequence[Mapping[str, Any]]
) -> Document:
    """What is known so far; runs best first, then those that failed, then those that wait."""
    recipe = trials[0].recipe
    good = [Contestant(one.name, one.rows, one.valid_loss) for one in tried if one.error is None]
    by = None if metric == LOSS else metric
    ranked = rank(
        good, by, recipe.task.fields, tiers=recipe.task.tiers_upwards, bootstrap=recipe.evaluate.bootstrap, seed=recipe.train.seed
    )
    order = {name: place for place, name in enumerate(ranked["order"])}
    done = {one.name: one for one in tried}
    runs = [
        {
            **done.get(trial.point.name, Tried(trial, Run(folder / trial.point.name))).said(),
            "figure": ranked["figures"].get(trial.point.name),
            "behind": ranked["behind"].get(trial.point.name),
        }
        for trial in trials
    ]
    runs.sort(key=lambda run: (order.get(run["name"], len(order)), run["error"] is None and run["figure"] is None))
    return {
        "sweep": str(folder),
        "name": recipe.name,
        "over": {key: list(values) for key, values in grid.over.items()},
        "metric": metric,
        "better": "lower" if lower_is_better(metric) else "higher",
        "rows": len(good[0].rows) if good else None,
        "runs": runs,
        "best": ranked["order"][0] if ranked["order"] and len(tried) == len(trials) else None,
        "ties": ranked["ties"],
        "failed": sum(one.error is not None for one in tried),
        "tested": list(tested),
        "test": None,
        "report": None,
        "verdict": "none",
    }


def _judged(setting: Setting, folder: Path, trials: Sequence[Trial], document: Document) -> Document:
    """The winner on the test rows. That they are read is written down before they are."""
    if document["best"] is not None:
        trial = next(trial for trial in trials if trial.point.name == document["best"])
        run = Run(folder / trial.point.name)
        if trial.recipe.data.split.test:
            entry = {"name": trial.point.name, "adapter_sha256": run.adapter_hash()}
            document["tested"] += [entry] if entry not in document["tested"] else []
            _write(folder, document)
            report = reported(run, trial.recipe) or evaluate(setting, run.path)
            document |= {"test": {"metrics": report["metrics"], "targets": report["targets"]}, "report": report["report"]}
            document["verdict"] = report["verdict"]
    document["summary"] = page.sentences(document)
    _write(folder, document)
    return document


def _tested_before(folder: Path) -> list[dict[str, Any]]:
    """Adapters for which the test rows were read already. A record that cannot be read was torn by nobody of us: it is atomic."""
    path = folder / RECORD
    return list(json.loads(path.read_text(encoding="utf-8")).get("tested", [])) if path.is_file() else []


def _write(folder: Path, document: Document) -> None:
    write_json(folder / RECORD, document)
