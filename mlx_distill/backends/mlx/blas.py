"""A fast BLAS for MLX on Linux CPUs.

The Linux CPU wheel of MLX carries a reference BLAS: 3 to 6 GFLOP/s. With OpenBLAS in the process first, its symbols win and
fp32 matmuls run 20 to 30 times faster. This module must be called before the first import of `mlx.core`; it knows nothing of MLX.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import sys
from pathlib import Path

MISSING = (
    "no OpenBLAS here: MLX computes about 30 times slower; install it "
    "(Debian, Ubuntu: apt install libopenblas0; Fedora: dnf install openblas; in a checkout of mlx-distill: scripts/setup)"
)


def load_openblas() -> str | None:
    """The library that was put into the process, or None where there is none, or none is needed (macOS)."""
    if sys.platform != "linux":
        return None
    for path in _candidates():
        try:
            for helper in ("libquadmath.so.0", "libgfortran.so.5"):
                if (beside := _beside(path, helper)) is not None:
                    ctypes.CDLL(str(beside), ctypes.RTLD_GLOBAL)
            ctypes.CDLL(path, ctypes.RTLD_GLOBAL)
        except OSError:
            continue
        return path
    return None


def _candidates() -> list[str]:
    """The system's library first, then the one that scripts/setup brought into the environment."""
    own = sorted(Path(sys.prefix, "lib", "openblas").rglob("libopenblas.so.0"))
    system = ctypes.util.find_library("openblas")
    return ([system] if system else []) + [str(path) for path in own]


def _beside(library: str, name: str) -> Path | None:
    """The Fortran runtime that came with a library outside the system's folders."""
    root = Path(sys.prefix, "lib", "openblas")
    if not Path(library).is_relative_to(root):
        return None
    return next(iter(sorted(root.rglob(name))), None)
