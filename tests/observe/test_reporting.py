"""What goes to trackers, and that no tracker can hold a training up. The trackers themselves: test_trackers.py."""

from __future__ import annotations

import io
import sys
import threading
from collections.abc import Sequence

import pytest

from mlx_distill import catalog
from mlx_distill.errors import DistillError
from mlx_distill.observe import reporting
from mlx_distill.observe.reporting import Channel, point_of, require
from mlx_distill.observe.trackers import Point

TIME = "2026-01-02T03:04:05.678Z"


class Ledger:
    """A tracker that keeps what it is told; it waits at its door, or refuses, where a test wants that."""

    known_as, place = "ledger", "here"

    def __init__(self, *, held: int = -1, refuses_from: int | None = None) -> None:
        self.steps: list[int] = []
        self.closed: list[str] = []
        self.door = threading.Event()
        self.door.set()
        self._held, self._refuses_from = held, refuses_from

    def last(self, part: str) -> int:
        return self._held

    def log(self, points: Sequence[Point]) -> None:
        self.door.wait()
        if self._refuses_from is not None and points[-1].step >= self._refuses_from:
            raise ConnectionError("no\nnetwork")
        self.steps += [point.step for point in points]

    def close(self, status: str) -> None:
        self.closed.append(status)


def point(step: int) -> Point:
    return Point(step, "train", 0.0, {"train/loss": 1.0})


def test_every_number_of_a_step_and_of_a_validation_is_a_figure() -> None:
    step = {"name": "step", "time": TIME, "step": 3, "steps": 9, "loss": 0.5, "grad_norm": None, "rows": 48, "note": "x", "applied": True}
    (found,) = point_of(step)
    assert (found.step, found.part, found.time) == (3, "train", pytest.approx(1767323045.678))
    assert found.figures == {"train/loss": 0.5, "train/rows": 48.0}
    validated = {"name": "validated", "time": TIME, "step": 3, "valid_loss": 0.7, "train_loss": 0.6, "best": True, "metrics": {"mae.a": 1}}
    (found,) = point_of(validated)
    assert found.figures == {"valid/loss": 0.7, "valid/train_loss": 0.6, "valid/mae.a": 1.0}
    assert list(point_of({"name": "checkpoint", "time": TIME, "step": 3})) == []


def test_a_step_is_told_once_and_none_that_stands_there_already() -> None:
    ledger = Ledger(held=4)
    channel = Channel("ledger", ledger, print)
    for step in (3, 4, 5, 6, 5, 6, 7):
        channel.put(point(step))
    channel.end("finished")
    channel.join(60)
    assert (ledger.steps, ledger.closed) == ([5, 6, 7], ["finished"])


def test_a_tracker_that_is_slow_holds_nobody_up_and_gets_everything_in_order() -> None:
    ledger = Ledger()
    ledger.door.clear()
    channel = Channel("ledger", ledger, print)
    for step in range(2000):
        channel.put(point(step))
    assert ledger.steps == []
    ledger.door.set()
    channel.end("finished")
    channel.join(60)
    assert ledger.steps == list(range(2000))


def test_a_tracker_that_fails_warns_once_and_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reporting, "AT_ONCE", 1)
    said: list[str] = []
    ledger = Ledger(refuses_from=3)
    channel = Channel("ledger", ledger, said.append)
    for step in range(6):
        channel.put(point(step))
    channel.end("finished")
    channel.join(60)
    assert ledger.steps == [0, 1, 2]
    assert len(said) == 1
    assert said[0].startswith("warning: no more is reported to ledger: ConnectionError: no network (")


def test_a_tracker_that_never_answers_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reporting, "MOST_WAITING", 10)
    said: list[str] = []
    for many in (5, 50):
        ledger = Ledger()
        ledger.door.clear()
        channel = Channel("ledger", ledger, said.append)
        for step in range(many):
            channel.put(point(step))
        channel.end("finished")
        channel.join(0.0)
        ledger.door.set()
    assert ["has not taken everything" in said[0], "10 points behind" in said[1], len(said)] == [True, True, 2]


@pytest.mark.parametrize("name", catalog.names("observe.trackers"))
def test_a_missing_library_is_said_with_the_extra_that_brings_it(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setitem(sys.modules, catalog.find("observe.trackers", name).LIBRARY, None)
    with pytest.raises(DistillError, match=f"--report-to {name} needs the library") as raised:
        require([name])
    assert raised.value.hint == f"pip install 'mlx-distill[{name}]'"


def test_a_warning_is_said_even_when_quiet() -> None:
    from mlx_distill.observe.progress import Progress

    out = io.StringIO()
    Progress(quiet=True, stream=out).warn("warning: x")
    assert out.getvalue() == "warning: x\n"
