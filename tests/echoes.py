"""Workers without a model, for what a crew does with workers: an answer is the text itself, and some texts are the worker's end.

Such a worker begins in a fraction of the time that a tensor library takes to be imported. What it does to itself is real.
"""

from __future__ import annotations

import json
import os
import resource
import signal
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from mlx_distill.errors import BackendError, CheckpointError, DoesNotFit
from mlx_distill.inference.row import Counts
from mlx_distill.inference.worker import Opened
from mlx_distill.records import BadRow, Example, Prediction

ROOM = 3 << 30
"""Bytes of addresses that such a worker may have."""
PEAK = 1000


class Echo:
    """As much of an Engine as a worker asks for. Rows are kept back until no more come: they are unanswered when one of them kills."""

    def __init__(self) -> None:
        self.counts = Counts()

    def numbered(self, examples: Iterable[Example | BadRow | None]) -> Iterator[tuple[int, Prediction | BadRow]]:
        kept: list[Prediction] = []
        number = 0
        for example in examples:
            if isinstance(example, Example):
                if example.text == "alone" and kept:
                    raise DoesNotFit("it has no room beside others", hint="send it alone")
                kept.append(self._answer(example))
            else:
                yield from enumerate(kept, start=number)
                number, kept = number + len(kept), []

    def _answer(self, example: Example) -> Prediction:
        self.counts.prefill += len(example.text)
        end, _, what = example.text.partition(" ")
        if end == "signal":
            os.kill(os.getpid(), getattr(signal, what))
        elif end == "error":
            raise RuntimeError(what)
        elif end == "allocate":
            bytearray(int(what))  # more than ROOM
        elif end == "exit":
            os.write(2, f"some library: {what}\n".encode())
            os._exit(7)
        elif end == "refuse":
            raise BackendError(what, hint="mend it")
        return Prediction(example.id, {"text": example.text, "at": os.environ.get("CUDA_VISIBLE_DEVICES", "")}, {})


@dataclass(frozen=True)
class Opens:
    """`damaged`, `crashing`: devices at which nothing can be opened: the worker says so, or is gone. `notes`: see Opened."""

    students: tuple[str, ...] = ("water",)
    damaged: tuple[str, ...] = ()
    crashing: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def __call__(self) -> Opened:
        device = os.environ.get("CUDA_VISIBLE_DEVICES", "")
        if device in self.damaged:
            raise CheckpointError(f"device {device} reads no base", hint="bring it back")
        if device in self.crashing:
            os.kill(os.getpid(), signal.SIGKILL)
        resource.setrlimit(resource.RLIMIT_AS, (ROOM, ROOM))
        return Opened({name: Echo() for name in self.students}, lambda: PEAK, lambda: self.notes, json.dumps({"said": device}))
