"""The end of the text is missing, as where a message was cut off: a quarter of it, or a half. The last word that is left is whole."""

from __future__ import annotations

from random import Random

from mlx_distill.evaluation.robustness._letters import characters
from mlx_distill.evaluation.robustness._suite import LONGEST, SAME_OR_DEFER, Context

TITLE = "Cut off"
MEANING = "the last quarter or the last half of the longest text is missing"
EXPECT = SAME_OR_DEFER
WHERE = LONGEST
KEPT = (0.75, 0.5)
LONGEST_WORD = 40
"""Characters."""


def perturb(text: str, random: Random, context: Context) -> str:
    kept = random.choice(KEPT)
    letters = characters(text)
    end = int(len(letters) * kept)
    if end == 0 or end == len(letters):
        return text
    # A script without spaces, or one long word, is cut where it is.
    words_end = next((i for i in range(end, max(0, end - LONGEST_WORD), -1) if letters[i].isspace()), None)
    return "".join(letters[: words_end or end]).rstrip() or text
