"""mlx-distill check"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from mlx_distill.cli.options import json_option, set_option, setting
from mlx_distill.cli.render import document


@click.command()
@click.argument("recipes", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--show", type=click.IntRange(min=0), default=0, help="Also print so many rows as the student will see them.")
@set_option
@json_option
def command(recipes: tuple[Path, ...], show: int, sets: tuple[str, ...], as_json: bool) -> int:
    """Say everything that is wrong with recipes, as file:line.

    \b
    mlx-distill check recipes/crisis-triage.yaml
    mlx-distill check my.yaml --show 3 --set base.model=Qwen/Qwen2.5-1.5B-Instruct
    """
    from mlx_distill import workflows

    found = workflows.check(setting(as_json=as_json), recipes, sets, show=show)
    lines = [_problem(problem) for problem in found["problems"]] or [f"{path}: nothing wrong" for path in recipes]
    document(found, as_json=as_json, lines=[*_rows(found), *lines])
    return 2 if found["problems"] else 0


def _problem(problem: dict[str, Any]) -> str:
    from mlx_distill.recipe.problem import Problem

    return str(Problem(**problem))


def _rows(found: dict[str, Any]) -> list[str]:
    styled = sys.stdout.isatty()
    lines = []
    for row in found.get("rows", []):
        tokens = row["tokens"]
        trimmed = ", its text lost the middle" if row["trimmed"] else ""
        counts = f"{tokens['prefix']} tokens of shared prefix, {tokens['own']} of its own, {tokens['learned']} learned"
        learned = click.style(row["learned"], bold=True) if styled else f"[learned: {row['learned']}]"
        lines += [f"--- row {row['id']}: {counts}{trimmed}", row["prompt"] + learned, ""]
    return lines
