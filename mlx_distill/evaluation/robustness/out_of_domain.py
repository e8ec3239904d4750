"""Texts of an entirely different kind in place of the row's: a recipe, a chess game, a knitting pattern, in several languages.

They are as unlike each other as they are unlike news, messages or features of products. A task about one of these kinds of text meets
it in a few rows of a hundred.
"""

from __future__ import annotations

from random import Random

from mlx_distill.evaluation.robustness._foreign import TEXTS
from mlx_distill.evaluation.robustness._sentences import sentences
from mlx_distill.evaluation.robustness._suite import DOUBT, EVERY, Context

TITLE = "Out of domain"
MEANING = "the text is of an entirely different kind (a recipe, a chess game, a knitting pattern), in one of several languages"
EXPECT = DOUBT
WHERE = EVERY
BRIEF = 120
"""Characters. Where the row's own text is shorter (a title), one sentence stands for it."""


def perturb(text: str, random: Random, context: Context) -> str:
    foreign = random.choice(TEXTS)
    return foreign if len(text) >= BRIEF else sentences(foreign)[0].strip()
