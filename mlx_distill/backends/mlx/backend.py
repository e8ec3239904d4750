"""MLX as a backend: what the machine is, how a base is opened, who packs weights.

Importing this module imports MLX, so nobody does before this backend is chosen; `open_backend` puts OpenBLAS into the process first.
"""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from mlx_distill.backends import allocation, held
from mlx_distill.backends.base import Backend, Machine, Ranks, RawTensor
from mlx_distill.backends.mlx.blas import MISSING, load_openblas
from mlx_distill.models.estimates import Device

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

        from mlx_distill.backends.mlx import attention, loss

        if self._metal:
            info = mx.device_info()
            memory = int(info["max_recommended_working_set_size"])
            return Machine("mlx", str(info["device_name"]), memory, "bfloat16", Device(2, attention.TILE_GPU, loss.LOGITS_GPU))
        device = f"CPU, {os.cpu_count()} cores, {platform.machine()}"
        note = MISSING if self._blas is None and platform.system() == "Linux" else None
        working = Device(4, attention.TILE_CPU, loss.LOGITS_CPU)
        return Machine("mlx", device, allocation.memory(), "float32", working, blas="OpenBLAS" if self._blas else None, note=note)

    def open(self, base: Path, *, adapters: Mapping[str, Path] | None = None, memory_limit: int | None = None) -> MlxStudent:
        import mlx.core as mx

        from mlx_distill.backends.mlx.student import MlxStudent

        limit = memory_limit or self.machine().memory
        mx.set_memory_limit(limit)
        # Unbounded, freed buffers of odd lengths pile up until the machine swaps. On CPUs malloc keeps them (see allocation).
        mx.set_cache_limit(min(limit // 4, 2 << 30) if self._metal else 0)
        mx.reset_peak_memory()
        if self._metal:
            return MlxStudent(base, adapters or {}, cast=None, limit=limit)
        return MlxStudent(base, adapters or {}, cast="float32", unpack=held.unpacks(base, limit), limit=limit)

    def weight_bytes(self, base: Path, *, memory_limit: int | None = None) -> int:
        return held.on_disk(base) if self._metal else held.on_cpu(base, memory_limit or self.machine().memory)

    def join(self, environment: Mapping[str, str]) -> Ranks | None:
        from mlx_distill.backends.mlx.ranks import join

        return join(environment)

    def quantize(self, shard: Mapping[str, RawTensor], *, bits: int | None, group_size: int, dtype: str | None) -> dict[str, RawTensor]:
        from mlx_distill.backends.mlx.quantize import quantize

        return quantize(shard, bits=bits, group_size=group_size, dtype=dtype)


def open_backend() -> Backend:
    blas = load_openblas()
    allocation.keep_freed_pages()
    return MlxBackend(blas)
