"""The learning rate of each step: by hand, and as PyTorch's schedulers give it."""

from __future__ import annotations

import math
from typing import Any

import pytest

from mlx_distill.recipe.schema import ScheduleSpec
from mlx_distill.training.schedule import learning_rate


def rates(steps: int, peak: float = 1.0, **settings: Any) -> list[float]:
    spec = ScheduleSpec(**settings)
    return [learning_rate(spec, peak, step, steps) for step in range(steps)]


@pytest.mark.parametrize(
    ("settings", "wanted"),
    [
        ({"kind": "constant", "warmup": 0.0}, [1, 1, 1, 1]),
        ({"kind": "constant", "warmup": 0.5}, [0.5, 1, 1, 1]),
        ({"kind": "constant", "warmup": 1.0}, [0.25, 0.5, 0.75, 1]),
        ({"kind": "linear", "warmup": 0.0}, [1, 0.75, 0.5, 0.25]),
        ({"kind": "linear", "warmup": 0.0, "floor": 0.2}, [1, 0.8, 0.6, 0.4]),
        ({"kind": "linear", "warmup": 0.5, "floor": 0.2}, [0.5, 1, 1, 0.6]),
        ({"kind": "cosine", "warmup": 0.0}, [1, 0.5 + 0.5 * 0.5**0.5, 0.5, 0.5 - 0.5 * 0.5**0.5]),
        ({"kind": "cosine", "warmup": 0.0, "floor": 0.2}, [1, 0.6 + 0.4 * 0.5**0.5, 0.6, 0.6 - 0.4 * 0.5**0.5]),
        ({"kind": "cosine", "warmup": 0.0, "cycles": 2}, [1, 0.5, 1, 0.5]),
        ({"kind": "cosine", "warmup": 0.5, "cycles": 2}, [0.5, 1, 1, 1]),
    ],
)
def test_by_hand(settings: dict[str, Any], wanted: list[float]) -> None:
    assert rates(4, **settings) == pytest.approx(wanted)


def test_the_defaults_rise_for_a_tenth_and_fall_to_nothing() -> None:
    found = rates(100, peak=2e-4)
    assert found[:10] == pytest.approx([2e-5 * (i + 1) for i in range(10)])
    assert found[9] == found[10] == max(found) == 2e-4
    assert found[10:] == sorted(found[10:], reverse=True) and 0 < found[-1] < 1e-7


@pytest.mark.parametrize("kind", ["cosine", "linear", "constant"])
@pytest.mark.parametrize("steps", [1, 2, 3, 7])
def test_the_shortest_runs_learn_something_in_every_step(kind: str, steps: int) -> None:
    for warmup in (0.0, 0.1, 0.5, 1.0):
        assert all(0 < rate <= 1 for rate in rates(steps, kind=kind, warmup=warmup))


@pytest.mark.parametrize("cycles", [2, 3, 7])
def test_each_cycle_starts_at_the_peak(cycles: int) -> None:
    span = 6
    found = rates(cycles * span, kind="cosine", warmup=0.0, cycles=cycles)
    assert found[::span] == pytest.approx([1.0] * cycles)
    assert found == pytest.approx(found[:span] * cycles)


def schedulers(kind: str, steps: int, warm: int, floor: float, cycles: int) -> list[float]:
    """The same by PyTorch: a linear warm-up by hand, then LinearLR, CosineAnnealingLR or CosineAnnealingWarmRestarts."""
    torch = pytest.importorskip("torch")
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    choose, span = torch.optim.lr_scheduler, steps - warm
    if kind == "linear":
        scheduler = choose.LinearLR(optimizer, 1.0, floor or 1e-30, total_iters=span)
    elif cycles == 1:
        scheduler = choose.CosineAnnealingLR(optimizer, span, eta_min=floor)
    else:
        scheduler = choose.CosineAnnealingWarmRestarts(optimizer, span // cycles, eta_min=floor)
    found = []
    for _ in range(span):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return [(step + 1) / warm for step in range(warm)] + found


@pytest.mark.filterwarnings("ignore:.*scheduler.*")
@pytest.mark.parametrize("floor", [0.0, 0.1])
@pytest.mark.parametrize(("kind", "cycles"), [("linear", 1), ("cosine", 1), ("cosine", 3)])
def test_as_pytorch_s_schedulers(kind: str, cycles: int, floor: float) -> None:
    ours = rates(50, kind=kind, warmup=0.1, floor=floor, cycles=cycles)
    assert ours == pytest.approx(schedulers(kind, 50, 5, floor, cycles), abs=1e-9)
    assert math.isclose(max(ours), 1.0)
