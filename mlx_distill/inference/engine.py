"""Answers for many texts: prompts and answers in mixed forwards behind the shared prefix, as the recipe says, every one valid.

    engine = Engine(student, task, tokenizer, answer="json", max_tokens=2048)
    for prediction in engine.stream(examples):          as they are done, a window of rows at a time
        ...

The engine knows prompts, plans and lanes; nothing of files, ids on disk or training.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeVar

from mlx_distill.backends.base import Session, Student
from mlx_distill.data.tokens import begins_with
from mlx_distill.inference.lane import Lane, Task
from mlx_distill.inference.row import Counts, Row, Way, in_order
from mlx_distill.inference.samples import vote
from mlx_distill.inference.slots import SlotReader
from mlx_distill.inference.written import Writer
from mlx_distill.recipe.schema import TaskSpec
from mlx_distill.records import BadRow, Example, Prediction
from mlx_distill.task import rubric
from mlx_distill.task.confidence import Confidence
from mlx_distill.task.plan import plan, without_texts
from mlx_distill.task.prompt import Prompt
from mlx_distill.task.slots import SlotPlan

Thing = TypeVar("Thing")
WINDOW = 256
"""Rows that are read before they are answered: enough for like lengths to meet ..."""
WINDOW_CHARS = 1 << 23
"""... and for texts of any length to stay within memory."""


class Engine:
    """Answers one task with one student. `answer` and `max_tokens` are those of its training; `adapter` is a name it was opened with.

    `samples`: so many answers to each text, drawn at `temperature` from `seed` on, vote (see `samples`). `texts` False: texts and lists
    are left out; raises RecipeError where other fields were learned behind them. `whole`: predictions have each closed field's
    distribution; without, what the answers do not hang on is not computed. `confidence` sets every prediction's confidences right, and
    says which are deferred; it was found out on single answers, so that several that vote have none.
    """

    def __init__(
        self,
        student: Student,
        task: TaskSpec,
        tokenizer: Any,
        *,
        answer: str,
        max_tokens: int,
        adapter: str | None = None,
        samples: int = 1,
        temperature: float = 0.0,
        seed: int = 0,
        texts: bool = True,
        whole: bool = True,
        confidence: Confidence | None = None,
    ):
        assert samples == 1 or confidence is None
        assert (samples > 1) == (temperature > 0), "one greedy answer, or several drawn ones"
        self._student, self._task, self._adapter, self._max_tokens = student, task, adapter, max_tokens
        self._prompt = Prompt(task, tokenizer)
        self._plan = plan(answer, task.fields, tokenizer)
        self.counts = Counts()
        self._confidence = confidence
        needed = whole or samples > 1 or (confidence is not None and confidence.whole)
        self._way = Way(needed, temperature, samples, seed)
        self._answered = tuple(task.fields) if texts else without_texts(answer, task.fields)
        self._program: SlotReader | Writer
        if isinstance(self._plan, SlotPlan):
            assert samples == 1, "slots give the distribution itself: there is nothing to draw"
            self._program = SlotReader(self._plan, tokenizer, student.vocabulary, self.counts, self._way, texts=texts)
        else:
            self._program = Writer(self._plan, tokenizer, student.vocabulary, self.counts, self._way, self._answered)
        self._sessions: dict[bool, Session] = {}

    def stream(self, examples: Iterable[Example | BadRow]) -> Iterator[Prediction | BadRow]:
        """A prediction for each example, or why there is none, as they are done. Examples are taken a window at a time.

        A row that is bad already comes back as it is, in its place among the others: an endless stream of them takes no memory either.
        """
        yield from (result for _, result in self.numbered(examples))

    def answers(self, examples: Sequence[Example | BadRow]) -> Iterator[Prediction | BadRow]:
        """The same in the order of the examples."""
        out = dict(self.numbered(examples))
        yield from (out[number] for number in range(len(examples)))

    def forget(self) -> None:
        """Drop what was computed with the student's weights: of one that goes on learning it would be another's."""
        self._sessions.clear()

    def numbered(self, examples: Iterable[Example | BadRow | None]) -> Iterator[tuple[int, Prediction | BadRow]]:
        """As `stream`, each with the number of its example. None among them, which has no number: more may come, but not now.

        What there is goes on meanwhile. Where all that there was is answered, the next example is waited for.
        """
        numbers: dict[int, int] = {}
        """Of each row that is being answered, by its task's identity."""
        bad: list[tuple[int, BadRow]] = []
        apart: list[Task] = []
        """Rows without the shared prefix (a text can do that): they wait for each other, and are answered by themselves."""
        windows = _windows(examples)
        over = False

        def tasks() -> Iterator[list[Task]]:
            nonlocal over
            for window in windows:
                shared: list[Task] = []
                for number, example in window:
                    made = example if isinstance(example, BadRow) else self._task_of(example)
                    if isinstance(made, BadRow):
                        bad.append((number, made))
                    else:
                        numbers[id(made)] = number
                        (apart if len(made.prompt) == len(made.rows[0].tokens) else shared).append(made)
                # The longest first: what does not fit shows at once, and the last to be done are short.
                yield sorted(shared, key=lambda task: -len(task.prompt))
                if len(apart) >= WINDOW or len(bad) >= WINDOW or (not window and len(numbers) == len(apart)):
                    return
            over = True

        while not over:
            for task in self._lane(True).answer(tasks()):
                yield from _taken(bad)
                yield numbers.pop(id(task)), self._prediction(task)
            yield from _taken(bad)
            if apart:
                yield from ((numbers.pop(id(task)), self._prediction(task)) for task in self._lane(False).answer(iter([_taken(apart)])))

    def _task_of(self, example: Example) -> Task | BadRow:
        room = self._max_tokens - self._plan.room
        ids, trimmed = self._prompt.ids(example.text, max(1, room))
        if len(ids) > room:
            need = len(ids) + self._plan.room
            return BadRow(f"prompt and answer need {need} tokens, train.max_tokens is {self._max_tokens}", example.line, example.id)
        rows = [Row(example, ids, trimmed, sample) for sample in range(self._way.samples)]
        prompt = ids[len(self._prompt.prefix) if begins_with(ids, self._prompt.prefix) else 0 :]
        return Task(rows, prompt, self._plan.room, [self._program.program(row) for row in rows])

    def _lane(self, shared: bool) -> Lane:
        """Each stream has lanes of its own: one that nobody reads to its end leaves nothing in another. The prefix is forwarded once."""
        if shared not in self._sessions:
            prefix = self._prompt.prefix if shared else self._prompt.prefix[:0]
            self._sessions[shared] = self._student.session(prefix, adapter=self._adapter)
        masks = None if self._program.grammars is None else self._program.grammars.masks
        capacity, temperature = self._student.capacity(), self._way.temperature
        return Lane(self._sessions[shared], capacity, self.counts, masks=masks, temperature=temperature)

    def _prediction(self, task: Task) -> Prediction:
        fields = {name: self._task.fields[name] for name in self._answered}
        row = task.rows[0] if len(task.rows) == 1 else vote(task.rows, fields)
        answer = in_order(self._answered, row.answer)
        overall, tier = rubric.assess(self._task, answer, row.example.record)
        sure, whole = in_order(self._answered, row.confidence), in_order(self._answered, row.probabilities)
        found = Prediction(row.example.id, answer, sure, whole, overall, tier, row.trimmed, row.forwarded)
        return found if self._confidence is None else self._confidence.apply(self._task, found)


def _windows(examples: Iterable[Example | BadRow | None]) -> Iterator[list[tuple[int, Example | BadRow]]]:
    """Some examples at a time, with their numbers; those that there are, or none, where no more come now."""
    window: list[tuple[int, Example | BadRow]] = []
    numbers = itertools.count()
    chars = 0
    for example in examples:
        if example is not None:
            window.append((next(numbers), example))
        chars += len(example.text) if isinstance(example, Example) else 0
        if len(window) == WINDOW or chars >= WINDOW_CHARS or example is None:
            yield window
            window, chars = [], 0
    if window:
        yield window


def _taken(things: list[Thing]) -> list[Thing]:
    """All of them; the list is empty afterwards."""
    taken = things[:]
    things.clear()
    return taken
