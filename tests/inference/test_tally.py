"""How a job comes on, as a person reads it."""

from __future__ import annotations

import io

import pytest

from mlx_distill.inference.tally import Reasons, Tally
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
    for tier in ("low", "low", "low", "high"):
        clock.now += 2
        tally.answered("solar", tier)
    tally.rejected(BadRow("no column"), "line 5")
    assert figures(tally) == {"rows/h": 1800, "left": "10.0 s", "valid": "80 %", "tiers": "high 25 %, middle 0 %, low 75 %"}


def test_what_came_before_the_first_answers_is_in_no_rate_and_soon_after_them_nothing_is_foretold(clock: Clock) -> None:
    tally = Tally(TIERS, 100, clock=clock)
    clock.now += 60  # warming up
    for later in (0, 0.2, 0.2, 4):  # three at once
        clock.now += later
        tally.answered("solar", "low")
        assert figures(tally)["rows/h"] is None and figures(tally)["left"] is None
    clock.now += 4
    tally.answered("solar", "low")
    assert (figures(tally)["rows/h"], figures(tally)["left"]) == (2 / 8 * 3600, "6 min 20 s")
    assert tally.rows_per_hour == 900, "what the last line says is the same"


def test_of_a_job_that_is_over_at_once_the_rate_is_that_of_all_its_time(clock: Clock) -> None:
    tally = Tally(TIERS, 2, clock=clock)
    assert tally.rows_per_hour is None
    clock.now += 2
    tally.answered("solar", "low")
    tally.answered("solar", "low")
    clock.now += 50
    assert tally.rows_per_hour == 3600, "up to its last answer"


def test_what_was_done_before_counts_for_tiers_and_not_for_the_rate(clock: Clock) -> None:
    tally = Tally(TIERS, 20, clock=clock)
    for _ in range(4):
        tally.recall("", "high")
    tally.recall_reject()
    clock.now += 50
    for _ in range(5):
        tally.skipped()
    for _ in range(6):
        clock.now += 2
        tally.answered("solar", "low")
    assert tally.answers == 10
    assert figures(tally) == {"rows/h": 1800, "left": "18.0 s", "valid": "90.91 %", "tiers": "high 40 %, middle 0 %, low 60 %"}


def test_of_several_students_rows_are_counted_and_not_answers(clock: Clock) -> None:
    tally = Tally({"solar": ["high"], "nature": []}, 10, clock=clock)
    for _ in range(4):
        clock.now += 2
        tally.answered("solar", "high")
        clock.now += 2
        tally.answered("nature", None)
    assert (figures(tally)["rows/h"], figures(tally)["left"]) == (900, "24.0 s")
    tally.rejected(BadRow("not JSON"), "line 5")
    tally.rejected(BadRow("not JSON"), "line 5", again=True)
    assert tally.reasons.lines() == ["line 5: not JSON"]


def test_of_a_length_that_is_not_known_nothing_is_left(clock: Clock) -> None:
    tally = Tally({"plain": []}, None, clock=clock)
    for _ in range(7):
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
        word = "".join(chr(ord("a") + int(digit)) for digit in str(line))
        reasons.add(BadRow("no column 'text'" if line % 2 else f"the word {word} is none"), f"line {line}")
    assert len(reasons.found) <= 100
    lines = reasons.lines()
    assert lines[0] == "500 rows, the first line 1: no column 'text'"
    assert lines[1] == "line 2: the word c is none"
    assert lines[-1] == "and 496 more, for other reasons"


def test_reasons_that_differ_in_their_row_alone_are_one() -> None:
    reasons = Reasons()
    for line, name in enumerate(("river", "o'clock", "r7", "in 'quotes'"), start=20):
        reasons.add(BadRow(f"the id {name!r} stands on line {line - 19} already", line, name), f"line {line}")
    reasons.add(BadRow("no column 'text'", 30, "a"), "line 30")
    reasons.add(BadRow("no column 'title'", 31, "b"), "line 31")
    assert reasons.lines() == [
        "4 rows, the first line 20: the id 'river' stands on line 1 already",
        "line 30: no column 'text'",
        "line 31: no column 'title'",
    ]


def test_the_progress_line_has_them_and_the_last_one_says_nothing_of_time_to_come(clock: Clock) -> None:
    out = io.StringIO()
    progress = Progress(stream=out, clock=clock)
    tally = Tally(TIERS, 4, clock=clock)
    with progress.step("infer", 4, unit="rows") as bar:
        for _ in range(2):
            clock.now += 6
            tally.answered("solar", "high")
            bar.advance(1, **{**tally.figures(), "memory": "0.50 GiB"})
    rest = "valid 100 %, memory 0.50 GiB, tiers high 100 %, middle 0 %, low 0 %"
    assert out.getvalue().splitlines()[1:] == [
        f"infer: 1 of 4 rows (25 %), {rest}",
        f"infer: 2 of 4 rows (50 %), rows/h 600, left 12.0 s, {rest}",
        f"infer: done in 12.0 s, 2 rows, rows/h 600, {rest}",
    ]


def test_one_row_is_no_rows(clock: Clock) -> None:
    out = io.StringIO()
    with Progress(stream=out, clock=clock).step("infer", 1, unit="rows") as bar:
        clock.now += 6
        bar.advance(1)
    assert out.getvalue().splitlines()[1:] == ["infer: 1 of 1 row (100 %)", "infer: done in 6.0 s, 1 row"]
