"""Memory on Linux CPUs: what was freed is kept for the next tensor, and how much there is at all.

MLX and PyTorch call malloc for every tensor on a CPU, and glibc maps a large one anew each time: the kernel then clears its pages one by
one as they are first touched, which takes several times as long as an addition over them. With the thresholds raised, freed pages stay in
the process and are used again; its peak is the same, but it does not shrink in between. It knows nothing of tensors.
"""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
"""glibc's malloc.h."""
_LARGEST = 1 << 30
CGROUP_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


def keep_freed_pages() -> bool:
    """For this process, from now on. False where the C library has no such setting (macOS, musl)."""
    if sys.platform != "linux":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return all(mallopt(setting, value) == 1 for setting, value in ((_M_MMAP_THRESHOLD, _LARGEST), (_M_TRIM_THRESHOLD, 2**31 - 1)))


def memory(limits: tuple[Path, ...] = CGROUP_LIMITS) -> int:
    """Bytes: the machine's, or the container's where that has less."""
    found = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for path in limits:
        try:
            found = min(found, int(path.read_text(encoding="ascii")))
        except (OSError, ValueError):  # another version of cgroups, or "max"
            continue
    return found
