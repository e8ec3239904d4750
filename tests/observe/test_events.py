from __future__ import annotations

import json
import resource
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlx_distill.errors import DataError, DoesNotFit, OutputError
from mlx_distill.observe.events import Events, read_events


def test_an_event_is_a_line_on_disk_as_soon_as_it_is_emitted(tmp_path: Path) -> None:
    path = tmp_path / "run" / "events.jsonl"
    with Events(path) as events:
        events.emit("step", step=1, loss=0.5, text="é\n🙂")
        (line,) = path.read_text("utf-8").splitlines()
    event = json.loads(line)
    assert list(event)[:2] == ["name", "time"]
    assert (event["name"], event["step"], event["loss"], event["text"]) == ("step", 1, 0.5, "é\n🙂")
    assert datetime.fromisoformat(event["time"]).utcoffset() is not None


def test_opened_again_it_goes_on_after_the_last_whole_line(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    with Events(path) as events:
        events.emit("a")
    with path.open("ab") as file:
        file.write(b'{"name": "tor')
    assert [event["name"] for event in read_events(path)] == ["a"]
    with Events(path) as events:
        events.emit("b")
    assert [event["name"] for event in read_events(path)] == ["a", "b"]


def test_what_was_told_of_later_steps_is_taken_out_and_told_again_once(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    with Events(path) as events:
        for step in (1, 2):
            events.emit("step", step=step)
        events.emit("trained", steps=2)
        for step in (3, 4):
            events.emit("step", step=step)
        before = path.read_bytes().splitlines(keepends=True)
        assert events.rewind(4) == 0
        assert events.rewind(2) == 2
        assert path.read_bytes() == b"".join(before[:3]), "byte for byte, and what tells of no step stays"
        events.emit("step", step=3)
    assert [event.get("step") for event in read_events(path)] == [1, 2, None, 3]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["events.jsonl"]


def test_nothing_is_written_where_nothing_is_taken_out(tmp_path: Path) -> None:
    with Events(tmp_path / "events.jsonl") as events:
        events.emit("step", step=1)
        before = (tmp_path / "events.jsonl").stat()
        events.rewind(1)
        assert (tmp_path / "events.jsonl").stat() == before
    with Events() as silent:
        assert silent.rewind(0) == 0


def test_a_line_that_a_power_cut_made_of_zeros_does_not_stop_a_resume(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_bytes(b'{"name": "step", "step": 1}\n' + bytes(30) + b'\n{"name": "step", "step": "?"}\n')
    with Events(path) as events:
        assert events.rewind(1) == 1
    assert [event["step"] for event in read_events(path)] == [1, "?"]


def test_a_line_that_did_not_fit_the_disk_leaves_no_half(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    with Events(path) as events:
        events.emit("step", step=1)
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 20, limits[1]))  # as a disk with room for 20 bytes
        try:
            with pytest.raises(OutputError, match=r"events\.jsonl: cannot be written"):
                events.emit("step", step=2)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        events.emit("step", step=2)
    assert [event["step"] for event in read_events(path)] == [1, 2]


def test_every_line_is_json_whatever_the_figures(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    with Events(path) as events:
        events.emit("x", nan=float("nan"), numpy=np.float32("inf"), n=np.int64(3), many=np.array([1.5, 2]), to=tmp_path, bad="\ud800")
    (event,) = read_events(path)
    assert (event["nan"], event["numpy"], event["n"], event["many"], event["to"]) == (None, None, 3, [1.5, 2], str(tmp_path))


def test_subscribers_are_told_with_or_without_a_file(tmp_path: Path) -> None:
    told: list[Any] = []
    for path in (None, tmp_path / "events.jsonl"):
        with Events(path, subscribers=[told.append]) as events:
            events.emit("x", step=2)
    assert [(event["name"], event["step"]) for event in told] == [("x", 2), ("x", 2)]


def test_a_damaged_line_in_the_middle_is_named(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_text('{"name": "a"}\nrubbish\n{"name": "b"}\n')
    with pytest.raises(DataError) as raised:
        list(read_events(path))
    assert raised.value.line == 2


def test_a_place_that_cannot_be_written_is_an_output_error(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="it is a folder"):
        Events(tmp_path)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk_is_said_when_the_event_is_written(tmp_path: Path) -> None:
    (tmp_path / "events.jsonl").touch()
    events = Events(tmp_path / "events.jsonl")
    with Path("/dev/full").open("ab", buffering=0) as full:
        events._file = full
        with pytest.raises(DoesNotFit):
            events.emit("x")
