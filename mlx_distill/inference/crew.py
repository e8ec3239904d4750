"""Several processes answer a job's rows: each opens the students for itself, on a device of its own, and has rows as it gets on.

    with Crew(opening, posts, say=print) as crew:
        for prediction in crew.desk("crisis").stream(examples):          as Engine's, whichever worker is done first
            ...

A worker may end at any moment (killed, out of memory, a broken device): what it had is answered by others, or by one that takes its post.
Which of a lost worker's rows ended it is found out by giving them out again, fewer at a time; a row that does it with no other beside it,
twice, is rejected. The crew knows rows, processes and connections; nothing of students, files or devices.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import count
from multiprocessing.connection import Connection, wait
from types import TracebackType
from typing import cast

from mlx_distill.errors import BackendError, DistillError, DoesNotFit
from mlx_distill.inference.engine import WINDOW, WINDOW_CHARS
from mlx_distill.inference.hands import TOGETHER, Hand, Held, Rest
from mlx_distill.inference.posts import Post
from mlx_distill.inference.row import Counts
from mlx_distill.inference.worker import Answer, Failed, Memory, Note, Opening, Ready
from mlx_distill.memory import largest_bytes, resident_bytes
from mlx_distill.observe.progress import amount
from mlx_distill.records import BadRow, Example, Prediction

LEAST, MOST = 8, TOGETHER[0]
"""Rows that are handed out at once: few at first, so that each has some of a short job."""
AHEAD = 2 * WINDOW
"""Rows that a worker has before it: as many as it answers at once, and as many to go on with ..."""
AHEAD_CHARS = 2 * WINDOW_CHARS
"""... and in characters."""
FUTILE = 5
"""Workers that one post may lose in a row, none of which answered anything: then it is given up."""


class Crew:
    """`opening` and `say`: see `worker.Opening`, `Progress.say`. Begun on entering, once one of its workers can answer.

    Raises what the first worker to fail says where none can be had: a DistillError of theirs, else BackendError.
    """

    def __init__(self, opening: Opening, posts: Sequence[Post], *, say: Callable[[str], None]):
        self._opening, self._say = opening, say
        self._hands = [Hand(post) for post in posts]
        self._given_up: list[DistillError] = []
        self._counts: dict[str, Counts] = defaultdict(Counts)
        """Of each student what workers had told that are no more."""
        self._greeted = False
        self._told: set[str] = set()
        self._numbers = count()
        self._peaks: dict[str, int] = {}

    def __enter__(self) -> Crew:
        try:
            for hand in self._hands:
                hand.begin(self._opening)
            nothing = Rest("", iter(()))
            while not any(hand.ready for hand in self._hands):
                list(self._hear(nothing, self._speaking()))
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._end()

    def _end(self) -> None:
        """Nothing that a worker still has is wanted."""
        for hand in self._hands:
            hand.leave()
        for hand in self._hands:
            hand.end()

    # what came of it

    def desk(self, student: str) -> Desk:
        return Desk(self, student)

    def counts(self, student: str) -> Counts:
        """Of all workers. What one that was lost had done but not told is in none."""
        return sum((hand.counts[student] for hand in self._hands if student in hand.counts), self._counts[student])

    def peak_memory(self) -> int:
        """Bytes: what all processes took at most, this one too, as if it had been at the same moment: the job needs no more than that."""
        return largest_bytes() + sum(self._peaks.values())

    def memory(self) -> int | None:
        """Bytes that all processes have now; None where the system does not say."""
        own = resident_bytes()
        return None if own is None else own + sum(hand.resident for hand in self._hands)

    # answering

    def stream(self, student: str, examples: Iterable[Example | BadRow]) -> Iterator[Prediction | BadRow]:
        """As Engine's: a few rows are taken from `examples` whenever a worker has room. One stream at a time."""
        rest = Rest(student, iter(examples))
        try:
            while True:
                yield from self._hand_out(rest)
                if not any(hand.held for hand in self._hands) and rest.over and not rest.again:
                    return
                yield from self._hear(rest, self._speaking())
        finally:  # of a stream that nobody reads to its end, answers are still to come: they are nobody's
            for hand in self._hands:
                hand.drop()

    def _hand_out(self, rest: Rest) -> Iterator[Prediction | BadRow]:
        while (hand := self._next(rest)) is not None:
            if rest.again and not hand.held:
                rows = rest.suspects()
            else:
                rows, bad = rest.fresh(min(MOST, max(LEAST, len(hand.held))), WINDOW_CHARS)
                yield from bad
            if rows:
                hand.give(rest.student, {next(self._numbers): row for row in rows})
            yield from self._hear_all(rest)  # `examples` may be slow, a pipe: what is answered does not wait until workers are full

    def _next(self, rest: Rest) -> Hand | None:
        """Who is to have rows now. Who has rows that ended another has no others beside them."""
        ready = [hand for hand in self._hands if hand.ready]
        if rest.again:
            free = [hand for hand in ready if not hand.held]
            if free:
                return min(free, key=lambda hand: hand.futile)
            if all(hand.ready and not hand.on_trial for hand in self._hands):
                return None  # somebody must come to be free for them
        room = [hand for hand in ready if not hand.on_trial and len(hand.held) + MOST <= AHEAD and hand.chars < AHEAD_CHARS]
        return None if rest.over else min(room, key=lambda hand: len(hand.held), default=None)

    def _hear_all(self, rest: Rest) -> Iterator[Prediction | BadRow]:
        """What the workers have said already; nobody is waited for."""
        while speaking := self._speaking(0):
            yield from self._hear(rest, speaking)

    def _speaking(self, seconds: float | None = None) -> list[Hand]:
        """Those who have said something, or are gone; waits so long for one, for ever where it is None."""
        hands = {hand.connection: hand for hand in self._hands}
        return [hands[cast(Connection, connection)] for connection in wait(list(hands), seconds)]

    def _hear(self, rest: Rest, speaking: Sequence[Hand]) -> Iterator[Prediction | BadRow]:
        """One thing of each: answers, in most cases."""
        for hand in speaking:
            try:
                message = hand.connection.recv()
            except (EOFError, OSError):  # OSError: it ended in the middle of a message
                yield from self._lost(hand, rest)
                continue
            if isinstance(message, Answer | Ready):
                self._note(hand, message.memory)
            if isinstance(message, Answer):
                hand.futile, hand.counts[message.student] = 0, message.counts
                if hand.take(message.number) is not None:
                    yield message.result
            elif isinstance(message, Ready):
                self._greet(hand, message)
            elif isinstance(message, Note):
                self._tell(f"note: {message.text}")
            elif isinstance(message, Failed):
                hand.failed = message.error
                # As one process alone would. What did not fit may fit with fewer rows beside it: such a worker is lost as any other.
                if hand.ready and isinstance(message.error, DistillError) and not isinstance(message.error, DoesNotFit):
                    raise message.error

    def _note(self, hand: Hand, memory: Memory) -> None:
        hand.resident = memory.resident
        self._peaks[hand.post.name] = max(memory.peak, self._peaks.get(hand.post.name, 0))

    def _greet(self, hand: Hand, ready: Ready) -> None:
        """All would say the same: the first is heard."""
        hand.ready = True
        if ready.said and not self._greeted:
            self._say(ready.said)
            self._greeted = True

    def _tell(self, note: str) -> None:
        """Each once, whoever else has the same to say."""
        if note not in self._told:
            self._told.add(note)
            self._say(note)

    # who is lost

    def _lost(self, hand: Hand, rest: Rest) -> Iterator[BadRow]:
        """Its rows are given out anew, and its post is taken by another, unless that is of no use."""
        why, rows, began = hand.end(), hand.drop(), hand.ready
        for student, counts in hand.counts.items():
            self._counts[student] += counts
        hand.futile += 1
        for row in rows:
            row.losses += 1
        rest.again += [row for row in rows if row.losses < len(TOGETHER)]
        hopeless = hand.futile >= FUTILE or (not began and isinstance(hand.failed, DistillError))
        anew = f"; {amount(len(rows), 'rows')} that it had: given out anew" if rows else ""
        self._say(f"note: {hand.post.name} was lost: {why}{anew}{'; its post is given up' if hopeless else ''}")
        if hopeless:
            self._give_up(hand, why)
        else:
            hand.begin(self._opening)
        yield from (_rejected(row, why) for row in rows if row.losses == len(TOGETHER))

    def _give_up(self, hand: Hand, why: str) -> None:
        lost = f"{hand.post.name} was lost {FUTILE} times in a row without an answer, the last time: {why}"
        hint = "--workers 1 answers in one process, whose own error says more; with fewer workers each has more memory"
        self._given_up.append(hand.failed if isinstance(hand.failed, DistillError) else BackendError(lost, hint=hint))
        self._hands.remove(hand)
        if not self._hands:
            raise self._given_up[0]


class Desk:
    """One student, as its crew answers for it: to a job the same as the engine of one process."""

    def __init__(self, crew: Crew, student: str):
        self._crew, self._student = crew, student

    @property
    def counts(self) -> Counts:
        return self._crew.counts(self._student)

    def stream(self, examples: Iterable[Example | BadRow]) -> Iterator[Prediction | BadRow]:
        return self._crew.stream(self._student, examples)


def _rejected(row: Held, why: str) -> BadRow:
    reason = f"{row.losses} workers were lost over it, the last two with no other row beside it: {why}"
    return BadRow(reason, row.example.line, row.example.id, row.example.file)
