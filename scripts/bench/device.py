"""When a device has computed everything, and the most memory that it took: what the measured processes ask of the backend they run on.

mlx           bytes of MLX's arrays
torch, CUDA   bytes of PyTorch's allocator on the card
torch, CPU    resident bytes of the process, less those that it had when the device was made, after the imports and before the model.
              PyTorch does not count its tensors there; what malloc keeps of freed ones is in, on both sides.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from mlx_distill.memory import largest_bytes, resident_bytes

CLEAR_REFS = Path("/proc/self/clear_refs")
RESET_PEAK = "5"
"""See proc(5): the peak of resident memory becomes what is resident now."""


class Device(Protocol):
    def synchronize(self) -> None:
        """Wait until everything has been computed."""
        ...

    def restart_peak(self) -> None: ...

    def peak(self) -> int:
        """Bytes, since `restart_peak`."""
        ...

    def resident(self) -> int:
        """Bytes of the whole process at its largest, since it began."""
        ...


def device_of(backend: str) -> Device:
    """Made after the imports, before the model."""
    if backend == "mlx":
        return MlxDevice()
    import torch
    import transformers.models.qwen2.modeling_qwen2  # noqa: F401 - its code is 200 MB, and none of the memory that is measured

    return CudaDevice() if torch.cuda.is_available() else CpuDevice()


class MlxDevice:
    def synchronize(self) -> None:
        import mlx.core as mx

        mx.synchronize()

    def restart_peak(self) -> None:
        import mlx.core as mx

        mx.reset_peak_memory()

    def peak(self) -> int:
        import mlx.core as mx

        return int(mx.get_peak_memory())

    def resident(self) -> int:
        return largest_bytes()


class CudaDevice:
    def synchronize(self) -> None:
        import torch

        torch.cuda.synchronize()

    def restart_peak(self) -> None:
        import torch

        torch.cuda.reset_peak_memory_stats()

    def peak(self) -> int:
        import torch

        return int(torch.cuda.max_memory_allocated())

    def resident(self) -> int:
        return largest_bytes()


class CpuDevice:
    """Where the system cannot restart the peak (macOS), it is that of the whole process, loading included."""

    def __init__(self) -> None:
        self._before = resident_bytes() or 0
        self._largest = 0

    def synchronize(self) -> None:
        pass

    def restart_peak(self) -> None:
        self._largest = self.resident()
        if CLEAR_REFS.exists():
            CLEAR_REFS.write_text(RESET_PEAK)

    def peak(self) -> int:
        return largest_bytes() - self._before

    def resident(self) -> int:
        return max(self._largest, largest_bytes())
