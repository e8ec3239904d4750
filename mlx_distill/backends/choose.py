"""Which backend a name means. Nothing of a backend is imported before it is chosen.

`auto` takes the first of these that holds:

    a launcher started this process     the backend that it is for: mlx.launch is for mlx, torchrun for torch
    a run is gone on with               the one that it was trained with last
    a Mac with Apple's processor        mlx, which computes on Metal
    a CUDA device                       torch, where it is installed and built for CUDA
    a CPU                               torch, where it is installed; else mlx
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlx_distill.backends import present
from mlx_distill.errors import BackendError

if TYPE_CHECKING:
    from mlx_distill.backends.base import Backend

NAMES = ("auto", "mlx", "torch")
LAUNCHERS = {"mlx.launch": "mlx", "torchrun": "torch"}
"""What starts several processes of one training, and the backend by which they find one another."""
PACKAGES = {"mlx": ("mlx", "mlx_lm"), "torch": ("torch", "transformers")}
GET = {
    "mlx": "pip install mlx-lm 'mlx[cpu]' on Linux, pip install mlx-lm on a Mac",
    "torch": "pip install 'mlx-distill[torch]'; for an NVIDIA GPU the build that pytorch.org names for it",
}


@dataclass(frozen=True, slots=True)
class Choice:
    """`why`: what a user should know of it; empty where it is the obvious one, or the one that was asked for."""

    name: str
    why: str = ""


def choose(name: str = "auto", *, launcher: str | None = None, begun: str | None = None) -> Backend:
    """As `decide`, opened. Raises BackendError, also where the backend cannot start here."""
    return opened(decide(name, launcher=launcher, begun=begun))


def decide(name: str = "auto", *, launcher: str | None = None, begun: str | None = None) -> Choice:
    """`launcher`: what started this process with others. `begun`: the backend of a run that is gone on with.

    Raises BackendError where the backend is unknown, not installed, or not the launcher's.
    """
    if name not in NAMES:
        raise BackendError(f"no backend named {name!r}", hint=f"there is {', '.join(NAMES)}")
    if launcher is not None:
        return _launched(name, launcher)
    if name != "auto":
        return _there(Choice(name))
    if begun is not None:
        others = [f"--backend {it}" for it in PACKAGES if it != begun and not missing(it)]
        return _there(Choice(begun, "the run was begun with it"), "".join(f"; {other} goes on without it" for other in others))
    return _best()


def opened(choice: Choice) -> Backend:
    backend: Backend = importlib.import_module(f"mlx_distill.backends.{choice.name}.backend").open_backend()
    return backend


def missing(name: str) -> list[str]:
    """The packages that a backend needs and that are not installed."""
    return [package for package in PACKAGES[name] if not present.installed(package)]


def _launched(name: str, launcher: str) -> Choice:
    theirs = LAUNCHERS[launcher]
    if name not in ("auto", theirs):
        other = next(it for it, backend in LAUNCHERS.items() if backend == name)
        raise BackendError(f"processes of {launcher} compute with {theirs}, not with {name}", hint=f"start them with {other}")
    return _there(Choice(theirs, "" if name == theirs else f"started by {launcher}"))


def _there(choice: Choice, other: str = "") -> Choice:
    if choice.name not in PACKAGES:
        raise BackendError(f"the run was begun with the backend {choice.name!r}, which is not known", hint="name another: --backend")
    if lacking := missing(choice.name):
        was = f" ({choice.why})" if choice.why else ""
        verb = "is" if len(lacking) == 1 else "are"
        raise BackendError(
            f"--backend {choice.name}{was}: {' and '.join(lacking)} {verb} not installed here", hint=GET[choice.name] + other
        )
    return choice


def _best() -> Choice:
    """Of those that are installed, the fastest here."""
    there = [name for name in PACKAGES if not missing(name)]
    if not there:
        lacking = "; ".join(f"{name}: {GET[name]}" for name in PACKAGES)
        raise BackendError("neither MLX nor PyTorch is installed here", hint=lacking)
    if "mlx" in there and present.metal():
        return Choice("mlx")
    if present.cuda_devices() == 0:
        return Choice(_on_cpu(there), "no GPU here")
    if "torch" in there and present.cuda_of_torch() is not None:
        return Choice("torch")
    what = "PyTorch is a build for CPUs" if "torch" in there else "PyTorch is not installed"
    return Choice(_on_cpu(there), f"a CUDA device is here, but {what}: {GET['torch']}")


def _on_cpu(there: list[str]) -> str:
    """Of whatever base, packed or not: matmuls are alike, attention and exp are several times as fast by PyTorch (docs/backends.md)."""
    return "torch" if "torch" in there else "mlx"
