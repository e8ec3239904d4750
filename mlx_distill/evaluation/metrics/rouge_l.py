"""`rouge_l.<field>`: how much of the judge's wording stands in the student's text, in the same order.

Lin, "ROUGE: a package for automatic evaluation of summaries", 2004: F-measure of the longest common subsequence of words. Words as in
Google's rouge_score without its stemmer, lower case without punctuation, but of any script: where it has no spaces between words, in
Chinese, Japanese or Thai, a character is a word. The subsequence by bits, Hyyrö, "Bit-parallel LCS-length computation revisited", 2004.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

import numpy as np

from mlx_distill.evaluation.metrics import Sheet, Tally, mean

BETTER = "higher"
UNIT = "F1, 0 to 1"
TITLE = "ROUGE-L"

_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3041-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003fffd"
"""Thai, Lao, Burmese, Khmer, kana and Han."""
_MARKS = "\u0300-\u036f\u05b0-\u05bd\u064b-\u065f\u0900-\u0963\u0966-\u0dff"
"""Accents, points and vowel signs: of a word, and yet no letters to Python."""
_WORD = re.compile(f"[{_UNSPACED}]|(?:[^\\W_{_UNSPACED}]|[{_MARKS}])+")


def rouge_l(reference: Sequence[str | None], answer: Sequence[str | None]) -> float:
    """Mean F-measure, row by row, 0 to 1; higher is better. Two texts without words agree; no answer is 0; no label does not count.

    >>> rouge_l(["The house burned down.", None], ["the old house burned", "x"])  # 3 words in common, 4 on each side
    0.75
    """
    pairs = list(zip(reference, answer, strict=True))
    return mean([overlap(*pair) for pair in pairs], [judge is not None for judge, _ in pairs]).total()


def overlap(reference: object, answer: object) -> float:
    """F-measure of two texts; 0 where either is none."""
    if not isinstance(reference, str) or not isinstance(answer, str):
        return 0.0
    judge, student = words(reference), words(answer)
    return 2 * in_common(judge, student) / (len(judge) + len(student)) if judge or student else 1.0


def words(text: str) -> list[str]:
    """
    >>> words("Fire_2, ΣΤΗΝ Αθήνα!"), words("東京 burns")
    (['fire', '2', 'στην', 'αθήνα'], ['東', '京', 'burns'])
    """
    return _WORD.findall(text.lower() if text.isascii() else unicodedata.normalize("NFC", text.lower()))


def in_common(first: Sequence[str], second: Sequence[str]) -> int:
    """Length of the longest common subsequence.

    Bit i of `open` is 0 where a common subsequence grows longer with word i of `first`; a word of `second` moves all of them at once.

    >>> in_common("a b c d".split(), "b x d a".split())
    2
    """
    places: dict[str, int] = {}
    for i, word in enumerate(first):
        places[word] = places.get(word, 0) | 1 << i
    all_words = still = (1 << len(first)) - 1
    for word in second:
        if hits := still & places.get(word, 0):
            still = (still + hits | still - hits) & all_words
    return len(first) - still.bit_count()


def tallies(sheet: Sheet) -> dict[str, Tally]:
    return {
        f"rouge_l.{name}": mean(np.array([overlap(*pair) for pair in column.raw], dtype=float), column.labelled)
        for name, column in sheet.of_kind("text").items()
    }
