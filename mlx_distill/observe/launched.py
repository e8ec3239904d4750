"""Whether this process is one of several that a launcher started, as its environment says. It knows no backend."""

from __future__ import annotations

from collections.abc import Mapping

MLX = "MLX_RANK"
"""What mlx.launch calls a process's number."""
TORCHRUN = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR")
"""What torchrun always sets, and jobs of other kinds hardly all of them: what the processes find one another by."""


def launcher_of(environment: Mapping[str, str]) -> str | None:
    """mlx.launch or torchrun. None: nobody launched this process with others."""
    if environment.get(MLX, "").isdecimal():
        return "mlx.launch"
    told = [environment.get(name, "") for name in TORCHRUN]
    numbers = all(number.isdecimal() for number in told[:3])
    return "torchrun" if all(told) and numbers and int(told[2]) > 1 else None


def rank_of(environment: Mapping[str, str]) -> int | None:
    """0 leads. None: nobody launched this process with others."""
    launcher = launcher_of(environment)
    return None if launcher is None else int(environment[MLX if launcher == "mlx.launch" else TORCHRUN[0]])
