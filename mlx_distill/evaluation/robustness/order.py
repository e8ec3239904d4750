"""The same sentences, in another order. White space between them stays where it is."""

from __future__ import annotations

from random import Random

from mlx_distill.evaluation.robustness._sentences import sentences
from mlx_distill.evaluation.robustness._suite import LONGEST, SAME, Context

TITLE = "Order"
MEANING = "the sentences of the longest text stand in another order"
EXPECT = SAME
WHERE = LONGEST


def perturb(text: str, random: Random, context: Context) -> str:
    parts = sentences(text)
    said = [part.rstrip() for part in parts]
    if len(set(said)) < 2:
        return text
    moved = list(said)
    random.shuffle(moved)
    if moved == said:
        moved = [*said[1:], said[0]]
    return "".join(sentence + part[len(own) :] for sentence, own, part in zip(moved, said, parts, strict=True))
