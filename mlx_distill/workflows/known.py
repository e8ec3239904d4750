"""What was found out about how sure a run's answers are, where it still holds: of these weights, and of what the recipe asks for now."""

from __future__ import annotations

from collections.abc import Iterator

from mlx_distill.observe.progress import Progress
from mlx_distill.recipe.schema import Recipe
from mlx_distill.task.confidence import FILE, Confidence, default_of
from mlx_distill.training.run import Run


def known(run: Run, recipe: Recipe, progress: Progress) -> Confidence | None:
    """None where nothing was found out, or it was about something else: then that is said, with the way out. Raises OutputError."""
    found = Confidence.read(run.adapter)
    if found is None:
        return None
    if why := next(_changed(found, run, recipe), None):
        progress.say(f"note: {run.adapter / FILE} {why}, and is not used: mlx-distill evaluate {run.path} writes it anew")
        return None
    return found


def _changed(found: Confidence, run: Run, recipe: Recipe) -> Iterator[str]:
    """`targets` and `evaluate` may change after a run was judged: a promise that nobody asks for any more is none."""
    if found.adapter_sha256 != run.adapter_hash():
        yield "is of other weights"
    spec, threshold = recipe.targets.defer, found.threshold
    asked = spec and (spec.of or default_of(recipe.task), spec.within, spec.max_error, spec.level)
    had = threshold and (threshold.of, threshold.within, threshold.max_error, threshold.level)
    if asked != had:
        yield "has another promise than the recipe's targets.defer"
    if found.coverage != recipe.evaluate.coverage:
        yield "has another coverage than the recipe's evaluate.coverage"
    if recipe.evaluate.calibrate == "none" and found.fields:
        yield "sets confidences right, which the recipe's evaluate.calibrate does not want"
