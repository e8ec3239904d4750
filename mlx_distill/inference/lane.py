"""Many rows answered at once behind one prefix: what each asks is gathered into forwards, and what came of it is handed back.

A forward takes the tokens of all rows that wait for one, whether answers or prompts, up to a budget; new rows come in as soon as there is
room for them, and a row that is done leaves at once. Answers go first. A prompt that is longer than a forward is taken in pieces, so that
nobody waits for it. It knows sessions and what rows ask; nothing of fields, files or prompts' making.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from mlx_distill.backends.base import Capacity, Logs, Session
from mlx_distill.inference.ask import Ask, Program, Told
from mlx_distill.inference.grammar import Grammar
from mlx_distill.inference.row import Counts, Row
from mlx_distill.records import Ids

ROWS = 256
"""That are answered at once at most: more make no forward fuller."""
PIECE = 64
"""Tokens of a prompt that are worth a place in a forward that has no room for the rest."""

Masks = Callable[[Sequence[Grammar]], NDArray[np.uint32]]


@dataclass(slots=True)
class Task:
    """One text to answer. `prompt`: its tokens behind the prefix; `room`: tokens that an answer may add; `programs`: one a sample."""

    rows: Sequence[Row]
    prompt: Ids
    room: int
    programs: Sequence[Program]

    @property
    def held(self) -> int:
        """Tokens whose keys and values it may come to hold."""
        return len(self.prompt) + self.room * len(self.rows)


@dataclass(slots=True)
class _Live:
    """One row in the session. `program` None: the prompt of several samples, which part when it is through."""

    task: Task
    row: Row
    handle: int
    program: Program | None
    ask: Ask
    todo: Ids
    """What it waits to have forwarded."""
    prompt: int
    """How many of them are of its prompt."""
    left: list[Row] = field(default_factory=list)
    """Samples of the same text that are not done, shared among them."""

    @property
    def size(self) -> int:
        """Tokens of all that it asks, branches too."""
        return len(self.todo) + sum(len(path) for path, _ in self.ask.asides)

    def piece(self, room: int) -> int:
        """How many tokens to forward where there is room for so many: all, or some of the prompt.

        What is read together goes together, and branches leave from where the row stands now: these are short, and are not parted.
        """
        if self.size <= room or self.ask.asides:
            return len(self.todo)
        rest = max(1, -min(self.ask.at, default=0))
        return max(min(room, len(self.todo) - rest), 0) or len(self.todo)


class Lane:
    """`masks` computes what grammars allow, of many at once; None where no program has one."""

    def __init__(self, session: Session, capacity: Capacity, counts: Counts, *, masks: Masks | None, temperature: float):
        self._session, self._capacity, self._counts = session, capacity, counts
        self._masks, self._temperature = masks, temperature
        self._live: dict[int, _Live] = {}
        self._waiting: deque[Task] = deque()
        self._held = self._rows = 0
        """Of all that has come in and is not done: tokens, and rows with the samples that a prompt will part into."""

    def answer(self, tasks: Iterator[Sequence[Task]]) -> Iterator[Task]:
        """Each task once its rows are answered, whichever is done first. `tasks` are asked for a few at a time, when there is room.

        Of no tasks at all (an empty list) there may be more later: nobody who is being answered waits for them.
        """
        more = True
        try:
            while True:
                while more and not self._waiting:
                    found = next(tasks, None)
                    more = found is not None
                    self._waiting.extend(found or ())
                    if self._live:  # whether something came or nothing yet: these go on
                        break
                if not self._waiting and not self._live:
                    return
                yield from self._forward()
        finally:  # whoever stops listening leaves nothing behind
            self._session.drop(list(self._live))
            self._live.clear()
            self._waiting.clear()
            self._held = self._rows = 0

    def _forward(self) -> list[Task]:
        """One pass over the weights. The tasks that are done by it."""
        pieces = self._pieces()
        tokens = {live.handle: live.todo[:n] for live, n in pieces if n}
        whole = [live for live, n in pieces if n == len(live.todo)]
        self._session.extend(
            tokens,
            asides={live.handle: [path for path, _ in live.ask.asides] for live in whole if live.ask.asides},
            read_at={live.handle: _read_at(live) if n == len(live.todo) else () for live, n in pieces},
            ending={live.handle for live in whole if live.ask.last},
        )
        self._count(pieces)
        for live, n in pieces:
            live.row.forwarded += n
            live.prompt = max(0, live.prompt - n)
            live.todo = live.todo[n:]
        return [task for live, told in self._read(whole, tokens) if (task := self._go_on(live, told)) is not None]

    def _pieces(self) -> list[tuple[_Live, int]]:
        """What goes into the next forward: rows, and how many tokens of each."""
        left = self._capacity.forward
        pieces: list[tuple[_Live, int]] = []
        for live in sorted(self._live.values(), key=lambda live: live.size):
            n = live.piece(left)
            if live.size <= left or PIECE <= n < len(live.todo) or not pieces:
                pieces.append((live, n))
                left = max(0, left - (live.size if n == len(live.todo) else n))
        while self._waiting and self._fits(self._waiting[0], left, alone=not pieces):
            live = self._admit(self._waiting.popleft())
            pieces.append((live, live.piece(left)))
            left -= pieces[-1][1]
        return pieces

    def _fits(self, task: Task, left: int, *, alone: bool) -> bool:
        """Whether there is room for it now: of its answer, for the beginning. What fits in no memory comes in when nobody else is there."""
        if self._live and (self._rows + len(task.rows) > ROWS or self._held + task.held > self._capacity.held):
            return False
        need = len(task.prompt) + min(task.room, PIECE)
        return alone or need <= left or (need > self._capacity.forward and left >= PIECE)

    def _admit(self, task: Task) -> _Live:
        (handle,) = self._session.admit([task.prompt[:0]])
        self._held += task.held
        self._rows += len(task.rows)
        left = list(task.rows)
        if len(task.rows) > 1:
            return self._enter(_Live(task, task.rows[0], handle, None, Ask(()), task.prompt, len(task.prompt), left))
        ask = next(task.programs[0])
        todo = np.concatenate([task.prompt, np.asarray(ask.tokens, np.int32)])
        return self._enter(_Live(task, task.rows[0], handle, task.programs[0], ask, todo, len(task.prompt), left))

    def _enter(self, live: _Live) -> _Live:
        self._live[live.handle] = live
        return live

    def _count(self, pieces: Sequence[tuple[_Live, int]]) -> None:
        counts = self._counts
        counts.forwards += 1
        counts.forwarded += sum(n for _, n in pieces)
        counts.prefill += sum(min(n, live.prompt) for live, n in pieces)
        for live, n in pieces:
            if n == len(live.todo):
                counts.forwarded += sum(len(path) for path, _ in live.ask.asides)
            counts.own_steps += not live.prompt

    # what was read

    def _read(self, whole: Sequence[_Live], tokens: dict[int, Ids]) -> Iterator[tuple[_Live, Told]]:
        """Of each row whose ask was forwarded, what came of it."""
        writing = [live for live in whole if live.ask.grammar is not None]
        masks = self._allowed(writing)  # while the device is at work
        chosen, logs = self._session.choose(
            masks, temperature=self._temperature, seed={live.handle: live.ask.seed for live in writing}
        ) if masks else ({}, {})  # fmt: skip
        reading = [live for live in whole if live.ask.at or live.ask.asides]
        read: dict[int, list[Logs]] = {}
        if reading:
            read = self._session.read(
                {live.handle: [*live.ask.at, *_aside_ends(live.ask, len(tokens.get(live.handle, ())))] for live in reading},
                {live.handle: [*live.ask.allowed, *(ids for _, ids in live.ask.asides)] for live in reading},
            )
        for live in whole:
            found = read.get(live.handle, [])
            yield live, Told(found, chosen[live.handle], logs[live.handle]) if live.handle in chosen else Told(found)

    def _allowed(self, writing: Sequence[_Live]) -> dict[int, NDArray[np.uint32]]:
        if not writing:
            return {}
        assert self._masks is not None
        began = time.perf_counter()
        masks = self._masks([live.ask.grammar for live in writing if live.ask.grammar is not None])
        self._counts.grammar_seconds += time.perf_counter() - began
        return {live.handle: mask for live, mask in zip(writing, masks, strict=True)}

    def _go_on(self, live: _Live, told: Told) -> Task | None:
        """Hand a row what it asked for, and take what it asks next. Its task, where that was the last of it."""
        if live.program is None:
            self._part(live)
            return None
        try:
            live.ask = live.program.send(told)
            live.todo = np.asarray(live.ask.tokens, np.int32)
            return None
        except StopIteration:
            return self._leave(live)

    def _part(self, live: _Live) -> None:
        """A prompt is through: its samples go on from there, each by itself."""
        del self._live[live.handle]
        handles = self._session.fork(live.handle, len(live.task.rows))
        for handle, row, program in zip(handles, live.task.rows, live.task.programs, strict=True):
            ask = next(program)
            self._enter(_Live(live.task, row, handle, program, ask, np.asarray(ask.tokens, np.int32), 0, live.left))

    def _leave(self, live: _Live) -> Task | None:
        self._session.drop([live.handle])
        del self._live[live.handle]
        self._rows -= 1
        live.left.remove(live.row)
        if live.left:
            return None
        self._held -= live.task.held
        return live.task


def _read_at(live: _Live) -> list[int]:
    """Positions in a row's tokens and asides, one after another."""
    ask, n = live.ask, len(live.todo)
    own = [at + n for at in ask.at] or ([n - 1] if ask.grammar is not None else [])
    return [*own, *_aside_ends(ask, n)]


def _aside_ends(ask: Ask, tokens: int) -> list[int]:
    ends = tokens + np.cumsum([len(path) for path, _ in ask.asides]) - 1
    return [int(end) for end in ends]
