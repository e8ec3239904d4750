"""What a process of a sandbox gives up before it runs what a model wrote: time, memory, files, processes, the network.

    hold(cpu_seconds=8, memory=1 << 30, wrapped=False)      "kernel", "calls", "sandbox" or "python": who holds it from now on

Limits (setrlimit) and a hook of the interpreter are set everywhere; `landlock` (what is read) and a filter of `syscalls` (all the rest)
where the system has them. On Linux a superuser's powers are given up. It imports Python's own library alone.
"""

from __future__ import annotations

import contextlib
import gc
import os
import resource
import struct
import sys
from typing import Any

from mlx_distill.evaluation.sandbox import landlock, syscalls

HELD = (
    "socket.", "subprocess.", "ctypes.", "shutil.", "tempfile.", "ftplib.", "smtplib.", "urllib.", "http.", "mmap.", "fcntl.", "pty.",
    "os.chmod", "os.chown", "os.exec", "os.fork", "os.forkpty", "os.kill", "os.killpg", "os.link", "os.lockf", "os.mkdir", "os.posix_spawn",
    "os.putenv", "os.remove", "os.rename", "os.rmdir", "os.setxattr", "os.removexattr", "os.spawn", "os.startfile", "os.symlink",
    "os.system", "os.truncate", "os.unlink", "os.utime", "resource.setrlimit", "resource.prlimit", "signal.pthread_kill", "syslog.",
)  # fmt: skip
"""Beginnings of the names of what is refused, as `sys.audit` calls it."""
MODULES = ("ctypes", "_ctypes", "_posixsubprocess", "multiprocessing", "mlx_distill")
CAPABILITIES_VERSION_3, CAP_DAC_READ_SEARCH = 0x20080522, 1 << 2
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


def hold(*, cpu_seconds: int, memory: int, wrapped: bool) -> str:
    """For the rest of this process's life. `wrapped`: sandbox-exec holds it already."""
    _limit(cpu_seconds, memory)
    _give_up_powers()
    reading = landlock.restrict()
    calls = syscalls.install()  # last: it allows nobody to restrict anything any more
    for name in [name for name in sys.modules if name.partition(".")[0] in ("ctypes", "_ctypes")]:
        del sys.modules[name]
    gc.collect()
    roots = tuple(place + os.sep for place in landlock.library())
    sys.addaudithook(lambda event, arguments: _refuse(event, arguments, roots))
    if calls:
        return "kernel" if reading else "calls"
    return "sandbox" if wrapped else "python"


def _limit(cpu_seconds: int, memory: int) -> None:
    """Each as far as the system lets it be set: macOS knows no limit of the address space, and a superuser none of processes."""
    wanted = {
        resource.RLIMIT_CPU: cpu_seconds,
        resource.RLIMIT_AS: memory,
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_NPROC: 1,
        resource.RLIMIT_NOFILE: 32,
    }
    for which, most in wanted.items():
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(which, (most, most))


def _give_up_powers() -> None:
    """Of a superuser on Linux (man 7 capabilities): all but that of reading, for Python may be installed where only another may read."""
    if sys.platform != "linux":
        return
    import ctypes

    libc = ctypes.CDLL(None)
    header, powers = struct.pack("=Ii", CAPABILITIES_VERSION_3, 0), ctypes.create_string_buffer(24)
    if libc.capget(header, powers) == 0:
        kept = struct.unpack_from("=6I", powers)[1] & CAP_DAC_READ_SEARCH
        libc.capset(header, struct.pack("=6I", kept, kept, 0, 0, 0, 0))  # effective, permitted, inheritable; and those above 31


def _refuse(event: str, arguments: tuple[Any, ...], roots: tuple[str, ...]) -> None:
    """Python's own hook: it says in words what the kernel would refuse without any.

    It stops what is done by mistake. Python has no call that takes it off, but it is a function of this process, which a program that means
    to can change. `roots`: the folders of Python's library; it lets nothing else be read.
    """
    if event == "open" and _writes(arguments):
        raise PermissionError(f"no file may be written here: {arguments[0]!r}")
    if event == "open" and not os.path.realpath(os.fsdecode(arguments[0])).startswith(roots):
        raise PermissionError(f"no file may be read here: {arguments[0]!r}")
    if event == "import" and str(arguments[0]).partition(".")[0] in MODULES:
        raise ImportError(f"{arguments[0]} may not be imported here")
    if event.startswith(HELD):
        raise PermissionError(f"{event} is not allowed here")


def _writes(arguments: tuple[Any, ...]) -> bool:
    """`open` tells a mode, `os.open` none; both tell flags."""
    mode, flags = (*arguments, None, None)[1:3]
    by_mode = isinstance(mode, str) and bool(set(mode) & set("wax+"))
    return by_mode or (isinstance(flags, int) and bool(flags & WRITES))
