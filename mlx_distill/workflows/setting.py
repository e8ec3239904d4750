"""What every workflow is given by the command line, and what it found out about its own process. It composes nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlx_distill.backends.base import Backend, Ranks, Student
from mlx_distill.observe.launched import rank_of
from mlx_distill.observe.memory import largest_bytes
from mlx_distill.observe.progress import Progress
from mlx_distill.recipe.load import Loaded, load

Document = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Setting:
    """Where to say things, where bases are kept, which backend; and the environment, for names in a recipe."""

    progress: Progress
    cache: Path
    backend: str = "auto"
    environment: Mapping[str, str] = field(default_factory=dict)
    report_to: Sequence[str] = ()
    """Trackers (observe/trackers/) that a training's figures go to."""

    def load(self, path: Path, sets: Sequence[str]) -> Loaded:
        return load(path, sets, environment=self.environment)

    def join(self) -> Ranks | None:
        """The processes that a launcher started together with this one, to train; it waits for them. None: it is alone."""
        from mlx_distill.backends.choose import choose

        return None if rank_of(self.environment) is None else choose(self.backend).join(self.environment)

    def choose(self) -> Backend:
        from mlx_distill.backends.choose import choose

        backend = choose(self.backend)
        if note := backend.machine().note:
            self.progress.say(f"note: {note}")
        return backend


def peak_memory(student: Student | None) -> int:
    """Bytes: the process's peak, or the device's where that is larger (unified memory does not all count as the process's)."""
    return max(largest_bytes(), student.peak_memory() if student is not None else 0)


def versions() -> dict[str, str]:
    """Of Python and of the packages that figures may depend on."""
    import platform
    from importlib.metadata import PackageNotFoundError, version

    found = {"python": platform.python_version()}
    for name in ("mlx-distill", "mlx", "mlx-lm", "numpy", "scikit-learn", "tokenizers", "transformers", "llguidance"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def in_bytes(gib: float | None) -> int | None:
    return None if gib is None else int(gib * 2**30)


def size(number: float) -> str:
    """Bytes, for people.

    >>> size(3 * 2**30), size(40 * 2**20)
    ('3.00 GiB', '40 MiB')
    """
    return f"{number / 2**30:.2f} GiB" if number >= 2**30 else f"{number / 2**20:.0f} MiB"
