"""A learning curve: the same recipe trained on more and more of its rows, each run judged on the same validation rows.

FOLDER/labels=N,seed=S/   a Run each          learning-curve.json   learning-curve.html

Of one seed, the rows of a smaller run are among those of a larger one; a seed draws the rows and the training alike. The test rows are not
read: a curve takes many looks, and they are for one. It goes on after a stop as a sweep does.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mlx_distill.errors import RecipeError
from mlx_distill.evaluation import judge
from mlx_distill.evaluation.choosing.learning_curve import LEAST, RECORD, Trained, curve
from mlx_distill.evaluation.pages.leaflets import learning_curve as page
from mlx_distill.files import exclusive, write_json, write_text
from mlx_distill.recipe.grid import Point
from mlx_distill.training.run import Run
from mlx_distill.training.validation import LOSS
from mlx_distill.workflows.setting import Document, Setting
from mlx_distill.workflows.trials import Trial, Tried, begin, checked, lower_is_better, metric_of, try_all

PAGE = "learning-curve.html"


def learning_curve(
    setting: Setting,
    recipe: Path,
    sizes: Sequence[int],
    folder: Path,
    sets: Sequence[str],
    *,
    seeds: int = 1,
    metric: str | None = None,
    resume: bool = False,
) -> Document:
    """Raises RecipeError before anything is trained; Interrupted, with everything saved."""
    _require_sizes(sizes)
    points = [_point(size, seed) for size in sorted(sizes) for seed in range(seeds)]
    with exclusive(folder):
        begin(folder, RECORD, resume=resume)
        trials = checked(setting, recipe, sets, points)
        chosen = metric_of(trials[0].recipe, metric)
        if chosen != LOSS and judge.best_at_zero(chosen):
            raise RecipeError(
                f"{chosen} is best at 0 and may be on either side of it: no law has its errors", hint="--metric mae.FIELD, say"
            )
        tried: list[Tried] = []
        write_json(folder / RECORD, _document(folder, trials, tried, chosen))
        for one in try_all(setting, trials, folder):
            tried.append(one)
            write_json(folder / RECORD, _document(folder, trials, tried, chosen))
        document = _document(folder, trials, tried, chosen)
        document["words"] = page.sentences(document)
        write_json(folder / RECORD, document)
        write_text(folder / PAGE, page.render(document))
    return document


def _require_sizes(sizes: Sequence[int]) -> None:
    if twice := sorted({size for size in sizes if sizes.count(size) > 1}):
        raise RecipeError(f"--sizes has {twice[0]} twice", hint="several runs of one size: --seeds 3")
    if len(sizes) < LEAST:
        raise RecipeError(f"--sizes names {len(sizes)}: a curve takes {LEAST} sizes or more", hint="--sizes 250,500,1000,2000")
    if min(sizes) < 1:
        raise RecipeError(f"--sizes has {min(sizes)}: at least one row is needed to learn from", hint="--sizes 250,500,1000,2000")


def _point(size: int, seed: int) -> Point:
    settings = {"data.take.rows": size, "data.take.seed": seed, "train.seed": seed}
    return Point(f"labels={size},seed={seed}", settings, tuple(f"{key}={value}" for key, value in settings.items()))


def _document(folder: Path, trials: Sequence[Trial], tried: Sequence[Tried], metric: str) -> Document:
    recipe = trials[0].recipe
    good = [_trained(one) for one in tried if one.error is None]
    settings = {"tiers": recipe.task.tiers_upwards, "bootstrap": recipe.evaluate.bootstrap, "seed": recipe.data.split.seed}
    measured = curve(good, None if metric == LOSS else metric, recipe.task.fields, **settings)  # type: ignore[arg-type]
    done = {one.name: one for one in tried}
    runs = [
        {**done.get(trial.point.name, Tried(trial, Run(folder / trial.point.name))).said(), "labels": _labels(trial)} for trial in trials
    ]
    return {
        "learning_curve": str(folder),
        "name": recipe.name,
        "metric": metric,
        "better": "lower" if lower_is_better(metric) else "higher",
        "rows": len(good[0].rows) if good else None,
        **measured,
        "runs": runs,
        "failed": sum(one.error is not None for one in tried),
        "words": [],
    }


def _trained(one: Tried) -> Trained:
    return Trained(_labels(one.trial), int(one.trial.point.settings["data.take.seed"]), one.rows, one.valid_loss)


def _labels(trial: Trial) -> int:
    return int(trial.point.settings["data.take.rows"])
