"""Typing errors: a neighbouring key, two letters swapped, one dropped, one doubled, an accent lost.

One in `LETTERS_A_TYPO` letters is hit, at least one. Words stay readable: the first letter stays, and words of up to three letters, which
often decide what is meant ("not"), stay whole. Numbers stay what they are, and so do names with digits, addresses, tags and markup.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from random import Random

from mlx_distill.evaluation.robustness._keyboard import neighbours
from mlx_distill.evaluation.robustness._language import language
from mlx_distill.evaluation.robustness._letters import characters
from mlx_distill.evaluation.robustness._suite import EVERY, SAME, Context

TITLE = "Typing errors"
MEANING = "about one letter in 25 is mistyped (a neighbouring key, swapped, dropped, doubled); digits, short words and addresses stay"
EXPECT = SAME
WHERE = EVERY
LETTERS_A_TYPO = 25
SHORTEST = 4
"""Letters of a word that may be hit."""
SPREAD = 8
"""A long word, or a line in a script without spaces, is hit at most once in so many letters."""
Slip = tuple[int, int, list[str]]
NO_WORDS = set("@#_/\\{}<>|0123456789")
"""A word that touches one of these is part of a name, an address, or markup."""


def perturb(text: str, random: Random, context: Context) -> str:
    letters = characters(text)
    places = list(_places(letters))
    wanted = max(1, round(sum(letter[0].isalpha() for letter in letters) / LETTERS_A_TYPO))
    code = language(text)
    for first, last in sorted(random.sample(places, min(wanted, len(places))), reverse=True):
        at = random.randrange(first, last)
        start, end, typed = random.choice(random.choice(list(_slips(letters, at, last, code))))
        letters[start:end] = typed
    return "".join(letters)


def _places(letters: list[str]) -> Iterator[tuple[int, int]]:
    """(first, behind the last) letter of each stretch that one typo may fall into: a word without its first letter, or a part of it."""
    start = 0
    while start < len(letters):
        end = start
        while end < len(letters) and letters[end][0].isalpha():
            end += 1
        if end - start >= SHORTEST and not _named(letters, start, end):
            parts = (end - start) // SPREAD or 1
            edges = [start + 1 + (end - start - 1) * i // parts for i in range(parts + 1)]
            yield from pairwise(edges)
        start = end + 1


def _named(letters: list[str], start: int, end: int) -> bool:
    """Whether a word is part of something that is not typed word by word: x@y.org, https://, #tag, snake_case, covid19, </b>."""
    before, behind = "".join(letters[max(0, start - 2) : start]), "".join(letters[end : end + 2])
    dotted = (before[-1:] == "." and before[:1].isalnum()) or (behind[:1] == "." and behind[1:].isalnum())
    return dotted or behind == ":/" or any(letter in NO_WORDS or letter.isnumeric() for letter in before[-1:] + behind[:1])


def _slips(letters: list[str], at: int, last: int, code: str) -> Iterator[list[Slip]]:
    """What may go wrong at a place, kind by kind: each is (start, end, what stands there instead), and changes the text."""
    yield [(at, at + 1, [])]
    yield [(at, at + 1, [letters[at]] * 2)]
    if at + 1 < last and letters[at] != letters[at + 1]:
        yield [(at, at + 2, [letters[at + 1], letters[at]])]
    if beside := neighbours(letters[at], code):
        yield [(at, at + 1, [key]) for key in beside]
