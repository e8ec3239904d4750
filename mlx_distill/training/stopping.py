"""Which validation was the best, and when waiting for a better one is over."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from mlx_distill.recipe.schema import StoppingSpec


@dataclass(slots=True)
class Stopping:
    """Of what `train.keep` names, turned so that lower is better. `best` was reached at `step`; `waited`: validations since the last
    improvement of at least `min_delta`."""

    best: float = math.inf
    step: int = -1
    waited: int = 0
    bar: float = math.inf
    """What counts as an improvement is measured from here, so that many tiny ones do not keep a run alive."""

    def judge(self, figure: float, step: int, spec: StoppingSpec | None) -> bool:
        """Take down a validation. True where it is the best so far; NaN never is."""
        improved = figure < self.bar - (spec.min_delta if spec else 0.0)
        self.waited = 0 if improved else self.waited + 1
        self.bar = figure if improved else self.bar
        if figure < self.best:
            self.best, self.step = figure, step
            return True
        return False

    def over(self, spec: StoppingSpec | None) -> bool:
        return spec is not None and self.waited >= spec.patience

    def state(self) -> dict[str, float | int | None]:
        """For JSON, which lacks infinities."""
        return {name: None if value == math.inf else value for name, value in asdict(self).items()}

    @classmethod
    def of(cls, state: Mapping[str, Any]) -> Stopping:
        values: dict[str, Any] = {name: math.inf if value is None else value for name, value in state.items()}
        return cls(**values)
