"""mlx-distill evaluate"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from mlx_distill.cli.options import backend_option, delimiter_option, json_option, set_option, setting
from mlx_distill.cli.render import document

FILE = click.Path(path_type=Path)
OF_A_RUN = {"data": "--data", "lm_eval": "--lm-eval", "lm_eval_limit": "--lm-eval-limit", "backend": "--backend"}
OF_ANSWERS = {"task": "--task", "columns": "--columns", "out": "--out", "sets": "--set"}


@click.command()
@click.argument("run", type=FILE, required=False)
@click.option("--data", type=FILE, help="Judge on the labelled rows of this file instead of the run's own test rows.")
@click.option(
    "--lm-eval",
    metavar="TASKS",
    help="Ask student and base tasks of lm-evaluation-harness too: names or files, parted by commas (extra lm-eval).",
)
@click.option("--lm-eval-limit", type=click.IntRange(min=1), metavar="N", help="So many questions of each of these tasks.")
@click.option(
    "--predictions", type=FILE, metavar="FILE",
    help="Judge answers made elsewhere, without any model: lines of predictions.jsonl or of infer, or a table (see --columns).",
)  # fmt: skip
@click.option("--task", type=FILE, metavar="RECIPE", help="Of --predictions: the recipe whose task, targets and slices they are judged by.")
@click.option(
    "--columns", metavar="MAP", default="",
    help="Of --predictions: where things stand in a table: id, reference, answer, confidence, split. {field} is each field's name.",
)  # fmt: skip
@click.option("--out", type=FILE, metavar="FOLDER", help="Of --predictions: the report's place. Default: beside FILE, by its name.")
@set_option
@click.option("--format", type=click.Choice(["text", "md"]), default="text", help="md: print the report as Markdown, for a pull request.")
@delimiter_option
@backend_option
@json_option
@click.pass_context
def command(
    context: click.Context,
    run: Path | None,
    data: Path | None,
    lm_eval: str | None,
    lm_eval_limit: int | None,
    predictions: Path | None,
    task: Path | None,
    columns: str,
    out: Path | None,
    sets: tuple[str, ...],
    format: str,
    delimiter: str | None,
    backend: str,
    as_json: bool,
) -> int:
    """Judge a student on rows that it never saw: report.json and report.html into the Run. Or answers that were made elsewhere.

    \b
    mlx-distill evaluate runs/crisis
    mlx-distill evaluate runs/crisis --data newly_labelled.csv
    mlx-distill evaluate runs/crisis --lm-eval arc_easy,hellaswag --lm-eval-limit 200
    mlx-distill evaluate runs/crisis --format md >> $GITHUB_STEP_SUMMARY
    mlx-distill evaluate --predictions answers.jsonl --task recipes/crisis-triage.yaml
    mlx-distill evaluate --predictions both.csv --task recipes/uplifting.yaml \\
        --columns 'id=article_id,reference=oracle_{field},answer=student_{field}'
    """
    _refuse(context, run, predictions, task)
    if format == "md" and as_json:
        raise click.UsageError("--format md and --json would both print to standard output: leave one of them out")
    how = setting(as_json=as_json or format == "md", backend=backend)
    if predictions is None:
        from mlx_distill import workflows

        assert run is not None
        if lm_eval is not None:
            from mlx_distill.workflows.lm_eval import lm_eval as ask

            ask(how, run, [name for name in lm_eval.split(",") if name], limit=lm_eval_limit)
        report = workflows.evaluate(how, run, data=data, delimiter=delimiter)
    else:
        from mlx_distill.workflows import outside

        assert task is not None
        report = outside.judge(how, predictions, task, sets, columns=columns, out=out, delimiter=delimiter)
    document(report, as_json=as_json, lines=[_markdown(report) if format == "md" else f"next: open {report['report']}"])
    return 3 if report["verdict"] == "missed" else 0


def _refuse(context: click.Context, run: Path | None, predictions: Path | None, task: Path | None) -> None:
    """Raises UsageError for options that do not belong together."""
    given = {name for name in context.params if context.get_parameter_source(name) == ParameterSource.COMMANDLINE}
    if run is None and predictions is None:
        raise click.UsageError("name a RUN; or answers made elsewhere, --predictions FILE --task RECIPE")
    if run is not None and predictions is not None:
        raise click.UsageError(f"{run} is judged by itself: leave it out, or leave --predictions out")
    if "lm_eval_limit" in given and "lm_eval" not in given:
        raise click.UsageError("--lm-eval-limit is of the tasks that --lm-eval names")
    if predictions is not None and task is None:
        raise click.UsageError("--predictions needs the task that was answered: --task RECIPE")
    wrong = [option for name, option in (OF_ANSWERS if run is not None else OF_A_RUN).items() if name in given]
    if wrong and run is not None:
        raise click.UsageError(f"{wrong[0]} belongs to --predictions: a run has its own recipe and its own report")
    if wrong:
        hint = "the labels are in FILE or in the recipe's data" if wrong[0] == "--data" else "no model is asked"
        raise click.UsageError(f"{wrong[0]} belongs to a RUN: {hint}")


def _markdown(report: Mapping[str, Any]) -> str:
    from mlx_distill.evaluation.pages import markdown

    return markdown.render(report).rstrip("\n")
