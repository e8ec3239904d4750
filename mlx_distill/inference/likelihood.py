"""How likely texts are behind others: what multiple choice is answered by, and what perplexity is made of.

    likelier(student, asked)        of each question the number of its likeliest continuation
    likelihoods(student, pairs)     of each continuation the log probability of all of its tokens, in nats
    greedy(student, pairs)          whether it is what a greedy continuation would have been

Nothing is drawn and nothing trimmed. It knows tokens; nothing of benchmarks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlx_distill.backends.base import Student
from mlx_distill.errors import BackendError
from mlx_distill.records import Group, Ids, TokenRow
from mlx_distill.task.prompt import common_length

Pair = tuple[Ids, Ids]
"""What stands before (a token at least), and what follows it (a token at least)."""
Advance = Callable[[int], None]
ROWS = 256
"""That are in memory at once at most."""


def _silent(n: int) -> None:
    pass


def pair(tokenizer: Any, before: str, after: str) -> Pair:
    """A text and its continuation as tokens: put into tokens together, as the student will have read them, and parted where the first ends.

    White space at the end of `before` goes with what follows, as in lm-evaluation-harness: so tokenizers have learned it.
    """
    kept = before.rstrip()
    first = encoded(tokenizer, kept)
    if not kept:
        return first, np.array(tokenizer(before + after, add_special_tokens=False, verbose=False)["input_ids"], np.int32)
    whole = encoded(tokenizer, before + after)
    at = min(len(first), len(whole) - 1)
    return whole[:at], whole[at:]


def encoded(tokenizer: Any, text: str) -> Ids:
    """As the tokenizer does by itself, so with the token that it begins a text with; an empty text is the token that begins or ends one."""
    ids = np.array(tokenizer(text, verbose=False)["input_ids"], np.int32)
    if len(ids):
        return ids
    first = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    return np.array([0 if first is None else first], np.int32)


def likelier(student: Student, asked: Sequence[Sequence[Pair]], *, adapter: str | None = None, advance: Advance = _silent) -> list[int]:
    """Of each question, a pair for each choice, the number of the likeliest; the first where two tie.

    Where all choices of a question are one token behind the same text, they are read at one place, at a fraction of the cost.
    """
    single = [number for number, pairs in enumerate(asked) if _one_place(pairs)]
    found = dict(zip(single, _read(student, [asked[number] for number in single], adapter, advance), strict=True))
    rest = [number for number in range(len(asked)) if number not in found]
    logs = iter(likelihoods(student, [pair for number in rest for pair in asked[number]], adapter=adapter))
    for number in rest:
        found[number] = int(np.argmax([next(logs) for _ in asked[number]]))
        advance(1)
    return [found[number] for number in range(len(asked))]


def _one_place(pairs: Sequence[Pair]) -> bool:
    (before, _), *others = pairs
    return all(len(after) == 1 for _, after in pairs) and all(np.array_equal(before, other) for other, _ in others)


def _read(student: Student, asked: Sequence[Sequence[Pair]], adapter: str | None, advance: Advance) -> Iterator[int]:
    """For each question, its choices being a token each."""
    if not asked:
        return
    texts = [pairs[0][0] for pairs in asked]
    shared = _shared(texts)
    session = student.session(texts[0][:shared], adapter=adapter)
    at = 0
    for size in _packed([len(text) - shared for text in texts], student.capacity().forward):
        some = asked[at : at + size]
        handles = session.admit([np.zeros(0, np.int32)] * size)
        session.extend({handle: texts[at + i][shared:] for i, handle in enumerate(handles)}, ending=handles)
        ids = {handle: [np.unique([after[0] for _, after in pairs])] for handle, pairs in zip(handles, some, strict=True)}
        logs = session.read({handle: [-1] for handle in handles}, ids)
        session.drop(handles)
        for handle, pairs in zip(handles, some, strict=True):
            by_id = dict(zip(ids[handle][0].tolist(), _numbers(logs[handle][0]), strict=True))
            yield int(np.argmax([by_id[int(after[0])] for _, after in pairs]))
        at += size
        advance(size)


def likelihoods(student: Student, pairs: Sequence[Pair], *, adapter: str | None = None, advance: Advance = _silent) -> list[float]:
    """Nats, at most 0, of each continuation: the sum over its tokens, each among the whole vocabulary."""
    if not pairs:
        return []
    shared = _shared([before for before, _ in pairs])
    prefix = pairs[0][0][:shared]
    order = sorted(range(len(pairs)), key=lambda number: -sum(map(len, pairs[number])))
    rows = {number: _row(str(number), *pairs[number], shared) for number in order}
    found: dict[int, float] = {}
    at = 0
    for size in _packed([len(rows[number].tokens) for number in order], student.capacity().forward):
        some = order[at : at + size]
        losses = student.loss([Group(prefix, [[rows[number] for number in some]])], adapter=adapter)
        found |= dict(zip(some, _numbers([-losses[str(number)].nats for number in some]).tolist(), strict=True))
        at += size
        advance(size)
    return [found[number] for number in range(len(pairs))]


def _row(name: str, before: Ids, after: Ids, shared: int) -> TokenRow:
    tokens = np.concatenate([before, after])[shared:-1].astype(np.int32)
    read_at = np.arange(len(before) - shared - 1, len(tokens), dtype=np.int32)
    return TokenRow(name, tokens, read_at, after.astype(np.int32), np.ones(len(after), np.float32))


def greedy(student: Student, pairs: Sequence[Pair], *, adapter: str | None = None) -> list[bool]:
    """Whether each token of a continuation is the likeliest of all behind those before it. Most part from it at once, and cost no more."""
    out = [False] * len(pairs)
    if not pairs:
        return out
    shared = _shared([before for before, _ in pairs])
    session = student.session(pairs[0][0][:shared], adapter=adapter)
    everything = np.full(-(-student.vocabulary // 32), 0xFFFFFFFF, np.uint32)
    capacity = student.capacity()
    at = 0
    for size in _packed([len(before) - shared for before, _ in pairs], capacity.forward):
        handles = session.admit([np.zeros(0, np.int32)] * size)
        numbers = dict(zip(handles, range(at, at + size), strict=True))
        asked = {handle: pairs[number][0][shared:] for handle, number in numbers.items()}
        depth = 0
        while asked:
            session.extend(asked)
            chosen, _ = session.choose(dict.fromkeys(asked, everything))
            right = {handle for handle, token in chosen.items() if token == int(pairs[numbers[handle]][1][depth])}
            depth += 1
            for handle in right:
                out[numbers[handle]] = depth == len(pairs[numbers[handle]][1])
            asked = {h: pairs[numbers[h]][1][depth - 1 : depth] for h in asked if h in right and not out[numbers[h]]}
        session.drop(handles)
        at += size
    return out


def _shared(texts: Sequence[Ids]) -> int:
    """Tokens that all begin with, at least one short of the shortest."""
    return min(common_length(list(texts)), *(len(text) - 1 for text in texts))


def _packed(lengths: Sequence[int], forward: int) -> Iterator[int]:
    """How many of the next go into a forward, one after another. One that is longer than it goes alone."""
    size = tokens = 0
    for length in lengths:
        if size and (tokens + length > forward or size == ROWS):
            yield size
            size = tokens = 0
        size, tokens = size + 1, tokens + length
    if size:
        yield size


def _numbers(logs: Any) -> NDArray[np.float64]:
    """Raises BackendError where they are none."""
    out = np.asarray(logs, np.float64)
    if np.isnan(out).any():
        hint = "are the adapter or the base damaged, or too large for their type?"
        raise BackendError("the probabilities are not numbers", hint=hint)
    return out
