"""The two processes of a sandbox, from outside: how they are started, what they are given, and that neither is left."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import mlx_distill

ROOT = Path(mlx_distill.__file__).parent.parent
START = "import sys; sys.path.insert(0, {root!r}); from mlx_distill.evaluation.sandbox.inside import main; sys.path.pop(0); main()"
"""Without site packages: of this package nothing is imported but what needs no other."""
PROFILE = """(version 1)
(allow default)
(deny network*)
(deny file-write*)
(allow file-write-data (literal "/dev/null"))
(deny process-fork)
(deny process-exec*)
(allow process-exec* (subpath "{prefix}"))
"""
"""Of macOS: no network, no other process, nothing written but to the pipes that are open already. Python may be a stub that runs another
file of its own (a framework's), so what lies beside it may be run, within the same sandbox."""
SANDBOX_EXEC = Path("/usr/bin/sandbox-exec")


class Pipes:
    """Two pipes between the processes: calls one way, values the other. Closed at the end, whoever closed them before."""

    def __init__(self) -> None:
        called, calls = os.pipe()
        valued, values = os.pipe()
        self.tests, self.program = (valued, calls), (called, values)
        """Of each process: what it reads, what it writes."""

    def close(self) -> None:
        ends, self.tests, self.program = (*self.tests, *self.program), (-1, -1), (-1, -1)
        for end in ends:
            if end >= 0:
                os.close(end)

    def __enter__(self) -> Pipes:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def spawn(role: str, told: Mapping[str, Any], ends: tuple[int, int], folder: Path) -> subprocess.Popen[bytes]:
    """A process that has nothing of ours but what it is told, through its standard input, and two ends of pipes."""
    wrapped = sys.platform == "darwin" and SANDBOX_EXEC.is_file()
    command = [sys.executable, "-I", "-S", "-B", "-X", "utf8", "-c", START.format(root=str(ROOT))]
    if wrapped:
        real = Path(sys.executable).resolve()  # a virtual environment's is a link
        command = [str(SANDBOX_EXEC), "-p", PROFILE.format(prefix=Path(sys.base_prefix).resolve()), str(real), *command[1:]]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env={}, cwd=folder,
        pass_fds=ends, start_new_session=True,
    )  # fmt: skip
    assert process.stdin is not None
    message = {"role": role, "reads": ends[0], "writes": ends[1], "wrapped": wrapped, **told}
    with contextlib.suppress(BrokenPipeError):  # it ended before it had listened: then it tells no verdict either
        process.stdin.write(json.dumps(message).encode() + b"\n")
        process.stdin.close()
    return process


@contextlib.contextmanager
def kill(process: subprocess.Popen[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    """On leaving it is ended, with all of its session, and waited for."""
    try:
        yield process
    finally:
        if process.poll() is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()
