"""What runs within the two processes of a sandbox: limits first, then the model's program, or the tests of it.

It is imported without site packages, and so may import nothing but Python's own library and its neighbours here. Values that go from one
process to the other are plain (`plain`). Once `hold` was called, a process can compute, import Python's library, and no more than its guard
leaves open.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from typing import Any, BinaryIO

from mlx_distill.evaluation.sandbox import guards, plain

ERRORS = 300
"""Characters of an error that are told."""
DEPTH = 2000
"""Python's own limit is 1,000: enough for most, and some honest programs recurse deeper. Within the C stack of any system."""


class Ended(Exception):
    """The other process is gone."""


class Channel:
    """Frames: a length in ASCII digits and a line's end, then so many bytes of JSON."""

    def __init__(self, reads: int, writes: int, longest: int):
        self._in: BinaryIO = os.fdopen(reads, "rb")
        self._out: BinaryIO = os.fdopen(writes, "wb", buffering=0)
        self._longest = longest

    def send(self, value: Any) -> None:
        data = json.dumps(value).encode()
        if len(data) > self._longest:
            raise ValueError(f"a value of {len(data):,} bytes; at most {self._longest:,} go from one process to the other")
        self._out.write(b"%d\n" % len(data) + data)

    def receive(self) -> Any:
        head = self._in.readline(20)
        if not head.strip().isdigit():
            raise Ended("the program was ended")
        size = int(head)
        if size > self._longest:
            raise ValueError(f"a value of {size:,} bytes; at most {self._longest:,} go from one process to the other")
        data = self._in.read(size)
        if len(data) < size:
            raise Ended("the program was ended")
        return json.loads(data)


def main() -> None:
    told = json.loads(sys.stdin.buffer.readline())
    limits = told["limits"]
    channel = Channel(told["reads"], told["writes"], limits["value"])
    verdicts = os.fdopen(os.dup(1), "wb", buffering=0)
    _quiet()
    sys.setrecursionlimit(DEPTH)
    guard = guards.hold(cpu_seconds=limits["cpu_seconds"], memory=limits["memory"], wrapped=told["wrapped"])
    if told["role"] == "tests":
        passed, reason = _tested(told, channel)
        verdicts.write(json.dumps({"token": told["token"], "passed": passed, "reason": reason}).encode())
    else:
        verdicts.write(guard.encode() + b"\n")
        verdicts.close()
        _serve(told, channel)


def _quiet() -> None:
    """What is printed goes nowhere."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nowhere, stream)
    os.close(nowhere)


# the program's process


def _serve(told: dict[str, Any], channel: Channel) -> None:
    """Answer calls until nobody calls any more."""
    try:
        function = _defined(told["code"], told["entry_point"])
    except BaseException as error:  # what the model wrote may raise what it likes
        function = _raising(error)
    while True:
        try:
            arguments, named = plain.decoded(channel.receive())
        except Ended:
            return
        try:
            channel.send({"value": plain.encoded(function(*arguments, **named))})
        except BaseException as error:
            channel.send({"error": type(error).__name__, "message": str(error)[:ERRORS]})


def _defined(code: str, entry_point: str) -> Callable[..., Any]:
    namespace: dict[str, Any] = {"__name__": "program"}
    exec(compile(code, "program", "exec"), namespace)
    function: Callable[..., Any] = namespace[entry_point]
    return function


def _raising(error: BaseException) -> Callable[..., Any]:
    def function(*_: object, **__: object) -> Any:
        raise error

    return function


# the tests' process


def _tested(told: dict[str, Any], channel: Channel) -> tuple[bool, str]:
    def candidate(*arguments: Any, **named: Any) -> Any:
        channel.send(plain.encoded((arguments, named)))
        answer = channel.receive()
        if "error" in answer:
            raise _error(str(answer["error"]), str(answer["message"]))
        return plain.decoded(answer["value"])

    namespace: dict[str, Any] = {"__name__": "tests"}
    try:
        exec(compile(told["setting"], "setting", "exec"), namespace)
        namespace[told["entry_point"]] = candidate  # tests may call it by its name too
        exec(compile(told["tests"], "tests", "exec"), namespace)
        namespace["check"](candidate)
    except AssertionError as error:
        return False, f"a test failed{f': {error}' if str(error) else ''}"[:ERRORS]
    except BaseException as error:
        return False, f"{type(error).__name__}: {error}"[:ERRORS]
    return True, ""


def _error(name: str, message: str) -> Exception:
    """The builtin one of that name, for tests that expect it; SystemExit and the like are none that a test may end with."""
    import builtins

    kind = getattr(builtins, name, None)
    if isinstance(kind, type) and issubclass(kind, Exception) and not issubclass(kind, AssertionError | UnicodeError):
        return kind(message)
    return RuntimeError(f"{name}: {message}")
