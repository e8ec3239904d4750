"""PyTorch as a backend: which device there is and what it computes in, how a base is opened, who packs weights.

Importing this module imports no PyTorch; `open_backend` does.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from mlx_distill.backends import allocation, held
from mlx_distill.backends.base import Backend, Machine, Ranks, RawTensor

if TYPE_CHECKING:
    import torch

    from mlx_distill.backends.torch.student import TorchStudent

NATIVE_BFLOAT16 = (8, 0)
"""The first compute capability whose tensor cores know bfloat16 (Ampere)."""


class TorchBackend:
    """On the CUDA device that is current when it is asked for (of several processes each has its own), or on the CPU."""

    @property
    def _device(self) -> torch.device:
        import torch

        return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")

    def machine(self) -> Machine:
        import torch

        from mlx_distill.backends.torch.student import working

        if self._device.type == "cuda":
            return self._card()
        name = f"CPU, {os.cpu_count()} cores, {platform.machine()}"
        return Machine("torch", name, allocation.memory(), "float32", working(self._device, torch.float32), blas=_blas())

    def _card(self) -> Machine:
        import torch

        from mlx_distill.backends.torch.student import working

        card = torch.cuda.get_device_properties(self._device)
        dtype = "bfloat16" if (card.major, card.minor) >= NATIVE_BFLOAT16 else "float16"
        takes = working(self._device, getattr(torch, dtype))
        return Machine("torch", card.name, int(card.total_memory), dtype, takes, blas="cuBLAS")

    def open(self, base: Path, *, adapters: Mapping[str, Path] | None = None, memory_limit: int | None = None) -> TorchStudent:
        import torch

        from mlx_distill.backends.torch.student import TorchStudent

        machine = self.machine()
        limit = memory_limit or machine.memory
        cuda = self._device.type == "cuda"
        if cuda:
            torch.cuda.set_per_process_memory_fraction(min(1.0, limit / machine.memory), self._device)
            torch.cuda.reset_peak_memory_stats(self._device)
        unpack = not cuda and held.unpacks(base, limit)
        dtype: torch.dtype = getattr(torch, machine.compute_dtype)
        return TorchStudent(base, adapters or {}, device=self._device, dtype=dtype, unpack=unpack, limit=limit)

    def weight_bytes(self, base: Path, *, memory_limit: int | None = None) -> int:
        return held.on_disk(base) if self._device.type == "cuda" else held.on_cpu(base, memory_limit or self.machine().memory)

    def join(self, environment: Mapping[str, str]) -> Ranks | None:
        from mlx_distill.backends.torch.ranks import join

        return join(environment)

    def quantize(self, shard: Mapping[str, RawTensor], *, bits: int | None, group_size: int, dtype: str | None) -> dict[str, RawTensor]:
        from mlx_distill.backends.torch.quantize import quantize

        return quantize(shard, bits=bits, group_size=group_size, dtype=dtype)


def _blas() -> str | None:
    """As PyTorch was built; None where it does not say."""
    import torch

    _, _, after = torch.__config__.show().partition("BLAS_INFO=")
    return {"mkl": "MKL", "open": "OpenBLAS", "accelerate": "Accelerate"}.get(after.partition(",")[0].strip())


def open_backend() -> Backend:
    allocation.keep_freed_pages()
    return TorchBackend()
