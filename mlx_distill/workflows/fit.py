"""Do data and base fit the recipe? The last pass of `check`, which reads both and converts nothing."""

from __future__ import annotations

from collections.abc import Iterator

from mlx_distill.catalog import nearest
from mlx_distill.errors import DistillError
from mlx_distill.models.checkpoint import Checkpoint, open_checkpoint
from mlx_distill.models.hub import locate
from mlx_distill.models.rotary import longest
from mlx_distill.recipe.load import Loaded
from mlx_distill.recipe.problem import Problem
from mlx_distill.recipe.schema import ALL_LINEAR, LoraSpec, Recipe
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
        if prepared is not None:
            prepared.recall()
    except DistillError as error:
        problems.append(_as_problem(loaded, "data.replay.source", error))
    try:
        source = locate(recipe.base.model, recipe.base.revision)
        checkpoint = open_checkpoint(source)
        found = (*_lora(recipe.lora, checkpoint), *_length(recipe.train.max_tokens, checkpoint))
        problems.extend(loaded.problem(*each) for each in found)
        if prepared is not None:
            prepared.read(source)
            rows = example_rows(prepared, show)
    except DistillError as error:
        problems.append(_as_problem(loaded, "base.model", error))
    return rows, problems


def _lora(spec: LoraSpec | None, checkpoint: Checkpoint) -> Iterator[tuple[str, str, str | None]]:
    """What of an adapter's shape this base has not: (path, message, hint)."""
    if spec is None:
        return
    known, layers = list(checkpoint.family.PROJECTIONS), checkpoint.config["num_hidden_layers"]
    for name in (name for name in spec.targets if name not in (*known, *ALL_LINEAR)):
        yield "lora.targets", f"this base has no projection {name!r}", nearest(name, known)
    if spec.last is not None and spec.last > layers:
        yield "lora.layers", f"this base has {layers} layers; got {spec.layers!r}", "layers: all"


def _length(tokens: int, checkpoint: Checkpoint) -> Iterator[tuple[str, str, str | None]]:
    """Whether rows may become longer than this base answers as its original does."""
    most = longest(checkpoint.config)
    if most is not None and tokens > most:
        yield "train.max_tokens", f"this base answers rows of up to {most} tokens as its original does; got {tokens}", f"max_tokens: {most}"


def _as_problem(loaded: Loaded, path: str, error: DistillError) -> Problem:
    if error.file is not None and error.line is not None:
        return Problem(error.file, error.line, path, error.message, error.hint)
    where = f" ({error.file})" if error.file else ""
    return loaded.problem(path, error.message + where, error.hint)
