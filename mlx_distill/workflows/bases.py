"""The base of a recipe, and the very base of a run: out of the cache, converted where it is not there yet."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlx_distill.backends.base import Backend
from mlx_distill.errors import CheckpointError
from mlx_distill.recipe.schema import Recipe
from mlx_distill.training.run import Run
from mlx_distill.workflows.setting import Document, Setting


def base_of(setting: Setting, recipe: Recipe, backend: Backend) -> tuple[Path, Document]:
    """The recipe's base in the cache, converted where it is not there yet, and what identifies it."""
    import json

    from mlx_distill.convert import CARD, cached_base
    from mlx_distill.models.hub import commit_of, locate

    spec = recipe.base
    with setting.progress.step("base") as step:
        source = locate(spec.model, spec.revision)
        folder, made = cached_base(
            source, bits=spec.bits, group_size=spec.group_size, dtype=spec.dtype, backend=backend,
            origin=spec.model, revision=commit_of(source), cache=setting.cache / "bases",
        )  # fmt: skip
        card = json.loads((folder / CARD).read_text(encoding="utf-8"))
        step.advance(0, converted="now" if made else "before", parameters=card["parameters"])
    kept = ("source", "revision", "source_hash", "family", "parameters", "bits", "group_size", "bits_per_weight")
    return folder, {"key": folder.name, **{name: card.get(name) for name in kept}}


def base_of_run(setting: Setting, run: Run, recipe: Recipe, facts: Mapping[str, Any], backend: Backend) -> Path:
    """The very base that a run was trained on, out of the cache; made again where the cache has lost it. Raises CheckpointError."""
    from mlx_distill.convert import CARD

    locked = facts.get("base", {}).get("key")
    folder = setting.cache / "bases" / str(locked)
    if (folder / CARD).is_file():
        return folder
    folder, card = base_of(setting, recipe, backend)
    if card["key"] != locked:
        hint = "the adapter fits that base alone: bring it back, or train anew"
        raise CheckpointError(f"{recipe.base.model} is no longer the checkpoint that the run was trained on", file=run.lock, hint=hint)
    return folder
