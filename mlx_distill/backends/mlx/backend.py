"""MLX as a backend: what the machine is, how a base is opened, who packs weights.

Importing this module imports MLX, so nobody does before this backend is chosen; `open_backend` puts OpenBLAS into the process first.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from mlx_distill.backends.base import Backend, Machine, RawTensor
from mlx_distill.backends.mlx.blas import MISSING, load_openblas

if TYPE_CHECKING:
    from mlx_distill.backends.mlx.student import MlxStudent


class MlxBackend:
    def __init__(self, blas: str | None):
        import mlx.core as mx

        self._blas = blas
        self._metal = mx.metal.is_available()
        if not self._metal and shutil.which("g++") is None:
            mx.disable_compile()  # on CPUs MLX compiles fused kernels with g++, by that name; older releases (0.29) fail without it

    def machine(self) -> Machine:
        import mlx.core as mx

        if self._metal:
            info = mx.device_info()
            return Machine("mlx", str(info["device_name"]), int(info["max_recommended_working_set_size"]), "bfloat16")
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        device = f"CPU, {os.cpu_count()} cores, {platform.machine()}"
        note = MISSING if self._blas is None and platform.system() == "Linux" else None
        return Machine("mlx", device, memory, "float32", blas="OpenBLAS" if self._blas else None, note=note)

    def open(self, base: Path, *, adapters: Mapping[str, Path] | None = None, memory_limit: int | None = None) -> MlxStudent:
        import mlx.core as mx

        from mlx_distill.backends.mlx.student import MlxStudent

        limit = memory_limit or self.machine().memory
        mx.set_memory_limit(limit)
        mx.set_cache_limit(min(limit // 4, 2 << 30))  # unbounded, freed buffers of odd lengths pile up until the machine swaps
        mx.reset_peak_memory()
        if self._metal:
            return MlxStudent(base, adapters or {}, cast=None)
        return MlxStudent(base, adapters or {}, cast="float32", unpack=_dense_bytes(base) <= limit // 2)

    def quantize(self, shard: Mapping[str, RawTensor], *, bits: int | None, group_size: int, dtype: str | None) -> dict[str, RawTensor]:
        from mlx_distill.backends.mlx.quantize import quantize

        return quantize(shard, bits=bits, group_size=group_size, dtype=dtype)


def _dense_bytes(base: Path) -> float:
    """What the base's weights take in float32. Infinite where the base does not say how many it has."""
    try:
        index = json.loads((base / "model.safetensors.index.json").read_text(encoding="utf-8"))
        return 4.0 * int(index["metadata"]["total_parameters"])
    except (OSError, ValueError, KeyError):
        return float("inf")


def open_backend() -> Backend:
    return MlxBackend(load_openblas())
