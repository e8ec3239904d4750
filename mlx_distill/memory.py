"""What this process holds in memory, now and at most. It measures; it knows nothing of what is held."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
from pathlib import Path

STATM, STATUS = Path("/proc/self/statm"), Path("/proc/self/status")
CLEAR = Path("/proc/self/clear_refs")
TASK_BASIC_INFO = 20
"""MACH_TASK_BASIC_INFO in mach/task_info.h."""


class _TaskInfo(ctypes.Structure):
    """struct mach_task_basic_info."""

    _fields_ = (
        ("virtual_size", ctypes.c_uint64),
        ("resident_size", ctypes.c_uint64),
        ("resident_size_max", ctypes.c_uint64),
        ("user_time", ctypes.c_int32 * 2),
        ("system_time", ctypes.c_int32 * 2),
        ("policy", ctypes.c_int32),
        ("suspend_count", ctypes.c_int32),
    )


def resident_bytes() -> int | None:
    """Of its pages those that are in memory; None where the system does not say."""
    if sys.platform == "darwin":
        return _of_mach()
    try:
        return int(STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return None


_earlier = 0
"""The most that there were before `begin_again`."""


def begin_again() -> None:
    """`largest_since` is of what comes from now on, where the system can forget (Linux); else of this process's whole life."""
    global _earlier
    _earlier = largest_bytes()
    with contextlib.suppress(OSError), CLEAR.open("a") as file:  # no file, but the kernel's ear
        file.write("5")


def largest_bytes() -> int:
    """The most that there ever were."""
    return max(_earlier, largest_since())


def largest_since() -> int:
    """The most since the last `begin_again`."""
    import resource

    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if sys.platform == "darwin":
        return largest
    try:  # Linux counts into ru_maxrss what the process was before it became this program: a copy of the one that started it
        return 1024 * int(STATUS.read_text().partition("VmHWM:")[2].split()[0])
    except (OSError, ValueError, IndexError):
        return 1024 * largest


def _of_mach() -> int | None:
    libc = ctypes.CDLL(None)
    info, words = _TaskInfo(), ctypes.c_uint32(ctypes.sizeof(_TaskInfo) // 4)
    task = ctypes.c_uint32.in_dll(libc, "mach_task_self_")
    failed = libc.task_info(task, ctypes.c_uint32(TASK_BASIC_INFO), ctypes.byref(info), ctypes.byref(words))
    return None if failed else int(info.resident_size)
