"""Which backend a name means. Nothing of a backend is imported before it is chosen."""

from __future__ import annotations

import importlib
import importlib.util

from mlx_distill.backends.base import Backend
from mlx_distill.errors import BackendError

NAMES = ("auto", "mlx")


def choose(name: str = "auto") -> Backend:
    """Raises BackendError where the backend is not installed, or cannot start here."""
    name = "mlx" if name == "auto" else name
    if name not in NAMES:
        raise BackendError(f"no backend named {name!r}", hint=f"there is {', '.join(NAMES)}")
    if importlib.util.find_spec("mlx") is None:
        raise BackendError("mlx is not installed here", hint="pip install 'mlx[cpu]' on Linux, pip install mlx on a Mac")
    backend: Backend = importlib.import_module(f"mlx_distill.backends.{name}.backend").open_backend()
    return backend
