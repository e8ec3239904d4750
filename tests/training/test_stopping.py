"""The best validation is kept whatever its margin; waiting ends after `patience` validations without a real improvement."""

from __future__ import annotations

import json

import pytest

from mlx_distill.recipe.schema import StoppingSpec
from mlx_distill.training.stopping import Stopping

NAN = float("nan")


def follow(losses: list[float], patience: int, min_delta: float = 0.0) -> tuple[list[bool], int | None, Stopping]:
    """Which validations were the best so far, after how many it was over, and how it stands then."""
    stopping, spec, best = Stopping(), StoppingSpec(patience=patience, min_delta=min_delta), []
    for step, loss in enumerate(losses, start=1):
        best.append(stopping.judge(loss, step, spec))
        if stopping.over(spec):
            return best, step, stopping
    return best, None, stopping


@pytest.mark.parametrize(
    ("losses", "patience", "min_delta", "best", "over"),
    [
        ([3.0, 2.0, 1.0], 1, 0.0, [True, True, True], None),
        ([3.0, 3.0], 1, 0.0, [True, False], 2),
        ([3.0, 3.5, 2.9, 3.0, 3.0], 2, 0.0, [True, False, True, False, False], 5),
        ([3.0, 2.95, 2.9, 2.85], 3, 0.2, [True, True, True, True], 4),  # each the best, none better than 3.0 by 0.2
        ([3.0, 2.9, 2.75, 2.7], 2, 0.2, [True, True, True, True], None),  # 2.75 is, measured from 3.0 and not from 2.9
        ([NAN, 2.0, NAN, NAN], 2, 0.0, [False, True, False, False], 4),
        ([NAN, NAN, NAN], 3, 0.0, [False, False, False], 3),
    ],
)
def test_by_hand(losses: list[float], patience: int, min_delta: float, best: list[bool], over: int | None) -> None:
    assert follow(losses, patience, min_delta)[:2] == (best, over)


def test_the_best_is_known_with_its_step() -> None:
    _, _, stopping = follow([3.0, 1.5, 2.0, 1.6], 9)
    assert (stopping.best, stopping.step, stopping.waited) == (1.5, 2, 2)


def test_without_a_spec_it_is_never_over_and_still_knows_the_best() -> None:
    stopping = Stopping()
    assert [stopping.judge(loss, step, None) for step, loss in enumerate([2.0, 3.0, 3.0, 1.0])] == [True, False, False, True]
    assert not stopping.over(None)


def test_its_state_survives_json_at_every_point() -> None:
    losses, spec = [3.0, 2.95, 2.7, 2.8, 2.9, 2.9], StoppingSpec(patience=3, min_delta=0.1)
    whole, resumed = Stopping(), Stopping()
    for step, loss in enumerate(losses):
        resumed = Stopping.of(json.loads(json.dumps(resumed.state(), allow_nan=False)))
        assert resumed == whole
        assert resumed.judge(loss, step, spec) == whole.judge(loss, step, spec)
    assert resumed.over(spec) and whole.over(spec)
    assert Stopping.of({}) == Stopping()
