from __future__ import annotations

from typing import Any

import pytest

from mlx_distill.observe.trend import Trend, direction, smoothed


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def step(number: int, **fields: Any) -> dict[str, Any]:
    return {"name": "step", "step": number, "steps": 100, "loss": 1.0, "seconds": 2.0, **fields}


def told(*events: dict[str, Any]) -> Trend:
    trend = Trend(clock=Clock())
    for event in events:
        trend(event)
    return trend


def test_the_first_slow_steps_do_not_count_once_there_are_others() -> None:
    slow = [step(n, seconds=60.0) for n in (1, 2, 3)]
    assert told(*slow).seconds_left == 97 * 60
    assert told(*slow, *(step(n) for n in range(4, 11))).seconds_left == 90 * 2


def test_a_laptop_that_slept_moves_the_time_left_by_little() -> None:
    trend = told(*(step(n, seconds=36000.0 if n == 20 else 2.0) for n in range(1, 51)))
    assert trend.seconds_per_step == pytest.approx(2 + 4 / 47)


def test_the_time_left_has_the_validations_that_are_to_come() -> None:
    events = [step(n) for n in range(1, 41)]
    validated = {"name": "validated", "step": 40, "train_loss": 1.0, "valid_loss": 1.0, "best": True, "seconds": 30.0}
    assert told(*events).seconds_left == 60 * 2
    assert told(*events, validated).seconds_left == 60 * 2 + 2 * 30, "at 80, and the last one at 100"


def test_speeds_are_of_the_last_steps_and_leave_validations_out() -> None:
    trend = told(*(step(n, tokens=50 * n, rows=16 * n) for n in range(1, 61)))
    assert (trend.per_second("tokens"), trend.per_second("rows")) == (25.0, 8.0)


def test_without_the_seconds_of_a_step_the_clock_is_asked() -> None:
    clock = Clock()
    trend = Trend(clock=clock)
    for n in range(1, 11):
        clock.now += 3.0
        trend({"name": "step", "step": n, "steps": 100})
    assert trend.seconds_left == 90 * 3


def test_what_no_event_says_is_unknown() -> None:
    trend = told({"name": "step", "step": 1, "loss": None})
    figures = (trend.steps, trend.epochs, trend.memory, trend.padded_share, trend.best, trend.seconds_left, trend.per_second("rows"))
    assert figures == (None,) * 7
    assert trend.losses == []


def test_what_came_after_the_step_that_was_resumed_at_is_forgotten() -> None:
    validated = {"name": "validated", "step": 20, "valid_loss": 0.1, "best": True}
    trend = told(*(step(n) for n in range(1, 21)), validated, {"name": "resumed", "step": 10})
    assert (trend.step, len(trend.losses), trend.best) == (10, 10, None)


def test_a_session_before_gives_its_curve_and_not_its_speed() -> None:
    clock = Clock()
    trend = Trend(clock=clock)
    trend.recall([*(step(n, seconds=99.0) for n in range(1, 21)), {"name": "interrupted", "step": 20}])
    assert (len(trend.losses), trend.seconds_left, trend.interrupted) == (20, None, False)
    trend(step(21))
    assert trend.seconds_left == 79 * 2


def test_the_padded_share_is_of_everything_computed() -> None:
    assert told(step(1, computed=100, padded=20), step(2, computed=300, padded=0)).padded_share == 0.05


def test_smoothing_starts_at_the_first_value_and_forgets_it() -> None:
    curve = smoothed([8.0] + [1.0] * 60, span=5)
    assert curve[0] == 8.0
    assert curve[-1] == pytest.approx(1.0)


def test_noise_is_no_trend() -> None:
    saw = [1.0, 3.0] * 30
    assert direction(saw) == "level"
    assert direction([value - 0.2 * i for i, value in enumerate(saw)]) == "falling"
    assert direction([value + 0.2 * i for i, value in enumerate(saw)]) == "rising"
    assert direction([3.0, 2.0, 1.0]) is None
