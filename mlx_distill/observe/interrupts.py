"""Ctrl-C and SIGTERM: an exception (`Stopped`), or a question that a loop asks so that it can finish its step and save.

    with deferred() as interrupted:
        while not interrupted(): ...

The first signal is remembered, a second one breaks off at once.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(KeyboardInterrupt):
    """Ctrl-C or SIGTERM. Of a plain KeyboardInterrupt that passes through an exec(), Python dies in the end, though it was caught."""


def stop(number: int, frame: FrameType | None) -> None:
    """A handler."""
    raise Stopped


@contextmanager
def deferred(first: Callable[[], None] = lambda: None) -> Iterator[Callable[[], bool]]:
    """`first` is called at the first signal, within its handler.

    Outside the main thread, where Python has no signals, nothing is ever interrupted.
    """
    seen: list[int] = []

    def remember(number: int, frame: FrameType | None) -> None:
        if seen:
            raise Stopped
        seen.append(number)
        first()

    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    before = {number: signal.signal(number, remember) for number in SIGNALS}
    try:
        yield lambda: bool(seen)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
