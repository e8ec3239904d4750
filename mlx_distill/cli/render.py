"""How a command's result reaches a person or a script: exactly one JSON document on standard output, or a few lines."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from typing import Any

import click

from mlx_distill.errors import DistillError


def document(result: Mapping[str, Any], *, as_json: bool, lines: list[str]) -> None:
    """`lines` is what a person reads; a script gets the document."""
    _print(json.dumps(_plain(result), ensure_ascii=False, allow_nan=False) if as_json else "\n".join(lines))


def failure(error: DistillError, *, as_json: bool, beside: Mapping[str, Any] | None = None) -> int:
    """What went wrong, where, and the way out: for a person on standard error. The exit code. `beside`: what was done all the same."""
    if as_json:
        found = {"kind": error.kind, "message": error.message, "hint": error.hint, "file": error.file, "line": error.line}
        _print(json.dumps({**_plain(beside or {}), "error": found}, ensure_ascii=False))
    else:
        click.echo(f"error: {error}", err=True)
    return error.exit_code


def _print(text: str) -> None:
    """On standard output, whatever its encoding. A reader that went away (`| head`) is no failure."""
    try:
        if text:
            click.echo(text.encode("utf-8", "backslashreplace"))
            sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _plain(value: Any) -> Any:
    """NaN and infinities, which JSON lacks, as null."""
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return None
    return value
