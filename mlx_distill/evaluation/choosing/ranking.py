"""Students in the order of one metric on the same rows, each with how far it is behind the best.

    rank(contestants, metric, fields)

The best of many is best partly by luck, and its figure flatters it: rows that nobody was chosen by say how good it is. Of two figures that
are equal, the lower loss is before the other, and else the first contestant. It knows judged rows and a loss; no run, no file.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mlx_distill.evaluation import bootstrap as boot
from mlx_distill.evaluation import judge
from mlx_distill.evaluation.bootstrap import Figure
from mlx_distill.evaluation.judge import Fields, Judged


@dataclass(frozen=True, slots=True)
class Contestant:
    """`rows` are the same for all, in one order. `loss` decides between equals; where no metric is asked for, it is the figure."""

    name: str
    rows: Sequence[Judged]
    loss: float | None = None


def rank(
    contestants: Sequence[Contestant],
    metric: str | None,
    fields: Fields,
    *,
    tiers: Sequence[str] = (),
    bootstrap: int = boot.RESAMPLES,
    seed: int = 0,
) -> dict[str, Any]:
    """{order, ties, figures {name: figure}, behind {name: difference to the best, with p}}. `metric` None: by loss.

    `order` has the best first, and those without a figure not at all; `ties` are the others whose figure is the best one's to the last bit.
    """
    taken = {} if metric is None else {one.name: _tally(one, metric, fields, tiers) for one in contestants}
    figures = {one.name: _loss(one) if metric is None else _figure(taken[one.name], bootstrap, seed) for one in contestants}
    goodness = {name: _goodness(figure["value"], metric) for name, figure in figures.items() if figure["value"] is not None}
    losses = {one.name: math.inf if one.loss is None else one.loss for one in contestants}
    order = sorted(goodness, key=lambda name: (-goodness[name], losses[name]))  # a stable sort: of equals, the first contestant
    best = order[0] if order else None
    behind = {}
    for name in order[1:]:
        if metric is not None and best is not None:
            _, gaps = boot.paired(taken[name], taken[best], bootstrap=bootstrap, seed=seed)
            behind[name] = gaps[metric]
    ties = [name for name in order[1:] if best is not None and goodness[name] == goodness[best]]
    return {"order": order, "ties": ties, "figures": figures, "behind": behind}


def _tally(one: Contestant, metric: str, fields: Fields, tiers: Sequence[str]) -> dict[str, Any]:
    """{metric: tally}; empty where no row counts for it."""
    found = judge.measure(judge.lay_out(one.rows, fields, tiers))
    return {metric: found[metric]} if metric in found else {}


def _figure(tally: dict[str, Any], bootstrap: int, seed: int) -> Figure:
    found = boot.figures(tally, bootstrap=bootstrap, seed=seed)
    return next(iter(found.values()), Figure(value=None, low=None, high=None, n=0))


def _loss(one: Contestant) -> Figure:
    return Figure(value=one.loss, low=None, high=None, n=len(one.rows))


def _goodness(value: float, metric: str | None) -> float:
    if metric is None:
        return -value
    if judge.best_at_zero(metric):
        return -abs(value)
    return -value if judge.lower_is_better(metric) else value
