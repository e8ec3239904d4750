"""What every workflow is given by the command line, and what it found out about its own process. It composes nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlx_distill.backends.base import Backend, Ranks, Student
from mlx_distill.memory import largest_bytes
from mlx_distill.observe.launched import launcher_of
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
    said: set[str] = field(default_factory=set)
    """Of the machine, so that a command of several stages says it once."""

    def load(self, path: Path, sets: Sequence[str]) -> Loaded:
        return load(path, sets, environment=self.environment)

    def join(self) -> Ranks | None:
        """The processes that a launcher started together with this one, to train; it waits for them. None: it is alone."""
        from mlx_distill.backends.choose import choose

        launcher = launcher_of(self.environment)
        return None if launcher is None else choose(self.backend, launcher=launcher).join(self.environment)

    def choose(self, *, begun: str | None = None) -> Backend:
        """`begun`: the backend of a run that is gone on with, which is kept unless another was asked for."""
        from mlx_distill.backends.choose import decide, opened

        choice = decide(self.backend, launcher=launcher_of(self.environment), begun=begun)
        backend = opened(choice)
        machine = backend.machine()
        self._say_once(f"backend: {choice.name} on {machine.device}" + (f" ({choice.why})" if choice.why else ""))
        if machine.note:
            self._say_once(f"note: {machine.note}")
        return backend

    def _say_once(self, line: str) -> None:
        if line not in self.said:
            self.said.add(line)
            self.progress.say(line)


def peak_memory(student: Student | None) -> int:
    """Bytes: the process's peak, or the device's where that is larger (unified memory does not all count as the process's)."""
    return max(largest_bytes(), student.peak_memory() if student is not None else 0)


def versions() -> dict[str, str]:
    """Of Python and of the packages that figures may depend on; `cuda` is what PyTorch was built with."""
    import platform
    from importlib.metadata import PackageNotFoundError, version

    from mlx_distill.backends.present import cuda_of_torch

    found = {"python": platform.python_version()}
    for name in ("mlx-distill", "mlx", "mlx-lm", "torch", "triton", "numpy", "scikit-learn", "tokenizers", "transformers", "llguidance"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    cuda = cuda_of_torch()
    return found if cuda is None else {**found, "cuda": cuda}


def in_bytes(gib: float | None) -> int | None:
    return None if gib is None else int(gib * 2**30)


def size(number: float) -> str:
    """Bytes, for people.

    >>> size(3 * 2**30), size(40 * 2**20)
    ('3.00 GiB', '40 MiB')
    """
    return f"{number / 2**30:.2f} GiB" if number >= 2**30 else f"{number / 2**20:.0f} MiB"
