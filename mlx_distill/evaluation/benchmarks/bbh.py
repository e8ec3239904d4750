"""BIG-Bench Hard: 27 kinds of puzzle (Suzgun et al., "Challenging BIG-Bench tasks and whether chain-of-thought can solve them", 2022).

    JSON Lines       task, input, target
    the original     one JSON a task: {examples: [{input, target}, ...]}; the task is the file's name

The student writes, and what it wrote is held against the target: exactly, but for case, quotes, commas and a full stop; where that fails,
what answers a question of that kind is looked for in it (a letter in brackets, a number, yes or no), as bbh_zeroshot of
lm-evaluation-harness does. Its files carry a canary: for evaluation only, never to be learned from.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from mlx_distill.data.sources import SourceRow
from mlx_distill.errors import DataError
from mlx_distill.evaluation.benchmarks import Question, Read, _rows

TITLE, FLOOR, SHOTS = "BBH", 0.5, True
STOPS = ("Q:", "</s>", "<|im_end|>")
TOKENS = 128
WORDS = (("true", "false"), ("yes", "no"), ("valid", "invalid"))
"""Answers of one word, of which there are two."""
_OPTION = re.compile(r"^\(([A-Z])\) ?(.*)$", re.MULTILINE)
_LETTER = re.compile(r"\(([A-Z])\)")
_NUMBER = re.compile(r"-?\d+")
_CONCLUSION = re.compile(r"answer is:?\s*(.*)", re.IGNORECASE | re.DOTALL)


def heading(task: str) -> str:
    return ""


def read(path: Path) -> Read:
    questions = [question for file in _rows.files(path, (*_rows.LINES, *_rows.WHOLE, *_rows.TABLES)) for question in _questions(file)]
    if not questions:
        raise DataError("there is no question in it", file=path, hint="is this the right file?")
    return Read(questions)


def _questions(path: Path) -> Iterator[Question]:
    for number, row in enumerate(_records(path)):
        task = str(row.record.get("task") or path.name.partition(".")[0])
        asked, target = _rows.text(row, "input"), _rows.text(row, "target")
        name = f"{task}/{row.record.get('i', number)}"
        yield Question(name, task, f"Q: {asked}\nA:", target.strip(), "exact", chance=_chance(asked, target.strip()))


def _records(path: Path) -> Iterator[SourceRow]:
    whole = _rows.document(path) if _rows.suffix(path) in _rows.WHOLE else None
    if whole is None or (isinstance(whole, Mapping) and "input" in whole):  # JSON Lines under that name, of one line or more
        yield from _rows.rows(path)
        return
    examples = whole.get("examples") if isinstance(whole, Mapping) else None
    if not isinstance(examples, list) or not all(isinstance(example, dict) for example in examples):
        raise DataError("it has no list `examples`", file=path, hint="a task's file is {examples: [{input, target}, ...]}")
    yield from (SourceRow(number, example, str(path)) for number, example in enumerate(examples, start=1))


def _chance(asked: str, target: str) -> float:
    if _LETTER.fullmatch(target):
        return 1 / max(1, len(_OPTION.findall(asked)))
    return 0.5 if any(target.lower() in words for words in WORDS) else 0.0


def right(question: Question, said: str) -> bool:
    """Whether what was written answers the question as its target does.

    >>> ask = Question("1", "dates", "Q: When?\\nOptions:\\n(A) today\\n(B) tomorrow\\nA:", "(B)", "exact")
    >>> [right(ask, said) for said in (" (B)", " (B) tomorrow.", " So the answer is (B).", " tomorrow", " B", " (A), not (B)")]
    [True, True, True, True, True, False]
    """
    target = _plain(question.answer)
    for text in (said, *_CONCLUSION.findall(said)[-1:]):
        if _plain(text) == target or _plain(text.strip().partition("\n")[0]) == target:
            return True
    text = next(iter(_CONCLUSION.findall(said)[-1:]), said)
    return (found := _found(question, text)) is not None and _plain(found) == target


def _found(question: Question, text: str) -> str | None:
    """The first thing in a text that answers a question of this kind."""
    target = question.answer
    if _LETTER.fullmatch(target):
        return _option(question.prompt, text)
    if _NUMBER.fullmatch(target):
        return next(iter(_NUMBER.findall(text.replace(",", ""))), None)
    for words in WORDS:
        if target.lower() in words:
            return next(iter(re.findall(rf"\b({'|'.join(words)})\b", text.lower())), None)
    return None


def _option(prompt: str, text: str) -> str | None:
    """The letter in brackets that stands first; else a bare letter that opens the text; else that of the option which is written out."""
    if letter := _LETTER.search(text):
        return letter[0]
    if letter := re.match(r"\s*([A-Z])(?:[.):,]|\s*(?:\n|$))", text):
        return f"({letter[1]})"
    named = [
        f"({letter})" for letter, words in _OPTION.findall(prompt) if words and _plain(words) == _plain(text.strip().partition("\n")[0])
    ]
    return named[0] if len(named) == 1 else None


def _plain(text: str) -> str:
    r"""Without what does not matter: case, commas, quotes, backslashes, white space around and more than one within, a full stop.

    >>> _plain(' "Yes".\n')
    'yes'
    """
    return " ".join(re.sub(r'[,"\\]', "", text).lower().split()).removesuffix(".")
