"""The command line's door: which commands there are, and what Ctrl-C and SIGTERM mean from the first moment to the last.

    while the commands are being imported     nothing has begun: say so and go, whatever is half imported
    while a command works                     `Stopped` is raised in it (training defers that: it finishes its step and saves)
    once its result is told                   too late: the exit code is the result's

Python itself takes some 20 ms before it comes here; until then it answers Ctrl-C with a traceback. So nothing is imported here that takes
time: the commands themselves are in `cli.group`.
"""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType

COMMANDS = {
    "run": "run",
    "check": "check",
    "convert": "convert",
    "train": "train",
    "evaluate": "evaluate",
    "infer": "infer",
    "compare": "compare",
    "sweep": "sweep",
    "learning-curve": "learning_curve",
    "bundle": "bundle",
    "adapter": "adapter",
}
"""Command: its module in `cli.commands`, in the order of --help."""
NOTHING = "interrupted before anything was begun"
AS_JSON = f'{{"error": {{"kind": "Interrupted", "message": "{NOTHING}", "hint": null, "file": null, "line": null}}}}\n'


def main() -> None:
    """Exit codes: 0 done, 1 our fault, 2 your input, 3 done but targets missed, 130 interrupted."""
    as_json = "--json" in sys.argv[1:]

    def leave(number: int, frame: FrameType | None) -> None:
        try:
            os.write(1 if as_json else 2, (AS_JSON if as_json else f"error: {NOTHING}\n").encode())
        finally:
            os._exit(130)

    signal.signal(signal.SIGTERM, leave)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # a shell may have had it ignored
        signal.signal(signal.SIGINT, leave)
    from mlx_distill.cli.group import run

    sys.exit(run(as_json=as_json))


if __name__ == "__main__":
    main()
