"""mlx-distill infer"""

from __future__ import annotations

from pathlib import Path

import click

from mlx_distill.cli.options import backend_option, delimiter_option, json_option, setting
from mlx_distill.cli.render import document


@click.command()
@click.argument("student", type=click.Path(path_type=Path), nargs=-1, required=True)
@click.argument("input", type=click.Path(path_type=Path))
@click.argument("output", type=click.Path(path_type=Path))
@click.option("--resume", is_flag=True, help="Go on where it stopped; right on nothing at all and on finished work.")
@click.option("--format", metavar="SUFFIX", help="What INPUT is, whatever its name: jsonl, csv, tsv, ... Default: its suffix; of - jsonl.")
@delimiter_option
@click.option(
    "--samples", type=int, default=1, metavar="N", help="Draw N answers; their vote or mean is the answer, agreement the confidence."
)
@click.option("--temperature", type=float, default=0.0, metavar="T", help="Of the samples: 0.7, say.")
@click.option("--seed", type=int, default=0, metavar="N", help="Of the samples: the same draws the same.")
@click.option(
    "--no-text", "no_text", is_flag=True, help="Leave texts and lists unanswered: scores, choices and flags are all that is wanted."
)
@click.option(
    "--distributions", is_flag=True, help="Add to each line every closed field's probabilities, and what its scores are on average."
)
@click.option("--max-rejects", type=int, metavar="N", help="Stop when more than N rows were rejected. Default: any number.")
@backend_option
@json_option
def command(
    student: tuple[Path, ...],
    input: Path,
    output: Path,
    resume: bool,
    format: str | None,
    delimiter: str | None,
    samples: int,
    temperature: float,
    seed: int,
    no_text: bool,
    distributions: bool,
    max_rejects: int | None,
    backend: str,
    as_json: bool,
) -> None:
    """Answer every text of a file (CSV, JSONL, Parquet), a line each as it is finished. STUDENT is a Run or a bundle.

    INPUT needs only the columns that the task's template names; it may be a folder of files, or - for standard input. OUTPUT is JSON lines
    or Parquet, by its suffix. Bad rows go to OUTPUT.rejects.jsonl; OUTPUT.job.json says what the results were made of. Several students of
    one base answer each text in one pass; their results carry the recipe's name as `task`.

    \b
    mlx-distill infer runs/crisis texts.csv answers.jsonl
    mlx-distill infer runs/crisis backlog.jsonl.gz answers.parquet --resume
    mlx-distill infer runs/solar runs/policy runs/nature backlog.jsonl answers.jsonl
    """
    from mlx_distill import workflows

    asking = workflows.Asking(samples, temperature, seed, texts=not no_text)
    done = workflows.infer(
        setting(as_json=as_json, backend=backend), student, input, output, resume=resume, delimiter=delimiter, format=format,
        asking=asking, distributions=distributions, max_rejects=max_rejects,
    )  # fmt: skip
    skipped = f", {done['skipped']} answered before" if done["skipped"] else ""
    rejected = f", {done['rejected']} rejected" if done["rejected"] else ""
    rate = f" ({done['rows_per_hour']:,} rows an hour)" if done["done"] else ""
    document(done, as_json=as_json, lines=[f"{output}: {done['done']} answered{skipped}{rejected}{rate}"])
