"""mlx-distill infer"""

from __future__ import annotations

from pathlib import Path

import click

from mlx_distill.cli.options import backend_option, delimiter_option, json_option, setting
from mlx_distill.cli.render import document


@click.command()
@click.argument("student", type=click.Path(path_type=Path))
@click.argument("input", type=click.Path(path_type=Path))
@click.argument("output", type=click.Path(path_type=Path))
@click.option("--resume", is_flag=True, help="Go on where it stopped; right on nothing at all and on finished work.")
@delimiter_option
@backend_option
@json_option
def command(student: Path, input: Path, output: Path, resume: bool, delimiter: str | None, backend: str, as_json: bool) -> None:
    """Answer every text of a file (CSV, JSONL, Parquet), one JSON line each. STUDENT is a Run.

    INPUT needs only the columns that the task's template names. Bad rows go to OUTPUT.rejects.jsonl.

    \b
    mlx-distill infer runs/crisis texts.csv answers.jsonl
    mlx-distill infer runs/crisis backlog.jsonl answers.jsonl --resume
    """
    from mlx_distill import workflows

    done = workflows.infer(setting(as_json=as_json, backend=backend), student, input, output, resume=resume, delimiter=delimiter)
    skipped = f", {done['skipped']} answered before" if done["skipped"] else ""
    rejected = f", {done['rejected']} rejected" if done["rejected"] else ""
    rate = f" ({done['rows_per_hour']:,} rows an hour)" if done["done"] else ""
    document(done, as_json=as_json, lines=[f"{output}: {done['done']} answered{skipped}{rejected}{rate}"])
