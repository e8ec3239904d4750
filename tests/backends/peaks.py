"""What arrays take at most while something runs: as a backend's own allocator counts them, so not the libraries, and not what lies free.

MLX counts by itself, and PyTorch on CUDA. On a CPU PyTorch tells its profiler of every block that is taken and freed, those that an
operator needs for itself too; what MKL and oneDNN take from malloc is not among them.
"""
# mypy: allow-subclassing-any

from __future__ import annotations

import gc
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from importlib.util import find_spec
from typing import Any


class Count(ABC):
    """Of all that is taken from `begun` on. `peak`: bytes, the most that there were of it within `measured`; known after `begun`."""

    peak: int

    @abstractmethod
    def begun(self) -> AbstractContextManager[None]: ...

    @abstractmethod
    def measured(self) -> AbstractContextManager[None]: ...


class MlxCount(Count):
    @contextmanager
    def begun(self) -> Iterator[None]:
        import mlx.core as mx

        gc.collect()
        before = mx.get_active_memory()
        yield
        self.peak = self._most - before

    @contextmanager
    def measured(self) -> Iterator[None]:
        import mlx.core as mx

        mx.synchronize()
        mx.reset_peak_memory()
        yield
        mx.synchronize()
        self._most = mx.get_peak_memory()


class TorchCount(Count):
    @contextmanager
    def begun(self) -> Iterator[None]:
        from torch.autograd.profiler import profile

        class Events(profile):
            """As they came: made into Python's objects they take ten times as long."""

            def _parse_kineto_results(self, result: Any) -> list[Any]:
                return []

        gc.collect()
        with Events(use_cpu=True, profile_memory=True) as seen:
            yield
        events = [event for event in seen.kineto_results.events() if event.name() in ("[memory]", "measured")]
        live = self.peak = 0
        until: int | None = None
        for event in sorted(events, key=lambda event: event.start_ns()):
            if event.name() == "measured":
                until, self.peak = event.end_ns(), live
                continue
            live += event.nbytes()
            if until is not None and event.start_ns() <= until:
                self.peak = max(self.peak, live)
        assert until is not None, "nothing was measured"

    def measured(self) -> AbstractContextManager[None]:
        from torch.autograd.profiler import record_function

        gc.collect()
        return record_function("measured")  # type: ignore[no-any-return]


COUNTS: dict[str, type[Count]] = {name: count for name, count in (("mlx", MlxCount), ("torch", TorchCount)) if find_spec(name) is not None}
