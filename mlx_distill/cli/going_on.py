"""Whoever breaks off a long command is told the command that goes on: the one that was typed, with --resume."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from mlx_distill.errors import Interrupted


@contextmanager
def going_on(saved: str, *, resume: bool) -> Iterator[None]:
    """`saved` is what to say of a stop that no workflow has said anything of."""
    try:
        yield
    except (Interrupted, KeyboardInterrupt) as error:
        message = error.message if isinstance(error, Interrupted) else saved
        typed = [*sys.argv[1:], *([] if resume else ["--resume"])]
        raise Interrupted(message, hint=f"this goes on: {shlex.join(['mlx-distill', *typed])}") from error
