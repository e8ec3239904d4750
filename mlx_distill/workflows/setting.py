"""What every workflow is given by the command line, and what it found out about its own process. It composes nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlx_distill.backends.base import Backend, Student
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

    def load(self, path: Path, sets: Sequence[str]) -> Loaded:
        return load(path, sets, environment=self.environment)

    def choose(self) -> Backend:
        from mlx_distill.backends.choose import choose

        backend = choose(self.backend)
        if note := backend.machine().note:
            self.progress.say(f"note: {note}")
        return backend


def peak_memory(student: Student) -> int:
    """Bytes: the process's peak, or the device's where that is larger (unified memory does not all count as the process's)."""
    import resource
    import sys

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return max(peak if sys.platform == "darwin" else peak * 1024, student.peak_memory())


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
