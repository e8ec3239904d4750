"""mlx-distill train"""

from __future__ import annotations

from pathlib import Path

import click

from mlx_distill.cli.options import backend_option, json_option, report_option, set_option, setting
from mlx_distill.cli.render import document, failure
from mlx_distill.errors import Interrupted


@click.command()
@click.argument("recipe", type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The Run: a folder, new or (with --resume) begun.")
@click.option("--resume", is_flag=True, help="Go on where it stopped; right on nothing at all and on finished work.")
@click.option("--limit", type=click.IntRange(min=1), help="Take so many rows only.")
@set_option
@report_option
@backend_option
@json_option
def command(
    recipe: Path, out: Path, resume: bool, limit: int | None, sets: tuple[str, ...], report_to: tuple[str, ...], backend: str, as_json: bool
) -> int:
    """Train an adapter on a recipe's labelled rows. Ctrl-C finishes the step and saves.

    \b
    mlx-distill train recipes/crisis-triage.yaml --out runs/crisis
    mlx-distill train recipes/crisis-triage.yaml --out runs/crisis --resume --set train.epochs=6
    mlx-distill train recipes/crisis-triage.yaml --out runs/watched --report-to tensorboard --report-to wandb
    """
    from mlx_distill import workflows

    done = workflows.train(setting(as_json=as_json, backend=backend, report_to=report_to), recipe, out, sets, resume=resume, limit=limit)
    if done["stopped"] == "interrupted":
        return failure(
            Interrupted(f"stopped after step {done['steps']}; it is saved", hint="--resume goes on"), as_json=as_json, beside=done
        )
    kept = done["kept"]
    best = "" if kept is None else f", {kept['name'].replace('valid_loss', 'validation loss')} {kept['value']:.4f} at step {kept['step']}"
    lines = [f"{out}: {done['stopped']} after {done['steps']} steps{best}", f"next: mlx-distill evaluate {out}"]
    document(done, as_json=as_json, lines=lines)
    return 0
