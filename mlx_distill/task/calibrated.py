"""One field's probabilities set right: a temperature on the whole distribution, then a map of how sure its answer is.

    map.distribution(shares, place)    the distribution, with the answer's own probability mapped and the others scaled to fit
    map.right(confidence)              the second step alone, where nothing but the answer's probability is known

Temperature: Guo et al., "On Calibration of Modern Neural Networks", 2017. Beta: Kull, Silva Filho and Flach, "Beta calibration", 2017.
Isotonic: Zadrozny and Elkan, "Transforming Classifier Scores into Accurate Multiclass Probability Estimates", 2002.
`evaluation.calibration` fits it; this file only applies it: for the ten values that a field mostly has in plain Python, where a call into
NumPy costs more than the whole sum, and from WIDE values on in NumPy. It knows numbers, nothing of fields or rows.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

WIDE = 64
"""From so many values on NumPy is faster than plain Python; both say the same to 1e-12."""
TINY = 1e-12
"""Least probability before a logarithm: a value that rounded to 0 is unlikely, not impossible."""
EDGE = 1e-6
"""Mapped confidences stay this far from 0 and 1: float32 tells no finer, and nobody is that certain."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldMap:
    """`beta` or `isotonic` or neither; both rise with the confidence, so that who was surer stays surer."""

    temperature: float = 1.0
    """Above 1: less sure than it said; below 1: surer. 1 changes nothing."""
    beta: tuple[float, float, float] | None = None
    """(a, b, c) of sigmoid(a ln p - b ln(1 - p) + c), a and b not below 0."""
    isotonic: tuple[tuple[float, ...], tuple[float, ...]] | None = None
    """Confidences in ascending order, and the share that is right at each; straight between two, level outside."""

    @property
    def bends(self) -> bool:
        """Whether there is a second step."""
        return self.beta is not None or self.isotonic is not None

    def parameters(self) -> dict[str, Any]:
        """As plain JSON; `of` is its inverse."""
        parameters: dict[str, Any] = {"temperature": self.temperature}
        if self.beta is not None:
            parameters["beta"] = dict(zip("abc", self.beta, strict=True))
        if self.isotonic is not None:
            parameters["isotonic"] = dict(zip(("confidence", "right"), map(list, self.isotonic), strict=True))
        return parameters

    @classmethod
    def of(cls, parameters: Mapping[str, Any]) -> FieldMap:
        """Raises AttributeError, KeyError, TypeError or ValueError where one is missing or makes no sense."""
        temperature, beta, stairs = float(parameters["temperature"]), parameters.get("beta"), parameters.get("isotonic")
        bent = None if beta is None else (float(beta["a"]), float(beta["b"]), float(beta["c"]))
        steps = None if stairs is None else (tuple(map(float, stairs["confidence"])), tuple(map(float, stairs["right"])))
        numbers = [temperature, *(bent or ()), *(number for side in steps or () for number in side)]
        if not all(map(math.isfinite, numbers)) or temperature <= 0:
            raise ValueError(f"a temperature is above 0 and every number finite; the temperature is {temperature}")
        if steps is not None and (not steps[0] or len(steps[0]) != len(steps[1]) or any(a >= b for a, b in pairwise(steps[0]))):
            raise ValueError("isotonic needs as many shares as confidences, and those in ascending order")
        return cls(temperature=temperature, beta=bent, isotonic=steps)

    def distribution(self, shares: Sequence[float], place: int) -> list[float]:
        """As many as `shares`, summing to 1. `place`: the answer's. After a second step the answer need not be the likeliest any more.

        >>> [round(p, 4) for p in FieldMap(temperature=2.0).distribution([0.64, 0.36], 0)]
        [0.5714, 0.4286]
        >>> [round(p, 4) for p in FieldMap(beta=(0.0, 0.0, 0.0)).distribution([0.8, 0.15, 0.05], 0)]  # right half of the time
        [0.5, 0.375, 0.125]
        """
        if len(shares) >= WIDE:
            return self._wide(shares, place)
        tempered = self.tempered(shares)
        if not self.bends or len(tempered) == 1:
            return tempered
        own = self.right(tempered[place])
        tempered[place] = 0.0
        rest = (1.0 - own) / sum(tempered)
        scaled = [p * rest for p in tempered]
        scaled[place] = own
        return scaled

    def tempered(self, shares: Sequence[float]) -> list[float]:
        """softmax(ln p / T)."""
        if len(shares) >= WIDE:
            return list(self._wide_tempered(shares).tolist())
        logs = [math.log(p if p > TINY else TINY) / self.temperature for p in shares]
        top = max(logs)
        weights = [math.exp(log - top) for log in logs]
        whole = sum(weights)
        return [weight / whole for weight in weights]

    def _wide(self, shares: Sequence[float], place: int) -> list[float]:
        """`distribution` of many values."""
        tempered = self._wide_tempered(shares)
        if self.bends:
            own = self.right(float(tempered[place]))
            tempered[place] = 0.0
            tempered *= (1.0 - own) / tempered.sum()
            tempered[place] = own
        return list(tempered.tolist())

    def _wide_tempered(self, shares: Sequence[float]) -> NDArray[np.float64]:
        logs = np.log(np.maximum(np.asarray(shares, np.float64), TINY)) / self.temperature
        weights = np.exp(logs - logs.max())
        return np.asarray(weights / weights.sum())

    def right(self, confidence: float) -> float:
        """The probability of being right that a confidence, 0 to 1, stands for. The confidence itself where there is no second step.

        >>> stairs = FieldMap(isotonic=((0.5, 0.9), (0.4, 0.6)))
        >>> [round(stairs.right(confidence), 4) for confidence in (0.2, 0.7, 1.0)]
        [0.4, 0.5, 0.6]
        """
        if not self.bends:
            return confidence
        sure = min(max(confidence, EDGE), 1.0 - EDGE)
        sure = _sigmoid(self.beta, sure) if self.beta is not None else self._step(sure)
        return min(max(sure, EDGE), 1.0 - EDGE)

    def _step(self, sure: float) -> float:
        assert self.isotonic is not None
        x, y = self.isotonic
        i = bisect_right(x, sure)
        if i in (0, len(x)):
            return y[0] if i == 0 else y[-1]
        return y[i - 1] + (y[i] - y[i - 1]) * (sure - x[i - 1]) / (x[i] - x[i - 1])


def _sigmoid(beta: tuple[float, float, float], sure: float) -> float:
    a, b, c = beta
    logit = a * math.log(sure) - b * math.log1p(-sure) + c
    return 1.0 / (1.0 + math.exp(-max(-50.0, min(50.0, logit))))
