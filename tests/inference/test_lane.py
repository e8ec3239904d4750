"""Rows that ask are gathered into forwards: none larger than told, nobody waits for ever, and each is told what was its own to ask."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from numpy.typing import NDArray

from mlx_distill.backends.base import Capacity
from mlx_distill.backends.mlx import mixed
from mlx_distill.backends.rows.growth import Growth
from mlx_distill.inference import lane as module
from mlx_distill.inference.ask import Ask, Program, Told
from mlx_distill.inference.lane import PIECE, Lane, Task
from mlx_distill.inference.row import Counts, Row
from mlx_distill.records import Example
from tests.backends import plain
from tests.backends.twin import CLOSE, EVERYTHING
from tests.conftest import MakeBase


@dataclass
class Question:
    """A row that asks, step by step, some tokens (the last two are read) and branches beside them. What it is told is held against the
    plain model, which forwards prompt and tokens whole."""

    prompt: list[int]
    steps: Sequence[tuple[list[int], list[list[int]]]]
    told: list[Sequence[NDArray[np.float32]]] = field(default_factory=list)

    def program(self) -> Program:
        for number, (tokens, branches) in enumerate(self.steps):
            at = range(-min(2, len(tokens)), 0)
            asides = [(branch, EVERYTHING) for branch in branches]
            told: Told = yield Ask(tokens, [*at], [EVERYTHING] * len(at), asides, last=number == len(self.steps) - 1)
            self.told.append(told.logs)

    def check(self, model: Any, prefix: list[int]) -> None:
        assert len(self.told) == len(self.steps), "every step was answered once"
        stands = [*prefix, *self.prompt]
        for (tokens, branches), logs in zip(self.steps, self.told, strict=True):
            own = plain.log_softmax(model, [*stands, *tokens])[len(stands) :][-2:]
            beside = [plain.log_softmax(model, [*stands, *branch])[-1] for branch in branches]
            for found, expected in zip(logs, [*own, *beside], strict=True):
                np.testing.assert_allclose(found, expected, atol=CLOSE)
            stands += tokens


class Bench:
    """A lane over a real session; the sizes of its forwards, and how many rows lived at once."""

    def __init__(self, folder: Any, capacity: Capacity, monkeypatch: pytest.MonkeyPatch, prefix: int = 3):
        self.prefix: list[int] = plain.random_ids(np.random.default_rng(99), prefix).tolist()
        self.session = plain.open_student(folder).session(np.array(self.prefix, np.int32))
        self.counts, self.sizes = Counts(), list[int]()
        self.lane = Lane(self.session, capacity, self.counts, masks=None, temperature=0.0)
        self._model = plain.plain_model(folder)
        made = mixed.Mixed.__init__

        def counted(mixture: mixed.Mixed, *arguments: Any) -> None:
            made(mixture, *arguments)
            self.sizes.append(mixture.tokens.size)

        monkeypatch.setattr(mixed.Mixed, "__init__", counted)

    def answer(self, questions: Sequence[Sequence[Question]], *, room: int) -> list[int]:
        """Each inner sequence is the samples of one text. In which order they were done."""
        tasks, self.counts.forwarded = list[Task](), 0
        self.sizes.clear()
        for samples in questions:
            rows = [Row(Example("r", {}, ""), np.zeros(0, np.int32), False, i) for i in range(len(samples))]
            tasks.append(Task(rows, np.array(samples[0].prompt, np.int32), room, [question.program() for question in samples]))
        numbers = {id(task): i for i, task in enumerate(tasks)}
        done = [numbers[id(task)] for task in self.lane.answer(iter([tasks]))]
        assert sorted(done) == list(range(len(tasks)))
        for question in (question for samples in questions for question in samples):
            question.check(self._model, self.prefix)
        beside = sum(len(path) for samples in questions for each in samples for _, branches in each.steps for path in branches)
        assert sum(self.sizes) == self.counts.forwarded == sum(row.forwarded for task in tasks for row in task.rows) + beside
        assert not self.session._rows
        return done


def question(generator: np.random.Generator, prompt: int, *steps: tuple[int, Sequence[int]]) -> Question:
    """A prompt, and steps of so many tokens beside branches of these lengths."""

    def tokens(n: int) -> list[int]:
        ids: list[int] = plain.random_ids(generator, n).tolist()
        return ids

    return Question(tokens(prompt), [(tokens(n), [tokens(branch) for branch in branches]) for n, branches in steps])


def test_a_long_prompt_goes_in_pieces_beside_answers_that_leave_it_no_room(base: MakeBase, monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers fill the forward to its last token, step after step: what is left of the prompt waits, and does not come in whole."""
    generator = np.random.default_rng(1)
    bench = Bench(base(num_hidden_layers=1), Capacity(80, 10_000), monkeypatch)
    short = [question(generator, 3, (2, ()), *[(10, ())] * 6) for _ in range(8)]
    long = question(generator, 400, (2, ()), (2, ()))
    bench.answer([[each] for each in (*short[:4], long, *short[4:])], room=70)
    assert max(bench.sizes) <= 80


def test_branches_count_in_the_size_of_a_forward(base: MakeBase, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(2)
    bench = Bench(base(num_hidden_layers=1), Capacity(64, 10_000), monkeypatch)
    bench.answer([[question(generator, 4, (2, ()), (3, (6, 4)), (0, (5,)))] for _ in range(12)], room=5)
    assert max(bench.sizes) <= 64


def test_what_is_read_together_is_not_parted_and_all_before_it_may_be(base: MakeBase, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PIECE", 1)
    for forward in (1, 2, 3, 7):
        generator = np.random.default_rng(3)
        bench = Bench(base(num_hidden_layers=1), Capacity(forward, 10_000), monkeypatch)
        bench.answer([[question(generator, n, (3, ()), (4, (2,)))] for n in (9, 1, 5)], room=7)


def test_prompts_that_fill_a_forward_with_their_answer_do_not_wait_until_they_are_alone(
    base: MakeBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each answer takes 10 forwards; six rows one after another would take 60."""
    generator = np.random.default_rng(4)
    bench = Bench(base(num_hidden_layers=1), Capacity(2 * PIECE, 10_000), monkeypatch)
    bench.answer([[question(generator, 2 * PIECE - 8, *[(2, ())] * 10)] for _ in range(6)], room=20)
    assert len(bench.sizes) < 30


def test_room_for_the_rest_of_an_answer_takes_no_place_in_a_forward(base: MakeBase, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten prompts of 20 tokens, whose answers may grow to 150, share forwards of 200."""
    generator = np.random.default_rng(5)
    bench = Bench(base(num_hidden_layers=1), Capacity(200, 10_000), monkeypatch)
    bench.answer([[question(generator, 20, (2, ()), (2, ()))] for _ in range(10)], room=150)
    assert len(bench.sizes) <= 4


@pytest.mark.parametrize(("held", "rows", "at_once"), [(10_000, 4, 2), (60, 256, 2), (1, 256, 1)])
def test_no_more_rows_live_at_once_than_may_be_held(
    base: MakeBase, held: int, rows: int, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A text is a prompt of 10 tokens and two answers of 10 each: 30 tokens, 2 rows. One that is larger than all comes in alone.

    As those are done that were there, others come in: five texts, two at once, are two pairs and one.
    """
    monkeypatch.setattr(module, "ROWS", rows)
    generator, alive = np.random.default_rng(6), list[int]()
    bench = Bench(base(num_hidden_layers=1), Capacity(1000, held), monkeypatch)
    texts = [[question(generator, 10, (2, ()), (3, ())) for _ in range(2)] for _ in range(5)]
    for first, second in texts:
        second.prompt = first.prompt
    extend = bench.session.extend

    def watched(*arguments: Any, **named: Any) -> None:
        extend(*arguments, **named)
        alive.append(len(bench.session._rows))

    monkeypatch.setattr(bench.session, "extend", watched)
    bench.answer(texts, room=10)
    assert max(alive) == 2 * at_once
    assert alive.count(2 * at_once) == 2 * (5 // at_once), "each row asks twice"


def test_rows_that_ask_for_the_last_time_leave_no_keys_behind(base: MakeBase, monkeypatch: pytest.MonkeyPatch) -> None:
    generator, kept = np.random.default_rng(8), list[int]()
    bench = Bench(base(num_hidden_layers=1), Capacity(100, 10_000), monkeypatch)
    keep = Growth.keep

    def counted(growth: Growth, layers: Sequence[mx.array]) -> list[mx.array]:
        kept.append(len(growth.additions))
        return keep(growth, layers)

    monkeypatch.setattr(Growth, "keep", counted)
    bench.answer([[question(generator, 10, (3, ()))] for _ in range(4)], room=3)
    assert kept == []
    bench.answer([[question(generator, 10, (3, ()), (1, ()))] for _ in range(4)], room=3)
    assert kept == [4]


def test_nothing_of_a_row_whose_program_fails_is_left_for_the_next(base: MakeBase, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(7)
    bench = Bench(base(num_hidden_layers=1), Capacity(64, 10_000), monkeypatch)

    def failing() -> Program:
        yield Ask([5], (-1,), (EVERYTHING,))
        raise ZeroDivisionError

    prompt = plain.random_ids(generator, 4)
    rows = [Row(Example("r", {}, ""), prompt, False)]
    fine = question(generator, 6, (2, ()), (1, ()), (1, ()))
    with pytest.raises(ZeroDivisionError):
        list(bench.lane.answer(iter([[Task(rows, prompt, 3, [failing()]), Task(rows, prompt, 3, [fine.program()])]])))
    fine.told.clear()
    bench.answer([[fine]], room=5)
