"""The report that a run has already, where it is still about this very run."""

from __future__ import annotations

import json

from mlx_distill.evaluation.report import VERSION
from mlx_distill.recipe.lock import recipe_hash
from mlx_distill.recipe.schema import Recipe
from mlx_distill.training.run import Run
from mlx_distill.workflows.setting import Document


def reported(run: Run, recipe: Recipe) -> Document | None:
    """Of this very adapter under this very recipe, of the form that this mlx-distill writes; None where there is none."""
    try:
        document = json.loads((run.path / "report.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(document, dict) or document.get("version") != VERSION:
        return None
    lineage = document.get("lineage") or {}
    same = lineage.get("adapter_sha256") == run.adapter_hash() and lineage.get("recipe_sha256") == recipe_hash(recipe)
    return document if same else None
