"""The base of a recipe, and the very base of a run: out of the cache, converted where it is not there yet."""

from __future__ import annotations

import dataclasses
import json
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
    from mlx_distill.convert import CARD, cached_base
    from mlx_distill.models.hub import commit_of, locate

    spec = recipe.base
    with setting.progress.step("base") as step:
        source = locate(spec.model, spec.revision)
        commit = commit_of(source)
        folder, made = cached_base(
            source, bits=spec.bits, group_size=spec.group_size, dtype=spec.dtype, backend=backend,
            origin=spec.model, revision=commit, cache=setting.cache / "bases",
        )  # fmt: skip
        card = json.loads((folder / CARD).read_text(encoding="utf-8"))
        step.advance(0, converted="now" if made else "before", parameters=card["parameters"])
    kept = ("source_hash", "family", "parameters", "bits", "group_size", "bits_per_weight")
    # Of the same content there is one base; its card has the name by which it was converted first, and that may be another recipe's.
    return folder, {"key": folder.name, "source": spec.model, "revision": commit, **{name: card.get(name) for name in kept}}


def base_of_run(setting: Setting, run: Run, recipe: Recipe, facts: Mapping[str, Any], backend: Backend | None) -> Path:
    """The very base that a run was trained on: the one within it (a bundle's), else out of the cache; made again where neither has it.

    `backend` None: one is chosen where it is needed, that is, where the base must be made. Raises CheckpointError.
    """
    from mlx_distill.convert import CARD

    locked = facts.get("base", {})
    if (run.path / "base").is_dir():
        return _own(run, recipe, locked)
    folder = setting.cache / "bases" / str(locked.get("key"))
    if (folder / CARD).is_file():
        return folder
    folder, card = _made_again(setting, run, recipe, locked, backend or setting.choose())
    if card["key"] != locked.get("key"):
        hint = f"the adapter fits that base alone: bring it back ({_named(locked)}), or train anew"
        raise CheckpointError(f"{recipe.base.model} is no longer the checkpoint that the run was trained on", file=run.lock, hint=hint)
    return folder


def _own(run: Run, recipe: Recipe, locked: Mapping[str, Any]) -> Path:
    """The base within a run. Raises CheckpointError where it is another than the one that the lock names."""
    from mlx_distill.convert import CARD, key_of

    folder = run.path / "base"
    try:
        key = key_of(json.loads((folder / CARD).read_text(encoding="utf-8")), recipe.base.dtype)
    except (OSError, ValueError, KeyError, TypeError) as error:
        hint = "copy the run, or open its bundle, again"
        raise CheckpointError(f"the run's own base has no card that can be read: {error}", file=folder / CARD, hint=hint) from None
    if key != locked.get("key"):
        hint = f"the adapter fits that base alone: {_named(locked)}; this one has the key {key}"
        raise CheckpointError("this is not the base that the run was trained on", file=folder, hint=hint)
    return folder


def _made_again(setting: Setting, run: Run, recipe: Recipe, locked: Mapping[str, Any], backend: Backend) -> tuple[Path, Document]:
    """Of the revision that was locked. A bundle without its base may be far from where that lies, so its error says all that is needed."""
    model, bundled = Path(recipe.base.model), (run.path / "manifest.json").is_file()
    if bundled and model.is_absolute() and not model.is_dir():
        model = Path.cwd() / model.name  # a bundle knows the name of a folder, and not where it lies
    revision = recipe.base.revision if model.is_absolute() else recipe.base.revision or locked.get("revision")
    recipe = dataclasses.replace(recipe, base=dataclasses.replace(recipe.base, model=str(model), revision=revision))
    try:
        return base_of(setting, recipe, backend)
    except CheckpointError as error:
        if not bundled:
            raise
        where = "put its folder into the working folder" if model.is_absolute() else "bring this one into the cache"
        hint = f"take the bundle that has its base; or {where}: {_named(locked)}"
        raise CheckpointError(f"the bundle was made without its base: {error.message}", file=run.path, hint=hint) from None


def _named(locked: Mapping[str, Any]) -> str:
    revision = f" at revision {locked['revision']}" if locked.get("revision") else ", a folder without revisions"
    return f"{locked.get('source')}{revision}, key {locked.get('key')}"
