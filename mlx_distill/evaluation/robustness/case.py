"""All in capitals, or all in small letters."""

from __future__ import annotations

from random import Random

from mlx_distill.evaluation.robustness._suite import EVERY, SAME, Context

TITLE = "Capitals"
MEANING = "everything is in capitals, or in small letters"
EXPECT = SAME
WHERE = EVERY


def perturb(text: str, random: Random, context: Context) -> str:
    first, second = random.choice(((str.upper, str.lower), (str.lower, str.upper)))
    found = first(text)
    return found if found != text else second(text)
