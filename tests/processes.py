"""The processes that a process has started: tests of workers, and the script that kills them, look for those that are left."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def children(pid: int | None = None) -> set[int]:
    """Those that are not gone. `pid` None: of this process. None of one that is gone itself."""
    if sys.platform != "linux":
        asking = subprocess.Popen(["pgrep", "-P", str(pid or os.getpid())], stdout=subprocess.PIPE)
        return {int(found) for found in asking.communicate()[0].split()} - {asking.pid}
    try:
        threads = list(Path(f"/proc/{pid or os.getpid()}/task").iterdir())
        return {int(found) for thread in threads for found in (thread / "children").read_text().split()}
    except (FileNotFoundError, ProcessLookupError):
        return set()


def runs(pid: int) -> bool:
    """Whether there is such a process that does something yet: one that has ended, and whose parent has not looked, does nothing."""
    if sys.platform != "linux":
        return subprocess.run(["ps", "-p", str(pid)], capture_output=True, check=False).returncode == 0
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False
