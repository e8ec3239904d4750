"""Text without any sense: its characters in disorder, its words' letters and the words in disorder, or keys struck at random."""

from __future__ import annotations

from random import Random

from mlx_distill.evaluation.robustness._letters import characters
from mlx_distill.evaluation.robustness._suite import DOUBT, EVERY, Context

TITLE = "Nonsense"
MEANING = "characters in disorder, words and their letters in disorder, or random keys: there is nothing to answer"
EXPECT = DOUBT
WHERE = EVERY
KEYS = "abcdefghijklmnopqrstuvwxyz"


def perturb(text: str, random: Random, context: Context) -> str:
    way = random.choice((_characters, _words, _keys))
    found = way(text, random)
    return found if found.split() != text.split() else _keys(text, random)


def _characters(text: str, random: Random) -> str:
    """All but the white space changes places: words keep their lengths, and nothing else."""
    letters = characters(text)
    moved = [letter for letter in letters if not letter.isspace()]
    random.shuffle(moved)
    left = iter(moved)
    return "".join(letter if letter.isspace() else next(left) for letter in letters)


def _words(text: str, random: Random) -> str:
    words = [characters(word) for word in text.split()]
    for word in words:
        random.shuffle(word)
    random.shuffle(words)
    return " ".join("".join(word) for word in words)


def _keys(text: str, random: Random) -> str:
    """As many words as there were, of one to nine letters each."""
    words = max(1, len(text.split()))
    return " ".join("".join(random.choices(KEYS, k=random.randint(1, 9))) for _ in range(words))
