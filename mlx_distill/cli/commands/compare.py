"""mlx-distill compare"""

from __future__ import annotations

from pathlib import Path

import click

from mlx_distill.cli.options import json_option, setting
from mlx_distill.cli.render import document


@click.command()
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="RUN RUN...")
@click.option("--html", type=click.Path(path_type=Path), metavar="FILE", help="Write a page too, with everything in one file.")
@click.option(
    "--format", "form", type=click.Choice(["text", "md"]), default="text", show_default=True, help="md: Markdown, for a pull request."
)
@json_option
def command(runs: tuple[Path, ...], html: Path | None, form: str, as_json: bool) -> None:
    """Which of several students is better, on the test rows that all of them answered, and what each costs.

    A RUN has been evaluated: it has report.json and predictions.jsonl. Of answers to other rows, name the file: RUN/predictions.NAME.jsonl.

    \b
    mlx-distill compare runs/small runs/large
    mlx-distill compare runs/small runs/large runs/cloud --html comparison.html
    mlx-distill compare runs/before runs/after --format md > comment.md
    """
    if len(runs) < 2:
        raise click.UsageError("a comparison takes two runs or more: compare RUN RUN...")
    from mlx_distill.evaluation.pages.leaflets import comparison as page
    from mlx_distill.workflows import comparing

    found = comparing.compare(setting(as_json=as_json), runs, html=html)
    lines = [] if as_json else [page.markdown(found)] if form == "md" else page.lines(found)
    document(found, as_json=as_json, lines=lines)
