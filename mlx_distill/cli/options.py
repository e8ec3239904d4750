"""The options that commands share, and the setting that they make of them. The environment is read here alone."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from mlx_distill import catalog
from mlx_distill.backends.choose import NAMES

if TYPE_CHECKING:
    from mlx_distill.workflows import Setting

Command = TypeVar("Command", bound=Callable[..., Any])


def json_option(command: Command) -> Command:
    return click.option("--json", "as_json", is_flag=True, help="One JSON document on standard output; nothing else there.")(command)


def backend_option(command: Command) -> Command:
    text = "What computes: auto takes the fastest that is here; a training is gone on with by what it was begun with."
    return click.option("--backend", type=click.Choice(NAMES), default=NAMES[0], show_default=True, help=text)(command)


def delimiter_option(command: Command) -> Command:
    text = "Of a CSV file. Default: as in the recipe's data, else a comma (a tab in .tsv)."
    return click.option("--delimiter", metavar="CHARACTER", help=text)(command)


def set_option(command: Command) -> Command:
    text = "Lay section.key=value over the recipe; as often as needed."
    return click.option("--set", "sets", multiple=True, metavar="KEY=VALUE", help=text)(command)


def report_option(command: Command) -> Command:
    """For commands that train."""
    text = "Tell a tracker every figure, through its own library (pip install 'mlx-distill[NAME]'); as often as needed."
    choice = click.Choice(catalog.names("observe.trackers"))
    return click.option("--report-to", "report_to", multiple=True, type=choice, metavar="NAME", help=f"{text} {'|'.join(choice.choices)}")(
        command
    )


def setting(*, as_json: bool, backend: str = "auto", report_to: Sequence[str] = ()) -> Setting:
    """What a workflow needs of the command line and the environment."""
    from mlx_distill.observe.progress import Progress
    from mlx_distill.workflows import Setting

    return Setting(
        progress=Progress(quiet=as_json),
        cache=cache_folder(),
        backend=backend,
        environment=dict(os.environ),
        report_to=tuple(dict.fromkeys(report_to)),
    )


def cache_folder() -> Path:
    """Where converted bases are kept: MLX_DISTILL_CACHE, else the user's cache folder."""
    given = os.environ.get("MLX_DISTILL_CACHE")
    if given:
        return Path(given).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mlx-distill"
