"""mlx-distill evaluate"""

from __future__ import annotations

from pathlib import Path

import click

from mlx_distill.cli.options import backend_option, delimiter_option, json_option, setting
from mlx_distill.cli.render import document


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--data", type=click.Path(path_type=Path), help="Judge on the labelled rows of this file instead of the run's own test rows.")
@delimiter_option
@backend_option
@json_option
def command(run: Path, data: Path | None, delimiter: str | None, backend: str, as_json: bool) -> int:
    """Judge a student on rows that it never saw: report.json and report.html into the Run.

    \b
    mlx-distill evaluate runs/crisis
    mlx-distill evaluate runs/crisis --data newly_labelled.csv
    """
    from mlx_distill import workflows

    report = workflows.evaluate(setting(as_json=as_json, backend=backend), run, data=data, delimiter=delimiter)
    document(report, as_json=as_json, lines=[f"next: open {report['report']}"])
    return 3 if report["verdict"] == "missed" else 0
