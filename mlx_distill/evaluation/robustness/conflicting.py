"""What contradicts the text is added to it: a sentence of another test row, of which the judge says something else."""

from __future__ import annotations

from random import Random

from mlx_distill.evaluation.robustness._sentences import insert, sentences
from mlx_distill.evaluation.robustness._suite import LONGEST, SAME_OR_DEFER, Context

TITLE = "Contradicted"
MEANING = "a sentence of another row, of which the judge says something else, stands at the end"
EXPECT = SAME_OR_DEFER
WHERE = LONGEST


def perturb(text: str, random: Random, context: Context) -> str:
    others = [label for label in sorted(context.texts) if label != context.label]
    if not others:
        return text  # the judge says the same of every row
    other = random.choice(context.texts[random.choice(others)])
    addition = random.choice(sentences(other)).strip()
    return insert(text, len(sentences(text)), addition)
