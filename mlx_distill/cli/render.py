"""How a command's result reaches a person or a script: exactly one JSON document on standard output, or a few lines."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import click

from mlx_distill.errors import DistillError


def document(result: Mapping[str, Any], *, as_json: bool, lines: list[str]) -> None:
    """`lines` is what a person reads; a script gets the document."""
    if as_json:
        click.echo(json.dumps(_plain(result), ensure_ascii=False, allow_nan=False))
    else:
        for line in lines:
            click.echo(line)


def failure(error: DistillError, *, as_json: bool) -> None:
    """What went wrong, where, and the way out: for a person on standard error."""
    if as_json:
        found = {"kind": error.kind, "message": error.message, "hint": error.hint, "file": error.file, "line": error.line}
        click.echo(json.dumps({"error": found}, ensure_ascii=False))
    else:
        click.echo(f"error: {error}", err=True)


def _plain(value: Any) -> Any:
    """NaN and infinities, which JSON lacks, as null."""
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return None
    return value
