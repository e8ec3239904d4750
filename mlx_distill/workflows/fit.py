"""Do data and base fit the recipe? The last pass of `check`, which reads both and converts nothing."""

from __future__ import annotations

from mlx_distill.catalog import nearest
from mlx_distill.errors import DistillError
from mlx_distill.models.checkpoint import open_checkpoint
from mlx_distill.models.hub import locate
from mlx_distill.recipe.load import Loaded
from mlx_distill.recipe.problem import Problem
from mlx_distill.recipe.schema import Recipe
from mlx_distill.workflows.preparation import Prepared, example_rows
from mlx_distill.workflows.setting import Document


def fit(loaded: Loaded, recipe: Recipe, show: int) -> tuple[list[Document], list[Problem]]:
    """The first `show` rows as the student will see them, and what is wrong."""
    problems: list[Problem] = []
    rows: list[Document] = []
    prepared: Prepared | None = None
    try:
        prepared = Prepared.of(recipe)
    except DistillError as error:
        problems.append(_as_problem(loaded, "data.source", error))
    try:
        source = locate(recipe.base.model, recipe.base.revision)
        known = list(open_checkpoint(source).family.PROJECTIONS)
        for name in (name for name in recipe.lora.targets if name not in known):
            problems.append(loaded.problem("lora.targets", f"this base has no projection {name!r}", nearest(name, known)))
        if prepared is not None:
            prepared.read(source)
            rows = example_rows(prepared, show)
    except DistillError as error:
        problems.append(_as_problem(loaded, "base.model", error))
    return rows, problems


def _as_problem(loaded: Loaded, path: str, error: DistillError) -> Problem:
    if error.file is not None and error.line is not None:
        return Problem(error.file, error.line, path, error.message, error.hint)
    where = f" ({error.file})" if error.file else ""
    return loaded.problem(path, error.message + where, error.hint)
