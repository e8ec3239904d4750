"""Whether this process is one of several that a launcher started, as its environment says. It knows no backend."""

from __future__ import annotations

from collections.abc import Mapping

RANK = "MLX_RANK"
"""What mlx.launch calls a process's number."""


def rank_of(environment: Mapping[str, str]) -> int | None:
    """0 leads. None: nobody launched this process with others."""
    number = environment.get(RANK, "")
    return int(number) if number.isdecimal() else None
