"""The learning rate of each step: a linear warm-up, then a cosine, a line or a constant, never below the floor.

cosine with cycles is "SGDR: Stochastic Gradient Descent with Warm Restarts" (Loshchilov and Hutter, 2016), all cycles of one length.
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
    done = (step - warm) / max(1, steps - warm)
    left = 1 - done if spec.kind == "linear" else 0.5 * (1 + math.cos(math.pi * (done * spec.cycles % 1)))
    return max(spec.floor, spec.floor + (peak - spec.floor) * left)
