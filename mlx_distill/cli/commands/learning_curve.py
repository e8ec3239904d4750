"""mlx-distill learning-curve"""

from __future__ import annotations

from pathlib import Path

import click

from mlx_distill.cli.going_on import going_on
from mlx_distill.cli.options import backend_option, json_option, report_option, set_option, setting
from mlx_distill.cli.render import document


@click.command("learning-curve")
@click.argument("recipe", type=click.Path(path_type=Path))
@click.option(
    "--sizes", required=True, metavar="N,N,N", help="So many training rows; a run each. Three sizes or more, best each twice the last."
)
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The folder of the runs, new or (with --resume) begun.")
@click.option(
    "--seeds", type=click.IntRange(min=1), default=1, metavar="N", help="Runs of each size, of other rows: their luck is measured."
)
@click.option("--metric", metavar="NAME", help="What is followed, on the validation rows. Default: the task's main metric.")
@click.option("--resume", is_flag=True, help="Go on where it stopped; right on nothing at all and on finished work.")
@set_option
@report_option
@backend_option
@json_option
def command(
    recipe: Path,
    sizes: str,
    out: Path,
    seeds: int,
    metric: str | None,
    resume: bool,
    sets: tuple[str, ...],
    report_to: tuple[str, ...],
    backend: str,
    as_json: bool,
) -> int:
    """What more labels would bring: train on more and more of the rows, fit the curve, and say what twice as many would do.

    All runs are judged on the same validation rows; the test rows are not read. In RUN/learning-curve it serves the report of RUN too.
    Exit code 2 where a run failed: the others are done all the same.

    \b
    mlx-distill learning-curve my.yaml --sizes 250,500,1000,2000 --out curves/my
    mlx-distill learning-curve runs/crisis/recipe.lock.yaml --sizes 100,200,400,800 --seeds 3 --out runs/crisis/learning-curve
    """
    from mlx_distill.evaluation.pages.leaflets import learning_curve as page
    from mlx_distill.workflows import learning_curve as workflow

    given = setting(as_json=as_json, backend=backend, report_to=report_to)
    with going_on("broken off; what had been trained is whole", resume=resume):
        found = workflow.learning_curve(given, recipe, _sizes(sizes), out, sets, seeds=seeds, metric=metric, resume=resume)
    document(found, as_json=as_json, lines=[*page.lines(found), f"next: open {out / workflow.PAGE}"])
    return 2 if found["failed"] else 0


def _sizes(text: str) -> list[int]:
    try:
        return [int(size) for size in text.split(",")]
    except ValueError:
        raise click.BadParameter(f"{text!r} is no list of numbers such as 250,500,1000", param_hint="--sizes") from None
