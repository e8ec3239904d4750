"""mlx-distill sweep"""

from __future__ import annotations

from pathlib import Path

import click

from mlx_distill.cli.going_on import going_on
from mlx_distill.cli.options import backend_option, json_option, report_option, set_option, setting
from mlx_distill.cli.render import document


@click.command()
@click.argument("recipe", type=click.Path(path_type=Path))
@click.option("--over", multiple=True, required=True, metavar="KEY=VALUE,VALUE", help="Values of one setting; every combination is a run.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The folder of the runs, new or (with --resume) begun.")
@click.option("--metric", metavar="NAME", help="The best is the best by this, on the validation rows. Default: the task's main metric.")
@click.option("--resume", is_flag=True, help="Go on where it stopped; right on nothing at all and on finished work.")
@set_option
@report_option
@backend_option
@json_option
def command(
    recipe: Path,
    over: tuple[str, ...],
    out: Path,
    metric: str | None,
    resume: bool,
    sets: tuple[str, ...],
    report_to: tuple[str, ...],
    backend: str,
    as_json: bool,
) -> int:
    """Train a run for every combination of settings; say which is best, how clearly, and judge that one on the test rows.

    Exit code 2 where a run failed: the others are done all the same.

    \b
    mlx-distill sweep my.yaml --over train.learning_rate=1e-4,2e-4 --over lora.rank=8,16 --out sweeps/first
    mlx-distill sweep my.yaml --over 'lora.targets=[q_proj,v_proj],all-linear' --metric macro_f1.urgent --out sweeps/where
    mlx-distill sweep my.yaml --over train.seed=0,1,2 --metric valid_loss --out sweeps/luck --resume
    """
    from mlx_distill.evaluation.pages.leaflets import sweep as page
    from mlx_distill.workflows import sweeping

    given = setting(as_json=as_json, backend=backend, report_to=report_to)
    with going_on("broken off; what had been trained is whole", resume=resume):
        found = sweeping.sweep(given, recipe, over, out, sets, metric=metric, resume=resume)
    ending = [f"next: open {out / sweeping.PAGE}"]
    document(found, as_json=as_json, lines=[*page.lines(found), *ending])
    return 2 if found["failed"] else 3 if found["verdict"] == "missed" else 0
