"""What is on this machine to compute with, found out without importing a tensor library: packages by their files, a GPU by its driver.

It knows no backend, and prefers nothing.
"""

from __future__ import annotations

import ctypes
import importlib.util
import platform
import re
import sys
from pathlib import Path

DRIVERS = ("libcuda.so.1", "nvcuda.dll")
"""NVIDIA's driver on Linux and on Windows."""


def installed(package: str) -> bool:
    """Could it be imported?

    >>> installed("json"), installed("no_such_package")
    (True, False)
    """
    try:
        return importlib.util.find_spec(package) is not None
    except (ImportError, ValueError):  # somebody refuses it, or has put something odd in its place
        return False


def metal() -> bool:
    """Is this a Mac with Apple's own processor?"""
    return sys.platform == "darwin" and platform.machine() == "arm64"


def cuda_devices() -> int:
    """How many NVIDIA GPUs this process may use, as the driver says: CUDA_VISIBLE_DEVICES may hide some."""
    for name in DRIVERS:
        try:
            driver = ctypes.CDLL(name)
        except OSError:
            continue
        count = ctypes.c_int(0)
        if driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0:
            return count.value
    return 0


def cuda_of_torch() -> str | None:
    """The version of CUDA that the installed PyTorch was built with ("12.8"). None: it is built for CPUs, or not installed."""
    try:
        found = importlib.util.find_spec("torch") if installed("torch") else None
        text = Path(found.origin).with_name("version.py").read_text(encoding="utf-8") if found and found.origin else ""
    except OSError:
        return None
    version = re.search(r"^cuda\b[^=\n]*=\s*['\"]([\d.]+)['\"]", text, re.MULTILINE)
    return version[1] if version else None
