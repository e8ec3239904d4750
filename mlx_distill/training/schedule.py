"""The learning rate of each step: a linear warm-up, then a cosine, a line or a constant, never below the floor.

The formulas are PyTorch's, to the last bits (tests/training/test_schedule.py): LinearLR from 1 / warm for the warm-up, then
CosineAnnealingLR, CosineAnnealingWarmRestarts, LinearLR or ConstantLR. Two things are ours. The first step of a run is step 1 of `warm` and
not step 0, as is usual elsewhere: a step at rate 0 would be wasted. And cycles are all of one length, also where that is no whole number of
steps, which CosineAnnealingWarmRestarts refuses: each begins at the first step behind the one before.
cosine with cycles is "SGDR: Stochastic Gradient Descent with Warm Restarts" (Loshchilov and Hutter, 2016).
"""

from __future__ import annotations

import math

from mlx_distill.recipe.schema import ScheduleSpec


def learning_rate(spec: ScheduleSpec, peak: float, step: int, steps: int) -> float:
    """For step 0 ... steps - 1. The last step of the warm-up is at the peak.

    >>> spec = ScheduleSpec(kind="linear", warmup=0.2)
    >>> [learning_rate(spec, 1.0, step, 10) for step in (0, 1, 2, 6, 9)]
    [0.5, 1.0, 1.0, 0.5, 0.125]
    """
    warm = round(spec.warmup * steps)
    if step < warm:
        return peak * (step + 1) / warm
    if spec.kind == "constant":
        return peak
    done, span = step - warm, max(1, steps - warm)
    if spec.kind == "linear":
        left = (span - done) / span
    else:  # in whole numbers: a cycle's end that a rounding brings too early, or too late, is a rate at the wrong end
        left = (1 + math.cos(math.pi * (done * spec.cycles % span) / span)) / 2
    return max(spec.floor, spec.floor + (peak - spec.floor) * left)
