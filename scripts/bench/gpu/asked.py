"""What a part is asked, and how it says what it found: row by row, so that a part that fails or runs out of time keeps what it has."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Asked:
    part: str
    quick: bool
    seconds: float
    """It begins nothing new after so long."""
    out: str
    """Its folder: asked.json, log, rows.json."""
    began: float

    @property
    def folder(self) -> Path:
        return Path(self.out)

    @property
    def late(self) -> bool:
        return time.time() - self.began > self.seconds


def tried(asked: Asked, what: str, measure: Callable[[], Row]) -> Iterator[Row]:
    """The row of one measurement, or why there is none: the others go on."""
    if asked.late:
        yield {"what": what, "failed": "no time was left"}
        return
    try:
        yield {"what": what, **measure()}
    except Exception as error:
        traceback.print_exc()
        yield {"what": what, "failed": f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else '?'}"}
    free()


def free() -> None:
    """Give back to the card what nobody holds."""
    import gc

    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
