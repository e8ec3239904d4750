"""The command line's door: which commands there are, and what becomes of errors.

Each command is in a module of `cli.commands`: it parses, calls one workflow, renders. Nothing heavy is imported before a command runs.
"""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType

import click

from mlx_distill import catalog
from mlx_distill.cli import render
from mlx_distill.errors import DistillError, Interrupted

COMMANDS = {
    "run": "run",
    "check": "check",
    "convert": "convert",
    "train": "train",
    "evaluate": "evaluate",
    "infer": "infer",
}
"""Command: its module, in the order of --help."""


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


def main() -> None:
    """Exit codes: 0 done, 1 our fault, 2 your input, 3 done but targets missed, 130 interrupted."""
    signal.signal(signal.SIGTERM, _terminate)
    as_json = "--json" in sys.argv[1:]
    try:
        code = group.main(standalone_mode=False)
    except DistillError as error:
        render.failure(error, as_json=as_json)
        code = error.exit_code
    except click.ClickException as error:
        _usage(error, as_json=as_json)
        code = 2
    except (KeyboardInterrupt, click.Abort):
        hint = "the same command goes on (train, infer: with --resume)"
        render.failure(Interrupted("interrupted; what was done is saved", hint=hint), as_json=as_json)
        code = 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader went away: nothing to say, nowhere to say it
        code = 0
    except OSError as error:
        render.failure(_from_system(error), as_json=as_json)
        code = 2
    sys.exit(code or 0)


def _usage(error: click.ClickException, *, as_json: bool) -> None:
    if as_json:
        render.failure(DistillError(error.format_message(), hint="see --help"), as_json=True)
    else:
        error.show()


def _from_system(error: OSError) -> DistillError:
    """What the operating system refused and no stage has translated: still the user's to mend, with its file."""
    return DistillError(error.strerror or str(error), file=error.filename, hint="check that the place exists, is yours, and has room")


def _terminate(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
