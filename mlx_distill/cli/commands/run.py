"""mlx-distill run"""

from __future__ import annotations

from pathlib import Path

import click

from mlx_distill.cli.options import backend_option, json_option, report_option, set_option, setting
from mlx_distill.cli.render import document


@click.command()
@click.argument("recipe", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), help="The Run's folder. Default: runs/NAME OF THE RECIPE'S FILE.")
@click.option("--limit", type=click.IntRange(min=1), help="Do it all on so many rows only.")
@set_option
@report_option
@backend_option
@json_option
def command(
    recipe: Path, out: Path | None, limit: int | None, sets: tuple[str, ...], report_to: tuple[str, ...], backend: str, as_json: bool
) -> int:
    """The main job: convert, train, evaluate, report. Run again, it goes on from what is done.

    \b
    mlx-distill run recipes/crisis-triage.yaml --out runs/crisis
    mlx-distill run my.yaml --limit 200 --set train.epochs=1
    mlx-distill run my.yaml --report-to mlflow
    """
    from mlx_distill import workflows

    report = workflows.run(
        setting(as_json=as_json, backend=backend, report_to=report_to), recipe, out or Path("runs") / recipe.stem, sets, limit=limit
    )
    document(report, as_json=as_json, lines=[])
    return 3 if report["verdict"] == "missed" else 0
