"""Other white space between the same words: doubled spaces, line breaks, tabs, non-breaking spaces, and some around the text."""

from __future__ import annotations

import re
from random import Random

from mlx_distill.evaluation.robustness._suite import EVERY, SAME, Context

TITLE = "White space"
MEANING = "spaces are doubled, or become line breaks, tabs and non-breaking spaces; the words are the same"
EXPECT = SAME
WHERE = EVERY
SHARE = 0.3
"""Of the gaps; at least one."""
GAPS = ("  ", "   ", "\n", "\n\n", " \t", "\u00a0", "\u2009", "\r\n")
_GAP = re.compile(r"(\s+)")


def perturb(text: str, random: Random, context: Context) -> str:
    parts = _GAP.split(text)
    gaps = range(1, len(parts), 2)
    for i in random.sample(gaps, max(min(1, len(gaps)), round(SHARE * len(gaps)))):
        parts[i] = random.choice([gap for gap in GAPS if gap != parts[i]])
    found = "".join(parts)
    return found if gaps else f"\n {found}\n\n"
