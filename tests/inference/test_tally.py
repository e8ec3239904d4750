"""How a job comes on, as a person reads it."""

from __future__ import annotations

import io
from collections.abc import Callable

import pytest

from mlx_distill.inference.tally import Reasons, Tally
from mlx_distill.observe import memory
from mlx_distill.observe.progress import Progress
from mlx_distill.records import BadRow

TIERS = {"solar": ["high", "middle", "low"]}


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def figures(tally: Tally) -> dict[str, object]:
    return {name: value for name, value in tally.figures().items() if name != "memory"}


def test_figures_are_rate_time_left_valid_share_and_tiers_in_the_recipe_s_order(clock: Clock) -> None:
    tally = Tally(TIERS, 10, clock=clock)
    assert set(figures(tally).values()) == {None}, "nothing can be said yet"
    for tier in ("low", "low", "high"):
        clock.now += 2
        tally.answered("solar", tier)
    tally.rejected(BadRow("no column"), "line 4")
    assert figures(tally) == {"rows/h": 1800, "left": "12.0 s", "valid": "75 %", "tiers": "high 33 %, middle 0 %, low 67 %"}


def test_what_was_done_before_counts_for_tiers_and_not_for_the_rate(clock: Clock) -> None:
    tally = Tally(TIERS, 10, clock=clock)
    for _ in range(4):
        tally.recall("", "high")
    tally.recall_reject()
    clock.now += 50
    for _ in range(5):
        tally.skipped()
    clock.now += 1
    tally.answered("solar", "low")
    assert figures(tally) == {"rows/h": 3600, "left": "4.0 s", "valid": "83.33 %", "tiers": "high 80 %, middle 0 %, low 20 %"}


def test_of_a_length_that_is_not_known_nothing_is_left(clock: Clock) -> None:
    tally = Tally({"plain": []}, None, clock=clock)
    clock.now += 1
    tally.answered("plain", None)
    assert figures(tally) == {"rows/h": 3600, "left": None, "valid": "100 %", "tiers": None}


def test_several_students_have_a_line_each(clock: Clock) -> None:
    tally = Tally({**TIERS, "plain": [], "nature": ["wild", "tame"]}, 10, apart=True, clock=clock)
    tally.answered("nature", "tame")
    tally.answered("plain", None)
    tally.answered("solar", "middle")
    tally.recall("solar", "high")
    assert tally.tiers() == ["solar: high 50 %, middle 50 %, low 0 %", "nature: wild 0 %, tame 100 %"]
    assert tally.figures()["tiers"] is None and tally.figures()["left"] is None, "they are drawn apart"


def test_reasons_are_counted_and_their_number_is_bounded() -> None:
    reasons = Reasons()
    for line in range(1, 1001):
        reasons.add(BadRow("no column 'text'" if line % 2 else f"the id {line} stands there already"), f"line {line}")
    assert len(reasons.found) <= 100
    lines = reasons.lines()
    assert lines[0] == "500 rows, the first line 1: no column 'text'"
    assert lines[1] == "line 2: the id 2 stands there already"
    assert lines[-1] == "and 496 more, for other reasons"


def test_the_progress_line_has_them(clock: Clock) -> None:
    out = io.StringIO()
    progress = Progress(stream=out, clock=clock)
    tally = Tally(TIERS, 2, clock=clock)
    with progress.step("infer", 2, unit="rows") as bar:
        clock.now += 6
        tally.answered("solar", "high")
        bar.advance(1, **{**tally.figures(), "memory": "0.50 GiB"})
    assert out.getvalue().splitlines()[1] == (
        "infer: 1 of 2 rows (50 %), rows/h 600, left 6.0 s, valid 100 %, memory 0.50 GiB, tiers high 100 %, middle 0 %, low 0 %"
    )


def test_memory_is_that_of_this_process(grow: Callable[[int], object]) -> None:
    before = memory.resident_bytes()
    held = grow(64 << 20)
    after = memory.resident_bytes()
    assert before is not None and after is not None and held is not None
    assert 48 << 20 < after - before < 256 << 20


@pytest.fixture
def grow() -> Callable[[int], object]:
    return lambda size: bytearray(b"x") * size
