"""What files this process may read, for good: in the folders of Python's library, and of the system's libraries that it has loaded.

Linux's Landlock (man 7 landlock; Salaün, 2021; Linux 5.13, where it is switched on). Modules are imported when a program asks for them, and
some need a library of the system's (hashlib: OpenSSL), so that files cannot be closed altogether. The rest fails as not permitted, for a
superuser too, under any name (links, /proc). The process is cut off from others besides: it cannot trace one, nor read its memory or
environment. Names, sizes and times of files can still be asked for, and what is open already stays open.
"""

from __future__ import annotations

import contextlib
import os
import struct
import sys
from collections.abc import Iterable
from pathlib import Path

CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446
"""System calls: their numbers are the same on every machine."""
PATH_BENEATH, NO_NEW_PRIVS = 1, 38
READ_FILE, READ_DIR, EVERYTHING = 1 << 2, 1 << 3, (1 << 13) - 1
"""Rights: EVERYTHING that the first version knows, from running files to making them."""
CACHE = "/etc/ld.so.cache"
"""Where the dynamic linker finds libraries."""


def library() -> list[str]:
    """Python's own: what modules are looked for in. Real paths."""
    return [os.path.realpath(place) for place in sys.path if place]


def shared_libraries() -> list[str]:
    """The folders of those that this process has loaded, which hold those that it has not loaded yet."""
    lines = Path("/proc/self/maps").read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    paths = {line.split(maxsplit=5)[-1] for line in lines if ".so" in line}
    return sorted({str(Path(path).parent) for path in paths if path.startswith("/")} - {"/"})


def restrict() -> bool:
    """Whether it holds from now on; false where the system has no such thing."""
    if sys.platform != "linux" or sys.maxsize < 2**32:
        return False
    with contextlib.suppress(OSError):
        return _restrict([*library(), *shared_libraries(), CACHE])
    return False


def _restrict(readable: Iterable[str]) -> bool:
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    long = ctypes.c_long
    ruleset = libc.syscall(long(CREATE_RULESET), struct.pack("=Q", EVERYTHING), long(8), long(0))
    if ruleset < 0:
        return False
    for path in filter(os.path.exists, readable):
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)
        rights = READ_FILE | (READ_DIR if Path(path).is_dir() else 0)
        added = libc.syscall(long(ADD_RULE), long(ruleset), long(PATH_BENEATH), struct.pack("=Qi", rights, place), long(0))
        os.close(place)
        if added != 0:
            return False
    libc.prctl(long(NO_NEW_PRIVS), long(1), long(0), long(0), long(0))
    held = libc.syscall(long(RESTRICT_SELF), long(ruleset), long(0))
    os.close(ruleset)
    return bool(held == 0)
