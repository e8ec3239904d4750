"""The figures of a training on their way to trackers. They go in threads of their own, so that a slow network slows no step; a tracker that
fails says so once, and the training goes on.

    require(["wandb"])                                  before anything is done: are the libraries there?
    with reporting(["wandb"], card, ...) as report:
        events.subscribers.append(report)

Which training of a tracker's is this Run's stands in the Run: trackers.json. Of each step a tracker is told once: what stands there
already is not told again, and what it has missed (the training began without it, or a kill came first) is told first.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import json
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime

from mlx_distill import catalog
from mlx_distill.errors import DistillError
from mlx_distill.files import write_json
from mlx_distill.observe.events import Event
from mlx_distill.observe.progress import Progress
from mlx_distill.observe.trackers import Card, Point, Tracker

KIND = "observe.trackers"
AT_ONCE = 500
"""Points handed over together, where a tracker is slower than the training."""
MOST_WAITING = 20_000
"""Points that may wait for a tracker. One that is so far behind is given up."""
PATIENCE = 60.0
"""Seconds that the end of a training waits for a tracker."""
HURRY = 3.0
"""Where somebody has broken it off."""
PARTS = {"step": "train", "validated": "valid"}
NO_FIGURES = {"name", "time", "step", "steps"}


def require(names: Sequence[str]) -> None:
    """Raises DistillError where a tracker's library is not installed."""
    for name in names:
        library = catalog.find(KIND, name).LIBRARY
        try:
            importlib.import_module(library)
        except ImportError as error:
            hint = f"pip install 'mlx-distill[{name}]'"
            raise DistillError(f"--report-to {name} needs the library {library}: {error}", hint=hint) from None


@contextlib.contextmanager
def reporting(names: Sequence[str], card: Card, history: Sequence[Event], progress: Progress) -> Iterator[Report]:
    """`history`: the events of the sessions before. Raises DistillError where a tracker cannot be opened: that is the user's to mend."""
    points = [point for event in history for point in point_of(event)]
    channels: list[Channel] = []
    status, patience = "failed", PATIENCE
    report = Report(channels)
    try:
        for name in names:
            with progress.step(f"open {name}"):
                channels.append(Channel(name, _opened(name, card, points), progress.warn))
            progress.say(f"reporting to {name}: {channels[-1].place}")
        for point in points:
            report.tell(point)
        yield report
        status = "interrupted" if report.interrupted else "finished"
    except KeyboardInterrupt:
        status, patience = "interrupted", HURRY
        raise
    finally:
        for channel in channels:
            channel.end(status)
        for channel in channels:
            channel.join(patience)


def point_of(event: Event) -> Iterator[Point]:
    """The numbers of a step or a validation: train/loss, valid/loss, valid/tier_agreement. Other events have none."""
    part = PARTS.get(event["name"])
    if part is None:
        return
    given = {**event, **(event.get("metrics") or {})}
    figures = {
        f"{part}/{name.removeprefix(f'{part}_')}": float(value)
        for name, value in given.items()
        if name not in NO_FIGURES and isinstance(value, (int, float)) and not isinstance(value, bool)
    }
    yield Point(event["step"], part, datetime.fromisoformat(event["time"]).timestamp(), figures)


class Report:
    """A subscriber of events."""

    def __init__(self, channels: Sequence[Channel]) -> None:
        self.channels = channels
        self.interrupted = False

    def __call__(self, event: Event) -> None:
        self.interrupted = self.interrupted or event["name"] == "interrupted"
        for point in point_of(event):
            self.tell(point)

    def tell(self, point: Point) -> None:
        for channel in self.channels:
            channel.put(point)


class Channel:
    """A tracker and the thread that it is told in."""

    def __init__(self, name: str, tracker: Tracker, warn: Callable[[str], None]) -> None:
        self.place = tracker.place
        self._name, self._tracker, self._warn = name, tracker, warn
        self._told = {part: tracker.last(part) for part in PARTS.values()}
        self._waiting: queue.Queue[Point | str] = queue.Queue()
        self._failed = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"report to {name}", daemon=True)
        self._thread.start()

    def put(self, point: Point) -> None:
        """Returns at once. A step that this tracker knows already is not told again."""
        if self._failed.is_set() or point.step <= self._told[point.part]:
            return
        if self._waiting.qsize() >= MOST_WAITING:
            self._give_up(f"it is {MOST_WAITING:,} points behind")
            return
        self._told[point.part] = point.step
        self._waiting.put(point)

    def end(self, status: str) -> None:
        self._waiting.put(status)

    def join(self, patience: float) -> None:
        self._thread.join(patience)
        if self._thread.is_alive() and not self._failed.is_set():
            self._give_up(f"it has not taken everything within {patience:.0f} s")

    def _run(self) -> None:
        while True:
            points, status = self._next()
            try:
                if points and not self._failed.is_set():
                    self._tracker.log(points)
                if status is not None:
                    self._tracker.close(status)
            except Exception as error:  # whatever a foreign library and its network come up with
                self._give_up(f"{type(error).__name__}: {error}")
            if status is not None:
                return

    def _next(self) -> tuple[list[Point], str | None]:
        """What waits, in order, and how it ended where that stands behind it."""
        points: list[Point] = []
        found = self._waiting.get()
        while not isinstance(found, str):
            points.append(found)
            if len(points) >= AT_ONCE or self._waiting.empty():
                return points, None
            found = self._waiting.get()
        return points, found

    def _give_up(self, reason: str) -> None:
        if not self._failed.is_set():
            self._failed.set()
            hint = "the training goes on; --resume with the same --report-to tells it what it missed"
            self._warn(f"warning: no more is reported to {self._name}: {' '.join(reason.split())} ({hint})")


def _opened(name: str, card: Card, points: Sequence[Point]) -> Tracker:
    path = card.folder / "trackers.json"
    known: dict[str, str] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    last = {point.part: point.step for point in points}
    try:
        tracker: Tracker = catalog.find(KIND, name).open(dataclasses.replace(card, known_as=known.get(name), last=last))
    except Exception as error:  # whatever a foreign library and its network come up with
        again = f"; it knows this run as {known[name]}: {path}" if name in known else ""
        hint = f"{catalog.find(KIND, name).WAY_OUT}; or leave --report-to out{again}"
        raise DistillError(f"{name} cannot be opened: {type(error).__name__}: {' '.join(str(error).split())}", hint=hint) from error
    if known.get(name) != tracker.known_as:
        write_json(path, {**known, name: tracker.known_as})
    return tracker
