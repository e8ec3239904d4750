"""The commands behind the door, and what becomes of errors.

Each command is in a module of `cli.commands`: it parses, calls one workflow, renders. Nothing heavy is imported before a command runs.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from types import FrameType

import click

from mlx_distill import catalog
from mlx_distill.cli import render
from mlx_distill.cli.main import COMMANDS
from mlx_distill.errors import DistillError, Interrupted
from mlx_distill.observe.interrupts import SIGNALS, stop
from mlx_distill.observe.launched import launcher_of, rank_of

TOGETHER = ("run", "train")
"""What several processes may do together, started by mlx.launch or torchrun."""
REPORT = "this is a fault of mlx-distill, not yours: please report it with the lines above"


class Commands(click.Group):
    def list_commands(self, context: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        command: click.Command = catalog.find("cli.commands", COMMANDS[name]).command
        return command

    def resolve_command(self, context: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            raise click.UsageError(f"no command {args[0]!r} ({catalog.nearest(args[0], list(COMMANDS))})")
        if args and args[0] in COMMANDS.keys() - {*TOGETHER} and (launcher := launcher_of(os.environ)) is not None:
            raise click.UsageError(f"{args[0]} is the work of one process: start it without {launcher}")
        return super().resolve_command(context, args)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="mlx-distill")
def group() -> None:
    """Turn a judge's answers into a small model that gives the same answers offline, and says how well it agrees.

    \b
    mlx-distill check recipes/crisis-triage.yaml
    mlx-distill run   recipes/crisis-triage.yaml --out runs/crisis
    mlx-distill infer runs/crisis texts.csv answers.jsonl
    """


def run(*, as_json: bool) -> int:
    """The command that is on the command line. Its exit code. Of several processes the first speaks, and of the others who fails."""
    rank = rank_of(os.environ) or 0
    try:
        _answer_signals(stop)
        with _silence() if rank else contextlib.nullcontext():
            code: int = group.main(prog_name="mlx-distill", standalone_mode=False) or 0
        _answer_signals(signal.SIG_IGN)
        return code
    except BaseException as error:
        _answer_signals(signal.SIG_IGN)
        return _failure_of_follower(error, rank) if rank else _failure(error, as_json=as_json)


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    with os.fdopen(os.open(os.devnull, os.O_WRONLY), "w") as nowhere:
        with contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
            yield


def _failure_of_follower(error: BaseException, rank: int) -> int:
    """What befalls every process alike, the first one tells."""
    with _silence() if isinstance(error, (click.ClickException, KeyboardInterrupt, Interrupted)) else contextlib.nullcontext():
        if isinstance(error, Exception):
            print(f"rank {rank}: ", end="", file=sys.stderr)
        return _failure(error, as_json=False)


def _answer_signals(handler: Callable[[int, FrameType | None], None] | signal.Handlers) -> None:
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, handler)


def _failure(error: BaseException, *, as_json: bool) -> int:
    """What a person or a script is told of it. The exit code."""
    if isinstance(error, DistillError):
        return render.failure(error, as_json=as_json)
    if isinstance(error, click.ClickException):
        return _usage(error, as_json=as_json)
    if isinstance(error, (KeyboardInterrupt, click.Abort)):
        what = "broken off; the last checkpoint, and all that had been written, are whole"
        hint = "the same command goes on; of train with --resume"
        return render.failure(Interrupted(what, hint=hint), as_json=as_json)
    if isinstance(error, OSError):
        return render.failure(_from_system(error), as_json=as_json)
    if not isinstance(error, Exception):
        raise error
    traceback.print_exception(error)
    return render.failure(OurFault(f"{type(error).__name__}: {error}", hint=REPORT), as_json=as_json)


class OurFault(DistillError):
    """What no one foresaw."""

    exit_code = 1


def _usage(error: click.ClickException, *, as_json: bool) -> int:
    if as_json:
        render.failure(DistillError(error.format_message(), hint="see --help"), as_json=True)
    else:
        error.show()
    return 2


def _from_system(error: OSError) -> DistillError:
    """What the operating system refused and no stage has translated: still the user's to mend, with its file."""
    return DistillError(error.strerror or str(error), file=error.filename, hint="check that the place exists, is yours, and has room")
