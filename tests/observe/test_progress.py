from __future__ import annotations

import io

import pytest

from mlx_distill.observe.progress import Progress, duration


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def lines(progress: io.StringIO) -> list[str]:
    return progress.getvalue().splitlines()


def test_a_step_says_what_it_does_and_how_long_it_took() -> None:
    out, clock = io.StringIO(), Clock()
    with Progress(stream=out, clock=clock).step("convert", unit="shards") as step:
        clock.now = 3.21
        step.advance(1200, loss=0.81234)
    assert lines(out) == ["convert ...", "convert: done in 3.2 s, 1,200 shards, loss 0.8123"]


def test_lines_come_every_five_seconds_and_ten_percent_at_most() -> None:
    out, clock = io.StringIO(), Clock()
    with Progress(stream=out, clock=clock).step("train", 100, unit="steps") as step:
        for _ in range(100):
            clock.now += 1
            step.advance(loss=1.0)
    assert lines(out)[1:4] == [f"train: {n} of 100 steps ({n} %), loss 1" for n in (10, 20, 30)]
    assert len(lines(out)) == 12


def test_a_slow_step_is_never_silent_for_more_than_a_minute() -> None:
    out, clock = io.StringIO(), Clock()
    with Progress(stream=out, clock=clock).step("train", 1000) as step:
        for _ in range(12):
            clock.now += 10
            step.advance()
    assert lines(out)[1:3] == ["train: 6 of 1,000 (0 %)", "train: 12 of 1,000 (1 %)"]


def test_without_a_total_there_is_a_line_every_five_seconds() -> None:
    out, clock = io.StringIO(), Clock()
    with Progress(stream=out, clock=clock).step("infer", unit="rows") as step:
        for _ in range(10):
            clock.now += 1
            step.advance(10)
    assert lines(out) == ["infer ...", "infer: 50 rows", "infer: 100 rows", "infer: done in 10.0 s, 100 rows"]


def test_a_step_that_fails_says_so() -> None:
    out = io.StringIO()
    with pytest.raises(RuntimeError), Progress(stream=out, clock=Clock()).step("train"):
        raise RuntimeError
    assert lines(out)[-1] == "train: stopped after 0.0 s"


def test_quiet_says_nothing() -> None:
    for out in (io.StringIO(), Terminal()):
        progress = Progress(quiet=True, stream=out)
        with progress.step("a", 3) as step:
            step.advance()
            progress.say("b")
        assert out.getvalue() == ""


@pytest.mark.parametrize("terminal", [False, True])
def test_nothing_is_ever_written_to_standard_output(capsys: pytest.CaptureFixture[str], terminal: bool) -> None:
    out = Terminal() if terminal else io.StringIO()
    with Progress(stream=out).step("outer [bold]", 2) as step:
        step.advance()
        print("the result")
    assert capsys.readouterr() == ("the result\n", "")
    assert "the result" not in out.getvalue()


def test_a_terminal_gets_a_bar_and_keeps_the_last_lines() -> None:
    out, clock = Terminal(), Clock()
    progress = Progress(stream=out, clock=clock)
    with progress.step("outer [x]", 2) as outer:
        with progress.step("inner", 5) as inner:
            inner.advance(5, loss=0.5)
        outer.advance(2)
    progress.say("next")
    text = out.getvalue()
    assert "━" in text
    assert "inner: done in 0.0 s, 5, loss 0.5" in text
    assert text.endswith("outer [x]: done in 0.0 s, 2\nnext\n")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0.0 s"), (59.94, "59.9 s"), (59.96, "1 min 00 s"), (252, "4 min 12 s"), (3599.6, "1 h 00 min"), (7380, "2 h 03 min")],
)
def test_durations_are_for_people(seconds: float, text: str) -> None:
    assert duration(seconds) == text
