"""Code that a model wrote, run against tests, where it does no harm and cannot say of itself that it passed.

    verdict = judge(Case(program=..., entry_point="add", setting=..., tests=...), Limits())
    verdict.passed, verdict.reason, verdict.guard

Two processes are started, each of its own session, with an empty environment, an empty working folder and limits (`inside`):

    program     runs what the model wrote, and answers calls of its one function with plain values
    tests       runs the tests, in which that function is a call of the other process, and tells the verdict

The verdict comes through a pipe that the first process does not have, with a token that it is not given: it cannot be had by printing, by
leaving early with success, or by changing the interpreter that the program runs in. That, and how little harm is done, is as sure as what
holds the two processes:

    kernel      Linux on x86-64 and ARM64: a filter of system calls, and Landlock. No network, no other process is started, signalled or
                looked into, no file is written, and none read but in the folders of Python's library and of the system's shared libraries
    calls       the same without Landlock, which the kernel lacks or a container forbids: what this user may read can be read, and so can
                the memory and environment of his processes, but for these two and those that have a superuser's powers
    sandbox     macOS: sandbox-exec. No network, no other process is started, no file is written; it says nothing of reading and signals
    python      elsewhere: nothing but a hook

That hook of the interpreter's own is set everywhere: it refuses all of it, and lets nothing be read but Python's own library. It holds what
code does by mistake, and not what it does by malice, for a program can change it. What is read in spite of it goes nowhere but to the
tests, as a value, and from there into `reason`, as an error's text: output is thrown away. Names, sizes and times of files and where links
lead can be asked for under every guard. `guard` says what held, and a report repeats it.
"""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import tempfile
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from mlx_distill.evaluation.sandbox.processes import Pipes, kill, spawn

GUARDS = ("kernel", "calls", "sandbox", "python")
LONGEST_VERDICT = 4096
"""Bytes of a verdict that are read."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Of each of the two processes; `seconds` of both together."""

    seconds: float = 10.0
    """On the wall's clock."""
    cpu_seconds: int = 8
    memory: int = 1 << 30
    """Bytes of address space."""
    value: int = 1 << 22
    """Bytes of one value that goes from one process to the other."""


@dataclass(frozen=True, slots=True)
class Case:
    """`tests` define `check(candidate)`, as HumanEval's do, and raise where the program is wrong."""

    program: str
    entry_point: str
    setting: str
    """What the tests may use beside the function: they run behind it, in the process of theirs. Not the model's."""
    tests: str


@dataclass(frozen=True, slots=True)
class Verdict:
    passed: bool
    reason: str
    """Why it did not pass; empty where it did."""
    guard: str
    """One of GUARDS; empty where a process ended before it could say."""


def judge(case: Case, limits: Limits | None = None) -> Verdict:
    """Whether the program passes. Never raises for what a program does; at the end neither process is left."""
    limits = limits or Limits()
    token = secrets.token_hex(16)
    shared: dict[str, Any] = {"limits": asdict(limits), "entry_point": case.entry_point}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mlx-distill-")))
        pipes = stack.enter_context(Pipes())
        program = stack.enter_context(kill(spawn("program", {**shared, "code": case.program}, pipes.program, folder)))
        told = {**shared, "setting": case.setting, "tests": case.tests, "token": token}
        tests = stack.enter_context(kill(spawn("tests", told, pipes.tests, folder)))
        pipes.close()  # each end is left to its process: one that is gone is seen to be gone
        return _verdict(tests, program, token, time.monotonic() + limits.seconds)


def _verdict(tests: subprocess.Popen[bytes], program: subprocess.Popen[bytes], token: str, until: float) -> Verdict:
    assert tests.stdout is not None and program.stdout is not None
    try:
        tests.wait(max(0.0, until - time.monotonic()))
    except subprocess.TimeoutExpired:
        return Verdict(False, "took too long", _said(program.stdout))
    guard = _said(program.stdout)
    try:
        told = json.loads(tests.stdout.read(LONGEST_VERDICT))
    except ValueError:
        return Verdict(False, "the tests were ended before they were over", guard)
    if not secrets.compare_digest(str(told.get("token")), token):
        return Verdict(False, "the tests did not tell their verdict", guard)
    return Verdict(bool(told["passed"]), str(told["reason"]), guard)


def _said(stream: IO[bytes]) -> str:
    """What holds the process, as it said before it ran anything of the model's: what comes behind the first line is not believed."""
    os.set_blocking(stream.fileno(), False)
    first = (stream.read(LONGEST_VERDICT) or b"").partition(b"\n")[0].decode("ascii", "replace")
    return first if first in GUARDS else ""


def works() -> Verdict:
    """Of a program that is right. Where it does not pass, no program can be judged here."""
    tests = "def check(candidate):\n    assert candidate(2, b=[(3, 4.5)]) == {2: [(3, 4.5)]}\n"
    return judge(Case("def pair(a, b):\n    return {a: b}\n", "pair", "", tests))
