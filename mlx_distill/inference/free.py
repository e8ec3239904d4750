"""Plain continuations of many prompts: the likeliest token again and again, until a text that ends it, an end token, or a limit.

No grammar, no fields, no template: what general benchmarks ask. Prompts go through `Lane` as rows of a task do, in packed forwards within
the student's capacity, behind the tokens that all of them begin with.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlx_distill.backends.base import Student
from mlx_distill.inference.ask import Ask, Program
from mlx_distill.inference.grammar import Grammar
from mlx_distill.inference.lane import Lane, Task
from mlx_distill.inference.row import Counts, Row
from mlx_distill.records import Example, Ids
from mlx_distill.task.prompt import common_length

WINDOW = 256
"""Prompts that are handed to the lane at a time."""
BESIDE = 8
"""Tokens of the prompt that are put back into text with what was written: how a token is spelled may hang on what stands before it."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """`stops`: what was written ends before the first of these texts; `most`: tokens that are written at most."""

    ids: Ids
    stops: Sequence[str] = ()
    most: int = 128


class _Anything(Grammar):
    """Allows every token."""

    def __init__(self) -> None:
        """No matcher: a lane's `masks` is told what this allows."""


def written(
    student: Student,
    tokenizer: Any,
    prompts: Sequence[Prompt],
    *,
    adapter: str | None = None,
    ends: Collection[int] = (),
    advance: Callable[[int], None] = lambda n: None,
) -> list[str]:
    """What follows each prompt, in their order, the stop and what is behind it left out. `ends`: tokens that end a text.

    `adapter` as of a session. `advance` is told how many more are done. Raises BackendError.
    """
    if not prompts:
        return []
    assert all(len(prompt.ids) for prompt in prompts), "a prompt has a token at least"
    shared = min(common_length([prompt.ids for prompt in prompts]), *(len(prompt.ids) - 1 for prompt in prompts))
    session = student.session(prompts[0].ids[:shared], adapter=adapter)
    lane = Lane(session, student.capacity(), Counts(), masks=_all_of(len(tokenizer), student.vocabulary), temperature=0.0)
    found: dict[int, str] = {}
    for task in lane.answer(_tasks(prompts, shared, tokenizer, frozenset(ends), found)):
        assert task.rows
        advance(1)
    return [found[number] for number in range(len(prompts))]


def _all_of(known: int, vocabulary: int) -> Callable[[Sequence[Grammar]], NDArray[np.uint32]]:
    """Masks of all tokens that the tokenizer knows: a head may have more rows, which mean nothing."""
    bits = np.zeros(-(-vocabulary // 32) * 32, np.uint8)
    bits[: min(known, vocabulary)] = 1
    mask = np.packbits(bits, bitorder="little").view(np.uint32)
    return lambda grammars: np.broadcast_to(mask, (len(grammars), len(mask)))


def _tasks(
    prompts: Sequence[Prompt], shared: int, tokenizer: Any, ends: Collection[int], found: dict[int, str]
) -> Iterator[Sequence[Task]]:
    """The longest first: what does not fit shows at once, and the last to be done are short."""
    order = sorted(range(len(prompts)), key=lambda number: -len(prompts[number].ids))
    for start in range(0, len(order), WINDOW):
        window = []
        for number in order[start : start + WINDOW]:
            prompt = prompts[number]
            row = Row(Example(str(number), {}, ""), prompt.ids, trimmed=False)
            writer = _write(row, prompt, number, tokenizer, ends, found)
            window.append(Task([row], prompt.ids[shared:], prompt.most, [writer]))
        yield window


def _write(row: Row, prompt: Prompt, number: int, tokenizer: Any, ends: Collection[int], found: dict[int, str]) -> Program:
    """Token by token, into `found`."""
    beside = prompt.ids[-BESIDE:].tolist()
    own: list[int] = []
    pending: list[int] = []
    longest = max(map(len, prompt.stops), default=0)
    while len(own) < prompt.most:
        told = yield Ask(pending, grammar=_Anything())
        row.require_numbers("the next token", told.log)
        if told.token in ends:
            break
        own.append(told.token)
        pending = [told.token]
        if longest and _stopped(tokenizer, own, longest, prompt.stops):
            break
    found[number] = before_stop(_text(tokenizer, beside, own), prompt.stops)


def _stopped(tokenizer: Any, own: Sequence[int], longest: int, stops: Sequence[str]) -> bool:
    """Whether a stop was written now: within the last tokens, of which each is a byte at least."""
    tail = str(tokenizer.decode(own[-4 * longest - 4 :], skip_special_tokens=False))
    return any(stop in tail for stop in stops)


def _text(tokenizer: Any, beside: list[int], own: list[int]) -> str:
    """What tokens spell behind others."""
    spelled, whole = (str(tokenizer.decode(ids, skip_special_tokens=False)) for ids in (beside, beside + own))
    return whole[len(spelled) :] if whole.startswith(spelled) else str(tokenizer.decode(own, skip_special_tokens=False))


def before_stop(text: str, stops: Sequence[str]) -> str:
    """A text up to the stop that stands first in it.

    >>> before_stop(" (B)\\n\\nQ: And now?", ["Q:", "\\n\\n"])
    ' (B)'
    """
    places = [at for stop in stops if (at := text.find(stop)) >= 0]
    return text[: min(places)] if places else text
