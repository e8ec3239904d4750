"""One forward of rows at different places: prompts whole and in pieces, answers, branches, samples. Each as if it were alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from mlx_distill.records import Ids
from tests.backends import plain
from tests.backends.sides import Side, each_side
from tests.backends.twin import CLOSE, EVERYTHING, NOTHING, Twin, ids, mask_of, opened
from tests.conftest import MakeBase


def said(twin: Twin, handle: int, position: int) -> NDArray[np.float32]:
    (logs,) = twin.session.read({handle: [position]}, {handle: [EVERYTHING]})[handle]
    return np.asarray(logs)


@pytest.mark.parametrize("family", ["qwen2", "gemma2", "phi3"])
@each_side
def test_prompts_in_pieces_and_answers_share_a_forward(side: Side, base: MakeBase, family: str) -> None:
    """A long prompt comes in three pieces, and beside each of them others are answered, or begin."""
    generator = np.random.default_rng(1)
    twin = opened(side, base(family), plain.random_ids(generator, 6))
    long = plain.random_ids(generator, 19)
    a, b = twin.admit(ids(generator, 5, 3))
    (c,) = twin.session.admit([NOTHING])
    for at, others in ((0, {a: [7]}), (8, {a: [9, 3], b: [4]}), (14, {b: [5, 6, 8]})):
        piece = long[at : at + (8, 6, 5)[(at > 0) + (at > 8)]]
        last = at == 14
        twin.session.extend(
            {c: piece, **others}, read_at={c: [len(piece) - 1] if last else []} | {h: range(len(t)) for h, t in others.items()}
        )
        for handle, tokens in others.items():
            twin.rows[handle] += tokens
            twin._last[handle] = len(tokens)
    twin.rows[c], twin._last[c] = long.tolist(), 1
    np.testing.assert_allclose(said(twin, c, -1), twin.alone(c)[-1], atol=CLOSE)
    twin.extend({c: [11, 12], a: [13]})
    twin.check()


@pytest.mark.parametrize("prefix", [0, 5])
@pytest.mark.parametrize("tile", [1, 300, 1 << 19])
@each_side
def test_branches_are_read_where_the_row_stood_and_are_forgotten(
    side: Side, base: MakeBase, prefix: int, tile: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside tokens that the row goes on with; the same whatever tiles attention is cut into."""
    side.cut(monkeypatch, tile)
    generator = np.random.default_rng(2)
    twin = opened(side, base("gemma2"), plain.random_ids(generator, prefix))
    a, b, c = twin.admit(ids(generator, 4, 9, 5))
    for own, asides in (
        ({a: [7, 8], b: [9]}, {a: [[20], [21, 22]], c: [[30, 31]]}),
        ({a: [5], b: [6, 7, 8], c: [9]}, {b: [[40, 41, 42]]}),
    ):
        expected = {(h, i): twin.alone(h, branch)[-1] for h, branches in asides.items() for i, branch in enumerate(branches)}
        twin.session.extend(own, asides=asides)
        for handle, branches in asides.items():
            ends = len(own.get(handle, [])) + np.cumsum([len(branch) for branch in branches]) - 1
            for i, end in enumerate(ends):
                np.testing.assert_allclose(said(twin, handle, int(end)), expected[handle, i], atol=CLOSE)
        for handle, tokens in own.items():
            twin.rows[handle] += tokens
            np.testing.assert_allclose(said(twin, handle, -1), twin.alone(handle)[-1], atol=CLOSE)
    twin.extend({a: [3], b: [4, 5], c: [6]})
    twin.check_score(generator)


WINDOWED = {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 6}


@pytest.mark.parametrize(("family", "config"), [("gemma2", {}), ("llama", WINDOWED)])
@each_side
def test_samples_share_what_the_row_had_and_go_their_own_ways(side: Side, base: MakeBase, family: str, config: dict[str, Any]) -> None:
    generator = np.random.default_rng(3)
    twin = opened(side, base(family, **config), plain.random_ids(generator, 4))
    a, b = twin.admit(ids(generator, 6, 5))
    twin.extend({a: [7, 8]})
    before = twin.rows.pop(a)
    samples = twin.session.fork(a, 3)
    twin.rows |= {handle: list(before) for handle in samples}
    twin._last |= dict.fromkeys(samples, 2)
    twin.check()
    twin.extend({samples[0]: [9], samples[1]: [10, 11], samples[2]: [12], b: [13]})
    twin.check_score(generator)
    twin.drop([samples[1]])
    twin.extend({samples[0]: [14, 15, 16], samples[2]: [17]})
    twin.check_score(generator)
    twin.drop([samples[0], b])
    twin.extend({samples[2]: [18]})
    twin.check()


def some(generator: np.random.Generator, most: int) -> list[int]:
    """At least one id."""
    tokens: list[int] = plain.random_ids(generator, int(generator.integers(1, most + 1))).tolist()
    return tokens


class Walk(Twin):
    """A twin whose rows do, in one forward, all that may be asked of them; what of it was read is remembered with what it should say."""

    def __init__(self, side: Side, folder: Path, prefix: Ids):
        super().__init__(side.open(folder).session(prefix), plain.plain_model(folder), prefix)
        self.said: dict[int, dict[int, NDArray[np.float64]]] = {}
        self.parted: set[int] = set()

    def forward(self, generator: np.random.Generator) -> None:
        new = self.session.admit([NOTHING] * int(generator.integers(0, 6)))
        self.rows |= {handle: [] for handle in new}
        tokens, asides, read_at = dict[int, list[int]](), dict[int, list[list[int]]](), dict[int, list[int]]()
        for handle in [handle for handle in self.rows if handle in new or generator.random() < 0.6]:
            branches = [some(generator, 3) for _ in range(int(generator.integers(0, 3)))]
            most = int(generator.choice([1, 11])) if handle in new else 4
            own = some(generator, most) if not branches or generator.random() < 0.7 else []
            ends = np.cumsum([len(own), *map(len, branches)])
            read_at[handle] = sorted({int(i) for i in generator.integers(0, ends[-1], int(generator.integers(0, 4)))})
            tokens |= {handle: own} if own else {}
            asides |= {handle: branches} if branches else {}
            stood = len(self._prefix) + len(self.rows[handle])
            said = [log for branch in (own, *branches) if branch for log in self.alone(handle, branch)[stood:]]
            self.said[handle] = {at: said[at] for at in read_at[handle]}
            self.rows[handle] += own
        ending = {handle for handle in read_at if generator.random() < 0.1}
        if read_at:
            self.session.extend(tokens, asides=asides, read_at=read_at, ending=ending)
        self.check_said()
        self.leave(ending)

    def score(self, generator: np.random.Generator) -> None:
        handles = [int(i) for i in generator.choice(list(self.rows), 3)]
        branches = [some(generator, 3) for _ in handles]
        for handle, branch, logs in zip(handles, branches, self.session.score(handles, branches, [EVERYTHING] * 3), strict=True):
            np.testing.assert_allclose(logs, self.alone(handle, branch)[-1], atol=CLOSE)

    def part(self, generator: np.random.Generator) -> None:
        """One of the rows that have not parted yet."""
        if whole := [handle for handle, tokens in self.rows.items() if tokens and handle not in self.parted]:
            row = int(generator.choice(whole))
            samples = self.session.fork(row, int(generator.integers(1, 4)))
            self.rows |= {handle: list(self.rows[row]) for handle in samples}
            self.said |= dict.fromkeys(samples, self.said[row])
            self.parted |= set(samples)
            del self.rows[row], self.said[row]

    def leave(self, handles: Iterable[int]) -> None:
        for handle in list(handles):
            self.session.drop([handle])
            del self.rows[handle], self.said[handle]

    def check_said(self) -> None:
        where = {handle: list(said) for handle, said in self.said.items() if said}
        for handle, logs in self.session.read(where, {h: [EVERYTHING] * len(at) for h, at in where.items()}).items() if where else ():
            np.testing.assert_allclose(np.stack(logs), np.stack(list(self.said[handle].values())), atol=CLOSE)


OPERATION = st.tuples(st.sampled_from(["forward", "forward", "part", "leave", "score"]), st.integers(0, 1 << 30))


@pytest.mark.parametrize(("family", "config"), [("gemma2", {}), ("llama", WINDOWED)])
@settings(max_examples=8, deadline=None, derandomize=True)
@given(
    operations=st.lists(
        st.tuples(st.sampled_from(["forward", "part", "leave", "score"]), st.integers(0, 1 << 30)), min_size=6, max_size=12
    ),
    prefix=st.integers(0, 5),
    tile=st.sampled_from([1, 300, 1 << 19]),
)
@each_side
def test_whatever_a_forward_brings_every_row_answers_as_if_alone(
    side: Side, base: MakeBase, family: str, config: dict[str, Any], operations: list[tuple[str, int]], prefix: int, tile: int
) -> None:
    """Prompts, pieces, answers, branches, rows that end, samples, rows that leave: in any order, with any rows read anywhere."""
    walk = Walk(side, base(family, **config), plain.random_ids(np.random.default_rng(prefix), prefix))
    with pytest.MonkeyPatch.context() as patch:
        side.cut(patch, tile)
        for name, seed in operations:
            generator = np.random.default_rng(seed)
            if name == "forward" or not walk.rows:
                walk.forward(generator)
            elif name == "part":
                walk.part(generator)
            elif name == "leave":
                walk.leave([handle for handle in walk.rows if generator.random() < 0.5])
            else:
                walk.score(generator)
            walk.check_said()
    walk.leave(list(walk.rows))
    assert not walk.session._rows, "nothing is left of rows that are gone"


@each_side
def test_samples_of_a_row_hold_its_prompt_once(side: Side, base: MakeBase) -> None:
    generator = np.random.default_rng(4)
    twin = opened(side, base(num_hidden_layers=1), NOTHING)
    (a,) = twin.admit(ids(generator, 200))
    held = side.held()
    samples = twin.session.fork(a, 8)
    twin.session.extend({handle: [5] for handle in samples})
    assert side.held() - held < 2 * 2 * 16 * 200 * 4, "less than the prompt's keys and values once more"


@each_side
def test_a_row_that_ends_leaves_what_was_read_and_nothing_else(side: Side, base: MakeBase) -> None:
    generator = np.random.default_rng(5)
    twin = opened(side, base(num_hidden_layers=2), plain.random_ids(generator, 4))
    rows = ids(generator, 30, 7)
    a, b = twin.session.admit([NOTHING, NOTHING])
    before = side.held()
    twin.session.extend({a: rows[0], b: rows[1]}, read_at={a: [3, 29], b: [6]}, ending={a, b})
    twin.rows |= {a: rows[0].tolist(), b: rows[1].tolist()}
    for handle, at in ((a, 3), (a, 29), (b, 6)):
        np.testing.assert_allclose(said(twin, handle, at), twin.alone(handle)[4 + at], atol=CLOSE)
    hidden = 3 * 64 * 4
    assert side.held() - before <= 4 * hidden


@each_side
def test_short_rows_hold_no_room_for_long_ones_that_came_with_them(side: Side, base: MakeBase) -> None:
    generator = np.random.default_rng(11)
    session = side.open(base(num_hidden_layers=1)).session(NOTHING)
    before = side.held()
    session.admit(ids(generator, 400, *[20] * 20), read_at=[[0]] * 21)
    assert side.held() - before < 1.3 * 2 * 2 * 16 * 800 * 4, "keys and values of 800 tokens, and little more"


@each_side
def test_no_token_is_forwarded_twice_and_none_is_padding(side: Side, base: MakeBase, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = side.forwards(monkeypatch)
    generator = np.random.default_rng(6)
    twin = opened(side, base(num_hidden_layers=1), plain.random_ids(generator, 4))
    a, b = twin.session.admit(ids(generator, 30, 7))
    twin.session.extend({a: [5], b: [6, 7, 8]}, asides={a: [[9, 9]]})
    assert sizes == [37, 6]


@each_side
def test_few_allowed_tokens_are_chosen_from_their_rows_of_the_head_alone(
    side: Side, base: MakeBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = np.random.default_rng(7)
    twin = opened(side, base(bits=4), plain.random_ids(generator, 4))
    a, b = twin.admit(ids(generator, 5, 6))
    asked: list[int | None] = []
    logits = twin.session._head.logits

    def noted(hidden: Any, rows: Any = None) -> Any:
        asked.append(None if rows is None else len(rows))
        return logits(hidden, rows)

    monkeypatch.setattr(twin.session._head, "logits", noted)
    few = {a: mask_of([3, 200]), b: mask_of([200, 383, 17])}
    chosen, logs = twin.session.choose(few)
    twin.session.choose({a: mask_of(EVERYTHING), b: few[b]})
    assert asked == [4, None], "the union of both; all of it"
    for handle, allowed in ((a, [3, 200]), (b, [17, 200, 383])):
        among = plain.among(twin.alone(handle)[-1], np.array(allowed))
        assert chosen[handle] == allowed[int(np.argmax(among))]
        assert logs[handle] == pytest.approx(among.max(), abs=CLOSE)


@pytest.mark.parametrize("temperature", [0.0, 0.7])
@each_side
def test_what_is_chosen_does_not_hang_on_how_many_rows_choose_at_once(
    side: Side, base: MakeBase, temperature: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = np.random.default_rng(10)
    twin = opened(side, base(num_hidden_layers=1), NOTHING)
    handles = twin.admit(ids(generator, *[4] * 7))
    allowed = {handle: mask_of(EVERYTHING if i % 2 else [5, 6, 300]) for i, handle in enumerate(handles)}
    whole = twin.session.choose(allowed, temperature=temperature, seed=3)
    sizes: list[int] = []
    logits = twin.session._head.logits

    def noted(hidden: Any, rows: Any = None) -> Any:
        sizes.append(len(hidden))
        return logits(hidden, rows)

    monkeypatch.setattr(twin.session._head, "logits", noted)
    monkeypatch.setattr(side.session, "rows_at_once", lambda head: 3)
    chosen, logs = twin.session.choose(allowed, temperature=temperature, seed=3)
    assert sizes == [3, 3, 1], "so many logits over the whole vocabulary exist at once"
    assert chosen == whole[0] and logs == pytest.approx(whole[1], abs=CLOSE)
    for i, handle in enumerate(handles):
        legal = EVERYTHING if i % 2 else np.array([5, 6, 300])
        among = plain.among(twin.alone(handle)[-1], legal)
        assert logs[handle] == pytest.approx(among[list(legal).index(chosen[handle])], abs=CLOSE), "at temperature 1, whatever was drawn at"


@each_side
def test_seeds_by_row_make_draws_independent_of_handles(side: Side, base: MakeBase) -> None:
    generator = np.random.default_rng(8)
    folder, row = base(num_hidden_layers=1), plain.random_ids(generator, 4)
    drawn: list[Sequence[int]] = []
    for before in (0, 3):
        twin = opened(side, folder, NOTHING)
        twin.admit([row] * before) if before else None
        handles = twin.admit([row] * 6)
        seeds = {handle: 100 + i for i, handle in enumerate(handles)}
        chosen, _ = twin.session.choose(dict.fromkeys(handles, mask_of(EVERYTHING)), temperature=1.0, seed=seeds)
        drawn.append([chosen[handle] for handle in handles])
    assert drawn[0] == drawn[1] and len(set(drawn[0])) > 1
