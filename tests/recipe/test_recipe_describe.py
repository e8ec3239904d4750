from __future__ import annotations

import dataclasses
from pathlib import Path

import mlx_distill
from mlx_distill.recipe.describe import describe
from mlx_distill.recipe.schema import TrainSpec

PAGE = Path(mlx_distill.__file__).parents[1] / "docs" / "recipe.md"


def test_the_page_is_up_to_date() -> None:
    assert PAGE.read_text("utf-8") == describe(), "run python scripts/build_recipe_docs.py"


def test_every_setting_of_the_training_has_its_row() -> None:
    rows = describe().partition("## train\n")[2].partition("## train.schedule")[0]
    for item in dataclasses.fields(TrainSpec):
        assert f"| `{item.name}` |" in rows
    assert "| `max_tokens` | whole number (tokens), at least 16 | `2048` |" in rows
    assert "| `optimizer` | `adamw`, `adafactor`, `lion` | `adamw` |" in rows


def test_a_default_of_several_lines_stays_in_its_cell() -> None:
    assert "| `input` | text | `{instruction}\\n\\n{input}` | template of what is read" in describe()


def test_names_of_yaml_are_shown_not_those_of_python() -> None:
    rows = describe().partition("## task.fields.NAME\n")[2].partition("## ")[0]
    assert "| `type` | `score`, `choice`, `flag`, `text`, `list` | required |" in rows
    assert "| `from` |" in rows
