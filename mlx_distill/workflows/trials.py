"""Several runs of one recipe in one folder, each with settings of its own: all checked before the first is trained, then each trained and
judged by its answers to the validation rows. The test rows are not read here.

What is done is on the disk, and is not done again: a finished training by the run's own events, its answers by the adapter that gave them.
"""

from __future__ import annotations

import gc
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlx_distill.catalog import nearest
from mlx_distill.data import examples
from mlx_distill.errors import BackendError, DataError, DistillError, DoesNotFit, Interrupted, OutputError, RecipeError
from mlx_distill.evaluation import judge
from mlx_distill.evaluation.elsewhere.stored import read_predictions, write_rows
from mlx_distill.evaluation.judge import Judged
from mlx_distill.files import exclusive
from mlx_distill.observe.events import read_events
from mlx_distill.recipe.check import check as check_recipe
from mlx_distill.recipe.grid import Point
from mlx_distill.recipe.load import Loaded
from mlx_distill.recipe.lock import differences, resolved
from mlx_distill.recipe.problem import Problem, as_error
from mlx_distill.recipe.schema import Recipe
from mlx_distill.records import Example
from mlx_distill.task.prompt import load_tokenizer
from mlx_distill.training.run import Run
from mlx_distill.training.validation import LOSS
from mlx_distill.workflows.answered import Answering
from mlx_distill.workflows.bases import base_of_run
from mlx_distill.workflows.fit import fit
from mlx_distill.workflows.learning import learn
from mlx_distill.workflows.setting import Document, Setting, in_bytes
from mlx_distill.workflows.together import Together

FAILED = (DataError, DoesNotFit, BackendError)
"""What may befall one run and spare the next: a loss that is no number, a student too large. A wrong recipe befalls all."""


@dataclass(frozen=True, slots=True)
class Trial:
    point: Point
    recipe: Recipe


@dataclass(frozen=True, slots=True)
class Tried:
    """One run, trained and judged on its validation rows; or what it failed of."""

    trial: Trial
    run: Run
    rows: Sequence[Judged] = ()
    """With both answers, sorted by id."""
    trained: Mapping[str, Any] | None = None
    """The last event of its training."""
    data_sha256: str | None = None
    error: DistillError | None = None

    @property
    def name(self) -> str:
        return self.trial.point.name

    @property
    def valid_loss(self) -> float | None:
        return (self.trained or {}).get("valid_loss")

    def said(self) -> Document:
        """What a document says of it, but for figures."""
        error = self.error and {"kind": self.error.kind, "message": self.error.message, "hint": self.error.hint}
        told = {name: (self.trained or {}).get(name) for name in ("steps", "epochs", "seconds", "stopped", "valid_loss")}
        return {"name": self.name, "run": str(self.run.path), "settings": self.trial.point.settings, **told, "error": error}


def checked(setting: Setting, recipe: Path, sets: Sequence[str], points: Sequence[Point]) -> list[Trial]:
    """Every point as a recipe. Raises RecipeError with all that is wrong with any of them: shape, sense, and whether data and base fit."""
    loaded = [setting.load(recipe, [*sets, *point.sets]) for point in points]
    problems = list(dict.fromkeys(problem for one in loaded for problem in (*check_recipe(one), *_unjudged(one))))
    if not problems:
        problems = list(dict.fromkeys(problem for one in _unlike(loaded) for problem in fit(one, _recipe(one), 0)[1]))
    if problems:
        raise as_error(problems)
    return [Trial(point, _recipe(one)) for point, one in zip(points, loaded, strict=True)]


def _unjudged(loaded: Loaded) -> Iterator[Problem]:
    if loaded.recipe is not None and not loaded.recipe.data.split.valid:
        yield loaded.problem("data.split.valid", "there are no validation rows to choose by", "train: 0.8, valid: 0.1, test: 0.1")


def _unlike(loaded: Sequence[Loaded]) -> list[Loaded]:
    """Of those that read the same data and base in the same way one, that which takes the most rows."""
    first: dict[str, Loaded] = {}
    for one in sorted(loaded, key=lambda one: -_rows(_recipe(one))):
        doc = resolved(_recipe(one))
        doc["data"].pop("take", None)
        lora = {name: (doc.get("lora") or {}).get(name) for name in ("targets", "layers")}
        first.setdefault(json.dumps([doc[name] for name in ("task", "data", "base", "answer")] + [lora, doc["train"]["max_tokens"]]), one)
    return list(first.values())


def _rows(recipe: Recipe) -> int:
    return recipe.data.take.rows if recipe.data.take else 0


def _recipe(loaded: Loaded) -> Recipe:
    assert loaded.recipe is not None, "what cannot be built was refused"
    return loaded.recipe


def metric_of(recipe: Recipe, name: str | None) -> str:
    """The metric to choose by; None: the one that stands for the task. Raises RecipeError."""
    fields = recipe.task.fields
    legal = [one for one in judge.metric_names(fields, tiers=bool(recipe.task.tiers)) if judge.ranks(one)]
    if name is None:
        return judge.main_metric(fields, dict.fromkeys(legal)) or LOSS
    if name != LOSS and name not in legal:
        raise RecipeError(f"this task has no metric {name!r} to choose by", hint=nearest(name, [LOSS, *legal]))
    return name


def lower_is_better(metric: str) -> bool:
    return metric == LOSS or judge.lower_is_better(metric)


def begin(folder: Path, record: str, *, resume: bool) -> None:
    """Raises OutputError where `folder` is not ours to fill, or was begun and is not to be gone on with."""
    if folder.exists() and not folder.is_dir():
        raise OutputError("this is a file; the runs need a folder", file=folder, hint="name another --out")
    if (folder / record).is_file():
        if not resume:
            raise OutputError("it was begun already", file=folder, hint="--resume goes on with it; or name another --out")
    elif folder.is_dir() and (odd := sorted(path.name for path in folder.iterdir() if path.name[0] != ".")):
        raise OutputError(f"this folder holds something else ({odd[0]})", file=folder, hint="name a new or empty folder as --out")


def try_all(setting: Setting, trials: Sequence[Trial], folder: Path) -> Iterator[Tried]:
    """One after another, each as soon as it is judged. Raises Interrupted, everything saved, and DataError where the data changed."""
    data: dict[str | None, str] = {}
    for number, trial in enumerate(trials, start=1):
        setting.progress.say(f"run {number} of {len(trials)}: {trial.point.name}")
        tried = _tried(setting, trial, Run(folder / trial.point.name))
        if tried.error is None:
            data.setdefault(tried.data_sha256, tried.name)
        else:
            setting.progress.warn(f"  failed: {tried.error}")
        if len(data) > 1:
            names = " and ".join(data.values())
            raise DataError(f"the data changed between {names}", file=folder, hint="begin anew: name another --out")
        yield tried
        gc.collect()  # a student refers to itself: its memory is to be free before the next one is opened


def _tried(setting: Setting, trial: Trial, run: Run) -> Tried:
    try:
        trained = finished(run, trial.recipe) or _trained(setting, trial, run)
        rows, facts = _validated(setting, run)
        return Tried(trial, run, rows, trained, facts.get("data", {}).get("sha256"))
    except FAILED as error:
        return Tried(trial, run, error=error)


def finished(run: Run, recipe: Recipe) -> Mapping[str, Any] | None:
    """The last event of a training that is done, of this very recipe."""
    if not run.exists() or run.adapter_hash() is None or differences(run.open()[0], recipe):
        return None
    last = list(read_events(run.events))[-1:]
    return last[0] if last and last[0]["name"] == "trained" and last[0]["stopped"] != "interrupted" else None


def _trained(setting: Setting, trial: Trial, run: Run) -> Mapping[str, Any]:
    run.refuse_foreign()
    with Together(None) as together, exclusive(run.path):
        done = learn(setting, trial.recipe, run, None, together)
    if done["stopped"] == "interrupted":
        raise Interrupted(f"stopped in {trial.point.name} after step {done['steps']}; it is saved", hint="--resume goes on")
    if run.adapter_hash() is None:
        raise DataError("nothing was learned: no validation gave a loss that is a number", file=run.path, hint="lower train.learning_rate")
    return done


def _validated(setting: Setting, run: Run) -> tuple[list[Judged], Mapping[str, Any]]:
    """The validation rows with the kept adapter's answers, out of the run's folder where this very adapter has answered them before."""
    recipe, facts = run.open()
    path = run.path / f"validation-{str(run.adapter_hash())[:12]}.jsonl"
    if not path.is_file():
        rows = _answered(setting, run, recipe, facts)
        write_rows(path, rows)
    return sorted(read_predictions(path, recipe), key=lambda row: row.id), facts


def _answered(setting: Setting, run: Run, recipe: Recipe, facts: Mapping[str, Any]) -> list[Judged]:
    rows = _validation_rows(run, recipe, facts)
    backend = setting.choose(begun=run.backend())
    base = base_of_run(setting, run, recipe, facts, backend)
    student = backend.open(base, adapters={"run": run.adapter}, memory_limit=in_bytes(recipe.train.memory_limit))
    answering = Answering(recipe, student, load_tokenizer(base))
    with setting.progress.step("answer validation rows", total=len(rows), unit="rows") as bar:
        return list(answering.judged([(row, "valid") for row in rows], bar))


def _validation_rows(run: Run, recipe: Recipe, facts: Mapping[str, Any]) -> list[Example]:
    path = Path(recipe.data.source.path)
    loaded = examples.collect(recipe.task, recipe.data.source, path, missing=recipe.data.missing, max_bad_share=recipe.data.max_bad_share)
    if loaded.sha256 != facts.get("data", {}).get("sha256"):
        raise DataError("the data changed since the run was begun", file=path, hint="bring back the rows that it was trained on")
    wanted = set(run.split()["valid"])
    return [row for row in loaded.rows if row.id in wanted and row.labels]
