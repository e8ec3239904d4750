"""Whatever is asked of a session, in whatever order: a row answers as if it had been forwarded alone with its whole prompt.

The reference does forward it so. Both are led through the same life, and everything that may be read is read after each step.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from mlx_distill.records import Ids
from tests.checkpoints import VOCABULARY
from tests.conformance.contestants import BACKENDS, CLOSE, EVERYTHING, gap, open_student, prepared, random_adapter
from tests.conformance.reference_student import ReferenceStudent
from tests.conftest import MakeBase
from tests.rows import random_ids, shape_of

pytestmark = pytest.mark.parametrize("name", BACKENDS)
BASES = pytest.mark.parametrize(
    ("family", "bits", "config"),
    [("qwen2", None, {}), ("phi3", 4, {}), ("gemma2", None, {"sliding_window": 6}), ("mistral", 4, {"sliding_window": 5})],
    ids=["qwen2", "packed phi3", "gemma2 of windows", "packed mistral of windows"],
)
NOTHING = np.zeros(0, np.int32)
Tokens = dict[int, list[int]]


def mask_of(ids: Sequence[int] | Ids) -> NDArray[np.uint32]:
    """(ceil(V / 32),) bits, the least significant first."""
    bits = np.zeros(-(-VOCABULARY // 32) * 32, np.uint8)
    bits[list(ids)] = 1
    return np.packbits(bits, bitorder="little").view(np.uint32)


class Life:
    """A session beside the reference's, led through the same steps."""

    def __init__(self, name: str, base: Path, prefix: Ids, *, adapted: bool = False):
        self._generator = np.random.default_rng(0)
        self.both: list[Any] = [self._student(each, base, adapted).session(prefix) for each in (name, "reference")]
        self._said: dict[int, int] = {}
        """How many tokens each row's last forward had, asides among them."""

    @staticmethod
    def _student(name: str, base: Path, adapted: bool) -> Any:
        if not adapted:
            return open_student(name, base, packed=True) if name != "reference" else ReferenceStudent(base)
        return prepared(name, base, shape_of(), weights=random_adapter(base, shape_of()))

    def ids(self, *lengths: int) -> list[Ids]:
        return [random_ids(self._generator, length) for length in lengths]

    def admit(self, *lengths: int) -> list[int]:
        rows = self.ids(*lengths)
        handles = [session.admit(rows, read_at=[range(length) for length in lengths]) for session in self.both]
        assert handles[0] == handles[1], "handles count up, in both alike"
        self._said |= dict(zip(handles[0], lengths, strict=True))
        self.check()
        return list(handles[0])

    def extend(self, tokens: Mapping[int, int], *, asides: Mapping[int, Sequence[int]] | None = None) -> None:
        """By so many tokens each; every one of them is read."""
        own = {handle: random_ids(self._generator, length).tolist() for handle, length in tokens.items()}
        beside = {handle: [random_ids(self._generator, length).tolist() for length in of] for handle, of in (asides or {}).items()}
        sizes = {handle: len(own.get(handle, ())) + sum(map(len, beside.get(handle, ()))) for handle in {**own, **beside}}
        for session in self.both:
            session.extend(own, asides=beside, read_at={handle: range(size) for handle, size in sizes.items()})
        self._said |= sizes
        self.check(sizes)

    def fork(self, handle: int, number: int) -> list[int]:
        forked = [session.fork(handle, number) for session in self.both]
        assert forked[0] == forked[1]
        size = self._said.pop(handle)
        self._said |= dict.fromkeys(forked[0], size)
        return list(forked[0])

    def drop(self, *handles: int) -> None:
        for session in self.both:
            session.drop(handles)
        for handle in handles:
            del self._said[handle]

    def check(self, handles: Mapping[int, int] | Sequence[int] | None = None) -> None:
        """Everything that rows may be asked: the whole vocabulary at every position."""
        asked = {handle: range(self._said[handle]) for handle in (self._said if handles is None else handles) if self._said[handle]}
        ours, theirs = (session.read(asked, {handle: [EVERYTHING] * len(at) for handle, at in asked.items()}) for session in self.both)
        for handle in asked:
            assert gap(np.stack(ours[handle]), np.stack(theirs[handle])) <= CLOSE, handle

    def same(self, ask: Callable[[Any], Sequence[NDArray[Any]]]) -> None:
        for ours, theirs in zip(*map(ask, self.both), strict=True):
            assert gap(np.asarray(ours), np.asarray(theirs)) <= CLOSE


@BASES
def test_a_whole_life_is_the_references(base: MakeBase, name: str, family: str, bits: int | None, config: dict[str, Any]) -> None:
    life = Life(name, base(family, bits=bits, **config), random_ids(np.random.default_rng(1), 7))
    a, b, c = life.admit(6, 1, 11)
    life.extend({a: 3, c: 1})
    life.extend({b: 1}, asides={b: [2, 1], c: [3]})  # branches that leave a row where it stood
    life.extend({a: 1, b: 4, c: 2})
    (d,) = life.admit(0)  # admitted without tokens, forwarded with rows that go on
    life.extend({d: 9, a: 1}, asides={a: [1]})
    a1, a2, a3 = life.fork(a, 3)
    life.check()
    life.extend({a1: 2, a2: 1, b: 1}, asides={a3: [2]})
    life.drop(a2, b)
    (e,) = life.admit(4)
    life.extend({a1: 1, a3: 3, c: 1, d: 1, e: 5})
    more = [ids.tolist() for ids in life.ids(1, 3, 2)]
    allowed = life.ids(5, 2, 9)
    life.same(lambda session: session.score([a1, c, a1], more, [np.unique(ids) for ids in allowed]))
    life.check([a1, a3, c, d, e])


@pytest.mark.parametrize("prefix", [0, 1, 12])
def test_a_prompt_in_pieces_is_the_prompt_at_once(base: MakeBase, name: str, prefix: int) -> None:
    """And a shared prefix, of any length, is part of the prompt."""
    shared, text = (random_ids(np.random.default_rng(seed), length) for seed, length in ((2, prefix), (3, 20)))
    folder = base("gemma2", sliding_window=6)
    whole, pieces = (open_student(name, folder).session(shared) for _ in range(2))
    (one,), (other,) = whole.admit([text]), pieces.admit([NOTHING])
    for start, end in ((0, 1), (1, 8), (8, 19), (19, 20)):
        pieces.extend({other: text[start:end]}, read_at={other: [] if end < 20 else [0]})
    ours = pieces.read({other: [-1]}, {other: [EVERYTHING]})[other][0]
    assert gap(ours, whole.read({one: [-1]}, {one: [EVERYTHING]})[one][0]) <= CLOSE
    alone = ReferenceStudent(folder).session(NOTHING)
    (third,) = alone.admit([np.concatenate([shared, text])])
    assert gap(ours, alone.read({third: [-1]}, {third: [EVERYTHING]})[third][0]) <= CLOSE


def test_rows_that_end_at_once_are_read_and_leave_nothing(base: MakeBase, name: str) -> None:
    life = Life(name, base(bits=4), random_ids(np.random.default_rng(1), 5))
    a, b = life.admit(3, 8)
    new = life.ids(4)[0]
    for session in life.both:
        (c,) = session.admit([NOTHING])
        session.extend({a: [9, 10], c: new}, read_at={a: [1], c: [0, 3]}, ending=[a, c])
    life.same(lambda session: session.read({a: [1], c: [0, 3]}, {a: [EVERYTHING], c: [EVERYTHING] * 2})[c])
    life.drop(a)
    life.both[0].drop([c])
    life.extend({b: 2})


@BASES
def test_slots_are_read_together_each_among_its_own_codes(
    base: MakeBase, name: str, family: str, bits: int | None, config: dict[str, Any]
) -> None:
    life = Life(name, base(family, bits=bits, **config), random_ids(np.random.default_rng(1), 7))
    a, b = life.admit(9, 12)
    codes = [np.unique(ids) for ids in life.ids(2, 7, 3, 30, 4)]
    positions, allowed = {a: [0, 5, 8], b: [3, -1]}, {a: codes[:3], b: codes[3:]}
    life.same(lambda session: [each for of in session.read(positions, allowed).values() for each in of])
    read = life.both[0].read(positions, allowed)
    assert [len(each) for of in read.values() for each in of] == [len(ids) for ids in codes]
    assert all(np.exp(np.float64(each)).sum() == pytest.approx(1) for of in read.values() for each in of)


def test_an_adapter_answers_in_a_session_as_it_was_trained(base: MakeBase, name: str) -> None:
    life = Life(name, base(), random_ids(np.random.default_rng(1), 7), adapted=True)
    a, b = life.admit(4, 9)
    life.extend({a: 2, b: 1}, asides={b: [2]})


# choosing under a grammar's masks


@pytest.mark.parametrize("bits", [None, 4])
def test_the_greedy_choice_among_what_a_mask_allows(base: MakeBase, name: str, bits: int | None) -> None:
    life = Life(name, base("gemma2", bits=bits), random_ids(np.random.default_rng(1), 7))
    rows = life.admit(4, 9, 5, 6)
    few, many = life.ids(3)[0], EVERYTHING[5:-3]
    masks: list[Ids]
    for masks in ([few, few[:1], few, few[1:]], [many, few, EVERYTHING, EVERYTHING[-1:]]):  # some rows of the head, and all of them
        asked = {handle: mask_of(ids) for handle, ids in zip(rows, masks, strict=True)}
        (chosen, logs), (expected, their_logs) = (session.choose(asked) for session in life.both)
        assert chosen == expected
        assert [logs[handle] for handle in rows] == pytest.approx([their_logs[handle] for handle in rows], rel=1e-5, abs=1e-5)


def test_a_drawn_token_is_allowed_and_follows_from_its_seed_alone(base: MakeBase, name: str) -> None:
    """Not from the neighbours; and its log probability is that at temperature 1."""
    life = Life(name, base(), random_ids(np.random.default_rng(1), 7))
    rows = life.admit(4, 9, 5)
    allowed = np.unique(life.ids(40)[0])
    masks = dict.fromkeys(rows, mask_of(allowed))
    session = life.both[0]
    read = session.read({handle: [-1] for handle in rows}, {handle: [allowed] for handle in rows})
    drawn: list[dict[int, int]] = []
    for seed in range(30):
        seeds = {handle: 1000 * seed + handle for handle in rows}
        chosen, logs = session.choose(masks, temperature=1.5, seed=seeds)
        assert session.choose({rows[1]: masks[rows[1]]}, temperature=1.5, seed=seeds)[0] == {rows[1]: chosen[rows[1]]}
        for handle in rows:
            assert logs[handle] == pytest.approx(float(read[handle][0][list(allowed).index(chosen[handle])]), abs=1e-5)
        drawn.append(chosen)
    assert len({each[rows[0]] for each in drawn}) > 5
