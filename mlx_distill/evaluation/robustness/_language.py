"""Which language a text is in, roughly: by its script, or by its smallest words. Good enough to type, or to add a sentence, in kind."""

from __future__ import annotations

import re
from collections import Counter

LOOKED_AT = 4000
"""Characters at the beginning of a text; what follows is of the same language."""
DEFAULT = "en"
_SCRIPTS = (("el", "\u0370", "\u03ff"), ("ru", "\u0400", "\u04ff"), ("ar", "\u0600", "\u06ff"), ("zh", "\u4e00", "\u9fff"))
_WORDS = {
    "en": "the and of to is that was for with are this have not you it be from by they i my",
    "nl": "de het een van en dat niet zijn op te voor met er ik je die maar ook aan wordt",
    "de": "der die das und ist nicht ein eine den von zu mit auf sich auch dem im ich wird für",
    "fr": "le la les des et est une un que pas dans pour sur du au avec ce qui je nous",
    "es": "el la los las de y que es en un una no con por para del se su lo como",
    "pt": "o a os as de e que é em um uma não com por para do da se mais dos na",
    "it": "il la di e che è un una non per con del della sono si i gli le più anche",
}
_BY_WORD = {word: [code for code, words in _WORDS.items() if word in words.split()] for words in _WORDS.values() for word in words.split()}
_WORD = re.compile(r"[^\W\d_]+")


def language(text: str) -> str:
    """Its code: one of en, nl, de, fr, es, pt, it, el, ru, ar, zh. English where nothing tells.

    >>> [language(t) for t in ("There is a fire", "Er is brand in het bos", "Há fogo na mata, e não é pouco", "Φωτιά στο δάσος", "42")]
    ['en', 'nl', 'pt', 'el', 'en']
    """
    beginning = text[:LOOKED_AT].lower()
    letters = sum(map(str.isalpha, beginning))
    for code, first, last in _SCRIPTS:
        if sum(first <= char <= last for char in beginning) > letters / 2:
            return code
    votes: Counter[str] = Counter()
    for word in _WORD.findall(beginning):
        for code in (codes := _BY_WORD.get(word, [])):
            votes[code] += 6 // len(codes)  # a word of several languages tells little
    return max(_WORDS, key=lambda code: votes[code]) if votes else DEFAULT
