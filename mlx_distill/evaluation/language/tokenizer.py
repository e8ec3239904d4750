"""How many tokens a text costs, by language: what a tokenizer was not made for is slow, dear, and cut off early.

    efficiency({"el": [...], "en": [...]}, tokenizer)      report.json's `tokenizer`
    judge(rows, tokenizer)                                 the same of judged rows, told apart by language or script

Characters, words and UTF-8 bytes a token, each as a ratio of sums, so that a long text counts as much as it has. Characters differ in what
they say (a Han character is a word), so languages are compared by `paragraphs`, the same content in seven of them.
It knows texts and a tokenizer of transformers, no model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mlx_distill.evaluation import bootstrap as boot
from mlx_distill.evaluation.language.paragraphs import PARAGRAPHS, REFERENCE
from mlx_distill.evaluation.language.writing import UNSPACED, languages, script
from mlx_distill.evaluation.sheet import Judged
from mlx_distill.evaluation.tally import Bools, Floats, Tally, ratio
from mlx_distill.task.fields import legible

AT_MOST = 2000
"""Texts of a language that are counted, drawn with a seed: more would hardly move a digit that is shown."""
LANGUAGES_AT_MOST = 30
BATCH = 256


def judge(rows: Sequence[Judged], tokenizer: Any, *, bootstrap: int = boot.RESAMPLES, seed: int = 0) -> dict[str, Any]:
    by, texts = languages([row.record for row in rows], [row.text for row in rows])
    return {"by": by, **efficiency(texts, tokenizer, bootstrap=bootstrap, seed=seed)}


def efficiency(texts: Mapping[str, Sequence[str]], tokenizer: Any, *, bootstrap: int = boot.RESAMPLES, seed: int = 0) -> dict[str, Any]:
    """Languages in the order of `texts`, the first LANGUAGES_AT_MOST; empty texts do not count."""
    known = {language: [text for text in own if text.strip()] for language, own in texts.items()}
    known = {language: own for language, own in known.items() if own}
    return {
        "languages": {
            language: _language(_drawn(own, seed), len(own), tokenizer, bootstrap, seed)
            for language, own in list(known.items())[:LANGUAGES_AT_MOST]
        },
        "left_out": max(0, len(known) - LANGUAGES_AT_MOST),
        "paragraphs": paragraphs(tokenizer),
        "vocabulary": len(tokenizer),
    }


def paragraphs(tokenizer: Any) -> dict[str, dict[str, float]]:
    """Of the same content in each language: {characters, tokens, characters_per_token, relative}; `relative`: tokens for one in English."""
    found = {language: counts(own, tokenizer).sum(axis=0) for language, own in PARAGRAPHS.items()}
    english = found[REFERENCE][1]
    return {
        language: {
            "characters": int(characters),
            "tokens": int(tokens),
            "characters_per_token": float(characters / tokens),
            "relative": float(tokens / english),
        }
        for language, (characters, tokens, _, _) in found.items()
    }


def counts(texts: Sequence[str], tokenizer: Any) -> Floats:
    """(texts, 4): characters, tokens, words between blanks, UTF-8 bytes of each."""
    lengths: list[int] = []
    for start in range(0, len(texts), BATCH):
        batch = [legible(text) for text in texts[start : start + BATCH]]
        lengths.extend(len(ids) for ids in tokenizer(batch, add_special_tokens=False, verbose=False)["input_ids"])
    rows = [(len(text), tokens, len(text.split()), len(legible(text).encode())) for text, tokens in zip(texts, lengths, strict=True)]
    return np.array(rows, dtype=float).reshape(len(rows), 4)


def _drawn(texts: Sequence[str], seed: int) -> Sequence[str]:
    if len(texts) <= AT_MOST:
        return texts
    return [texts[i] for i in np.sort(np.random.default_rng(seed).choice(len(texts), AT_MOST, replace=False))]


def _language(texts: Sequence[str], there_are: int, tokenizer: Any, bootstrap: int, seed: int) -> dict[str, Any]:
    found = counts(texts, tokenizer)
    characters, tokens, words, size = found.T
    tallies = {
        "characters_per_token": _quotient(characters, tokens),
        "tokens_per_word": _quotient(tokens, words),
        "bytes_per_token": _quotient(size, tokens),
    }
    if script("".join(text[:200] for text in texts[:20])) in UNSPACED:
        del tallies["tokens_per_word"]
    figures = boot.figures(tallies, bootstrap=bootstrap, seed=seed)
    return {
        "texts": there_are,
        "counted": len(texts),
        "characters": int(characters.sum()),
        "tokens": int(tokens.sum()),
        "characters_per_token": figures["characters_per_token"],
        "tokens_per_word": figures.get("tokens_per_word"),
        "bytes_per_token": figures["bytes_per_token"],
    }


def _quotient(over: Floats, under: Floats) -> Tally:
    """The sum of one over the sum of the other."""
    counted: Bools = np.ones(len(over), dtype=bool)
    return Tally(np.stack([over, under], axis=1), counted, lambda sums: ratio(sums[..., 0], sums[..., 1]))
