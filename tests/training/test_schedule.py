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


def pytorch(steps: int, peak: float, *, kind: str, warmup: float, floor: float = 0.0, cycles: int = 1) -> list[float]:
    """The same out of torch.optim.lr_scheduler: LinearLR for the warm-up, then the scheduler of that kind, by SequentialLR.

    A run without a warm-up, or of nothing else, has the one scheduler.
    """
    torch = pytest.importorskip("torch")
    known = torch.optim.lr_scheduler
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=peak)
    warm = round(warmup * steps)
    span = steps - warm
    parts = []
    if warm:
        parts.append(known.LinearLR(optimizer, 1 / warm, 1.0, total_iters=max(1, warm - 1)))
    if span and kind == "constant":
        parts.append(known.ConstantLR(optimizer, 1.0))
    elif span and kind == "linear":
        parts.append(known.LambdaLR(optimizer, lambda step: (floor + (peak - floor) * (span - step) / span) / peak))
    elif span and cycles > 1:
        parts.append(known.CosineAnnealingWarmRestarts(optimizer, span // cycles, eta_min=floor))
    elif span:
        parts.append(known.CosineAnnealingLR(optimizer, span, eta_min=floor))
    scheduler = parts[0] if len(parts) == 1 else known.SequentialLR(optimizer, parts, milestones=[warm])
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


@pytest.mark.filterwarnings("ignore:.*scheduler.*")
@pytest.mark.parametrize("peak", [1.0, 2e-4])
@pytest.mark.parametrize("warmup", [0.0, 0.02, 0.1, 1.0])
@pytest.mark.parametrize(
    "settings",
    [
        {"kind": "constant"},
        {"kind": "linear"},
        {"kind": "linear", "floor": 1e-5},
        {"kind": "cosine"},
        {"kind": "cosine", "floor": 1e-5},
        {"kind": "cosine", "cycles": 2},
        {"kind": "cosine", "cycles": 3, "floor": 1e-5},
        {"kind": "cosine", "cycles": 7},
    ],
    ids=str,
)
def test_every_step_is_pytorch_s(settings: dict[str, Any], warmup: float, peak: float) -> None:
    cycles = settings.get("cycles", 1)
    steps = 50 if warmup == 1 else next(n for n in range(300, 2000, 50) if (n - round(warmup * n)) % cycles == 0)
    assert rates(steps, peak, warmup=warmup, **settings) == pytest.approx(pytorch(steps, peak, warmup=warmup, **settings), rel=1e-12, abs=0)


def test_a_cycle_that_is_no_whole_number_of_steps_starts_anew_at_the_step_behind() -> None:
    """Ten steps in three cycles: they begin at 0, 10/3 and 20/3, so at steps 0, 4 and 7; PyTorch refuses such."""
    found = rates(10, kind="cosine", warmup=0.0, cycles=3)
    rises = [step for step in range(1, 10) if found[step] > found[step - 1]]
    assert rises == [4, 7]
    assert found[4] == pytest.approx(0.5 * (1 + math.cos(math.pi * 0.2))), "two thirds of a step, a fifth of a cycle, behind its beginning"


@pytest.mark.parametrize(("steps", "cycles"), [(22, 22), (110, 22), (49, 7), (1029, 147), (10**6 - 1, 27)])
def test_no_rounding_puts_a_restart_at_the_wrong_end(steps: int, cycles: int) -> None:
    spec, length = ScheduleSpec(kind="cosine", warmup=0.0, cycles=cycles), steps // cycles
    assert steps % cycles == 0
    assert [learning_rate(spec, 1.0, cycle * length, steps) for cycle in range(cycles)] == [1.0] * cycles
