"""mlx-distill infer"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from mlx_distill.cli.going_on import going_on
from mlx_distill.cli.options import backend_option, delimiter_option, json_option, setting
from mlx_distill.cli.render import document
from mlx_distill.observe.progress import amount

MISSING = {0: "STUDENT, INPUT and OUTPUT are", 1: "INPUT and OUTPUT are", 2: "OUTPUT is"}
"""By how many places are named."""


@click.command()
@click.argument("places", type=click.Path(path_type=Path), nargs=-1, metavar="STUDENT... INPUT OUTPUT")
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
@click.option(
    "--workers", default="auto", metavar="N", help="Processes that answer. Default: one for each GPU, where there are several; else one."
)
@click.option(
    "--deferred", type=click.Path(path_type=Path), metavar="FILE", help="Write the rows that are deferred apart, for the judge: JSON lines."
)
@click.option(
    "--then", type=click.Path(path_type=Path), metavar="STUDENT", help="What STUDENT is not sure enough of, this one answers: a cascade."
)
@click.option("--max-rejects", type=int, metavar="N", help="Stop when more than N rows were rejected. Default: any number.")
@backend_option
@json_option
def command(
    places: tuple[Path, ...],
    resume: bool,
    format: str | None,
    delimiter: str | None,
    samples: int,
    temperature: float,
    seed: int,
    no_text: bool,
    distributions: bool,
    workers: str,
    deferred: Path | None,
    then: Path | None,
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
    mlx-distill infer runs/crisis backlog.jsonl answers.jsonl --workers 4
    mlx-distill infer runs/crisis backlog.jsonl answers.jsonl --deferred for_the_judge.jsonl
    mlx-distill infer runs/small --then runs/large backlog.jsonl answers.jsonl --deferred for_the_judge.jsonl
    """
    from mlx_distill import workflows

    if missing := MISSING.get(len(places)):
        raise click.UsageError(f"{missing} missing: infer STUDENT... INPUT OUTPUT")
    *students, input, output = places
    asking = workflows.Asking(samples, temperature, seed, texts=not no_text)
    with going_on("broken off; what had been answered is whole", resume=resume):
        done = workflows.infer(
            setting(as_json=as_json, backend=backend), students, input, output, resume=resume, delimiter=delimiter, format=format,
            asking=asking, distributions=distributions, max_rejects=max_rejects, workers=_number(workers), deferred=deferred, then=then,
        )  # fmt: skip
    rate = f" ({done['rows_per_hour']:,} rows an hour)" if done["rows_per_hour"] is not None else ""
    document(done, as_json=as_json, lines=[f"{output}: {_counted(done)}{rate}"])


def _number(workers: str) -> int | None:
    """None: as many as there is use for."""
    if workers == "auto":
        return None
    try:
        return int(workers)
    except ValueError:
        raise click.BadParameter(f"{workers!r} is neither a number nor auto", param_hint="--workers") from None


def _counted(done: Mapping[str, Any]) -> str:
    """What came of the rows; of several students what came of their answers, and the rows of the input that are bad."""
    several, before = len(done["students"]) > 1, done["skipped"] - done["rejected_before"]
    answered = "answers" if several else "answered"
    rejected = amount(done["rejected_rows"], "rows") if several else done["rejected"]
    told = {
        f"{done['done']} {answered}": True,
        f"{before} {answered} before": before,
        f"{done['deferred']} of them deferred": done["deferred"],
        f"{rejected} rejected": done["rejected"],
        f"{done['rejected_before']} {'rejects' if several else 'rejected'} before": done["rejected_before"],
    }
    return ", ".join(words for words, there in told.items() if there)
