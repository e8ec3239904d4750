"""Write docs/recipe.md out of the schema: `python scripts/build_recipe_docs.py`."""

from __future__ import annotations

from pathlib import Path

from mlx_distill.files import write_text
from mlx_distill.recipe.describe import describe

PAGE = Path(__file__).parents[1] / "docs" / "recipe.md"

if __name__ == "__main__":
    write_text(PAGE, describe())
    print(PAGE)
