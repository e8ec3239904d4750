"""What a person sees of a training: drawn at several widths, in plain lines, or not at all."""

from __future__ import annotations

import io
from collections.abc import Iterable
from typing import Any

import pytest
from rich.cells import cell_len
from rich.console import Console

from mlx_distill.observe.live import TrainingView, watching
from mlx_distill.observe.progress import Progress


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def step(number: int, **fields: Any) -> dict[str, Any]:
    whole = {"loss": 2.0 - number / 100, "learning_rate": 3e-4, "grad_norm": 0.5, "tokens": 50 * number, "rows": 16 * number}
    cost = {"seconds": 2.0, "memory": 3 * 2**29, "computed": 1000, "padded": 41, "compilations": 2}
    return {"name": "step", "step": number, "steps": 100, "epoch": number / 50, **whole, **cost, **fields}


def validated(number: int, loss: float = 1.5, best: bool = True) -> dict[str, Any]:
    metrics = {"tier_agreement": 0.5 + number / 1000}
    return {"name": "validated", "step": number, "train_loss": 1.6, "valid_loss": loss, "best": best, "metrics": metrics, "seconds": 5.0}


EVENTS = [*(step(n) for n in range(1, 41)), validated(40), *(step(n) for n in range(41, 61)), validated(60, 1.7, best=False)]


def drawn(events: Iterable[dict[str, Any]], width: int, encoding: str = "utf-8", *, stopping: bool = False) -> list[str]:
    view = TrainingView(Progress(quiet=True), clock=Clock())
    view.stopping = stopping
    for event in events:
        view(event)
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    Console(file=stream, width=width, height=24, force_terminal=False).print(view)
    stream.flush()
    return stream.buffer.getvalue().decode(encoding).splitlines()  # type: ignore[attr-defined]


@pytest.mark.parametrize("width", [40, 56, 80, 115, 116, 140, 240])
def test_the_board_fits_every_terminal(width: int) -> None:
    lines = drawn(EVENTS, width)
    assert max(map(cell_len, lines)) <= width
    assert len(lines) <= 9


@pytest.mark.parametrize("width", [80, 140])
def test_the_board_says_everything_that_is_known(width: int) -> None:
    text = "\n".join(drawn(EVENTS, width))
    for said in (
        "60 of 100 steps", "epoch 1.2 of 2", "1.4000", "falling", "1.7000  best 1.5000 at step 40", "0.5600  best 0.5400 at step 40",
        "rate 0.0003", "25 learned tokens/s", "8 rows/s", "1.5 GiB at most", "padding 4.1 %", "0.0 s so far", "about 1 min 30 s left",
    ):  # fmt: skip
        assert said in text


def test_a_narrow_board_has_a_line_of_the_loss_and_a_wide_one_a_chart() -> None:
    (line,) = [line for line in drawn(EVENTS, 80) if line.startswith("loss")]
    assert line.split()[-1][0] == "█" and line.split()[-1][-1] == "▁"
    wide = drawn(EVENTS, 140)
    assert [sum("●" in line for line in lines) for lines in (wide, drawn(EVENTS, 80))] == [3, 0], "two validations, and the legend"
    assert sum("█" in line for line in wide) >= 5


def test_before_the_first_step_and_without_most_fields_the_board_is_still_drawn() -> None:
    assert drawn([], 80)[0].startswith("train")
    bare = drawn([{"name": "step", "step": 1, "loss": None}, {"name": "step", "step": 2, "loss": 0.5}, {"name": "new", "x": 1}], 140)
    assert any("0.5000" in line for line in bare)
    assert "None" not in "\n".join(bare)


def test_a_terminal_without_unicode_gets_ascii() -> None:
    for width in (80, 140):
        assert all(line.isascii() for line in drawn(EVENTS, width, "ascii"))


def test_whoever_asked_to_stop_is_told_what_happens() -> None:
    assert any(line.startswith("stopping") and "saved" in line for line in drawn(EVENTS, 80, stopping=True))


def watched(stream: io.StringIO, events: Iterable[dict[str, Any]], *, quiet: bool = False, history: Any = ()) -> list[str]:
    clock = Clock()
    with watching(Progress(stream=stream, quiet=quiet, clock=clock), history, clock=clock) as view:
        for event in events:
            clock.now += 2
            view(event)
    return stream.getvalue().splitlines()


def test_without_a_terminal_there_is_a_line_now_and_then() -> None:
    lines = watched(io.StringIO(), (step(n) for n in range(1, 101)))
    assert lines[0] == (
        "train: 10 of 100 steps (10 %), loss 1.9000 (falling), learning rate 0.0003, 25 learned tokens/s, 8 rows/s, "
        "1.5 GiB at most, padding 4.1 %, about 3 min 00 s left"
    )
    # a moving average over 100 / 15 steps lags (100 / 15 - 1) / 2 steps behind a loss that falls by 0.01 a step
    assert lines[-1] == "train: done in 3 min 20 s, 100 steps, loss 1.0283"
    assert len(lines) == 11


def test_every_validation_and_every_skipped_step_is_a_line() -> None:
    skipped = {"name": "skipped", "step": 2, "rows": ["a", "b\x1b[2J", "c", "d"]}
    lines = watched(io.StringIO(), [step(1), skipped, validated(2), validated(3, 1.9, best=False)])
    assert lines[:3] == [
        "step 2: skipped, its loss or gradient was not finite; its rows: a, b␛[2J, c and 1 more",
        "step 2: validation loss 1.5000, tier_agreement 0.5020, training loss 1.6000, the best so far",
        "step 3: validation loss 1.9000, tier_agreement 0.5030, training loss 1.6000",
    ]
    assert lines[3].endswith("validation loss 1.5000 at step 2")


def test_samples_stand_beside_the_reference_and_what_differs_is_marked() -> None:
    rows = [
        {
            "id": "r1",
            "reference": {"kind": "fire", "tags": ["a", "b"]},
            "answer": {"kind": "fl\x1b[2Jood\n" + "x" * 500, "tags": ["a", "b"]},
        },
        {"id": "r2", "reference": {"kind": "fire"}, "answer": None},
    ]
    lines = watched(io.StringIO(), [{"name": "samples", "step": 7, "rows": rows}])
    assert lines[0].startswith("step 7: ")
    assert lines[3].split()[:4] == ["kind", "fire", "✗", "fl␛[2Jood"]
    assert lines[4].split() == ["tags", "a,", "b", "a,", "b"]
    assert lines[6].split() == ["kind", "fire", "✗", "no", "valid", "answer"]
    assert max(map(len, lines)) <= 110
    assert "\x1b" not in "\n".join(lines)


def test_quiet_says_and_draws_nothing() -> None:
    for stream in (io.StringIO(), Terminal()):
        assert watched(stream, EVENTS, quiet=True) == []


def test_on_a_terminal_the_board_is_drawn_and_gone_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    text = "\n".join(watched(Terminal(), EVENTS))
    assert "learned tokens/s" in text
    assert "step 40: validation loss" in text
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l"), "the cursor is back"
    after = text[text.rindex("\x1b[?25h") :].splitlines()
    assert after[-1].startswith("train: done in 2 min 04 s, 60 steps")
    assert "tokens/s" not in "".join(after)


def test_ctrl_c_leaves_a_terminal_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()

    def events() -> Iterable[dict[str, Any]]:
        yield from EVENTS
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        watched(stream, events())
    text = stream.getvalue()
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")


def test_a_terminal_that_cannot_move_its_cursor_gets_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    lines = watched(Terminal(), (step(n) for n in range(1, 101)))
    assert lines[0].startswith("train: 10 of 100 steps")
    assert "\x1b" not in "".join(lines)


def test_an_interrupted_training_says_that_it_was_stopped() -> None:
    assert watched(io.StringIO(), [step(1), {"name": "interrupted", "step": 1}])[-1].startswith("train: stopped after")


def test_a_resumed_training_shows_the_curve_from_its_beginning() -> None:
    history = [*EVENTS, {"name": "resumed", "step": 60}]
    lines = watched(io.StringIO(), [step(n) for n in range(61, 71)], history=history)
    assert lines[-1].startswith("train: done in 20.0 s, 70 steps")
    assert lines[-1].endswith("validation loss 1.5000 at step 40")
