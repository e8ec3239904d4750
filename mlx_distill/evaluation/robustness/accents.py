"""Accents are missing, or stored as marks of their own (NFD). Only Latin and Greek letters lose them: vowel signs are no accents."""

from __future__ import annotations

import unicodedata
from random import Random

from mlx_distill.evaluation.robustness._suite import EVERY, SAME, Context

TITLE = "Accents"
MEANING = "accents are left out, or stored as Unicode marks of their own (NFD), which looks the same"
EXPECT = SAME
WHERE = EVERY
LAST = "\u03ff"
"""Of the letters that accents stand on: Latin and Greek ones, once they are decomposed, end here."""


def perturb(text: str, random: Random, context: Context) -> str:
    first, second = random.choice(((bare, decomposed), (decomposed, bare)))
    found = first(text)
    return found if found != text else second(text)


def bare(text: str) -> str:
    """Without accents.

    >>> bare("Não é à toa: ξέρω, \u0439")
    'Nao e a toa: ξερω, \u0439'
    """
    kept: list[str] = []
    letter = ""
    for char in unicodedata.normalize("NFD", text):
        mark = unicodedata.combining(char) != 0
        letter = letter if mark else char
        if not (mark and letter.isalpha() and letter <= LAST):
            kept.append(char)
    return unicodedata.normalize("NFC", "".join(kept))


def decomposed(text: str) -> str:
    return unicodedata.normalize("NFD", text)
