"""The command line's door: which commands there are, and what becomes of errors.

Each command is in a module of `cli.commands`: it parses, calls one workflow, renders. Nothing heavy is imported before a command runs.
"""

from __future__ import annotations

import signal
import sys
import traceback
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
    signal.signal(signal.SIGTERM, _stop)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # a shell may have had it ignored
        signal.signal(signal.SIGINT, _stop)
    sys.exit(_run(as_json="--json" in sys.argv[1:]))


def _run(*, as_json: bool) -> int:
    try:
        return group.main(prog_name="mlx-distill", standalone_mode=False) or 0
    except DistillError as error:
        return render.failure(error, as_json=as_json)
    except click.ClickException as error:
        return _usage(error, as_json=as_json)
    except (KeyboardInterrupt, click.Abort):
        hint = "the same command goes on (train, infer: with --resume)"
        return render.failure(Interrupted("interrupted; what was done is saved", hint=hint), as_json=as_json)
    except OSError as error:
        return render.failure(_from_system(error), as_json=as_json)
    except Exception as error:
        traceback.print_exc()
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


class Stopped(KeyboardInterrupt):
    """Ctrl-C or SIGTERM. Of a plain KeyboardInterrupt that passes through an exec(), Python dies in the end, though it was caught."""


def _stop(number: int, frame: FrameType | None) -> None:
    raise Stopped


if __name__ == "__main__":
    main()
