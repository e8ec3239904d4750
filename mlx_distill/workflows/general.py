"""Base and student side by side on general benchmarks: what `forgetting:` in a recipe asks for.

The same questions in the same words, as bare text: a chat template would help the one that learned to chat and not the other, and figures
elsewhere are mostly of bare text. Choices go by likelihood, puzzles and programs by a greedy continuation. Programs are run in a sandbox,
and only where the recipe says `run_code`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mlx_distill.backends.base import BARE, Student
from mlx_distill.catalog import find
from mlx_distill.errors import BackendError
from mlx_distill.evaluation import forgetting as figures
from mlx_distill.evaluation import sandbox
from mlx_distill.evaluation.benchmarks import Question, Read, asked, drawn
from mlx_distill.evaluation.forgetting import Answers
from mlx_distill.files import sha256
from mlx_distill.inference.free import Prompt, written
from mlx_distill.inference.likelihood import encoded, likelier, pair
from mlx_distill.observe.progress import Progress, amount
from mlx_distill.recipe.schema import BenchmarkSpec, ForgettingSpec

Advance = Callable[[int], None]
ON_DEMAND = "what is written is run only on demand (run_code: true)"


@dataclass(frozen=True, slots=True)
class Side:
    """Who answers. `adapter` as of a session."""

    name: str
    student: Student
    adapter: str | None
    tokenizer: Any

    def right(self, benchmark: Any, questions: Sequence[Question], shots: Mapping[str, Sequence[Question]], advance: Advance) -> list[bool]:
        """Of each question, whether it is answered rightly."""
        found: dict[int, bool] = {}
        for numbers in _alike(questions, shots):
            own = [questions[number] for number in numbers]
            prompts = [asked(question, benchmark.heading(question.task), shots.get(question.task, ())) for question in own]
            answered = self._chosen(own, prompts, advance) if own[0].kind == "choice" else self._written(benchmark, own, prompts, advance)
            found |= zip(numbers, answered, strict=True)
        return [found[number] for number in range(len(questions))]

    def _chosen(self, questions: Sequence[Question], prompts: Sequence[str], advance: Advance) -> list[bool]:
        pairs = [
            [pair(self.tokenizer, prompt, f" {choice}") for choice in question.choices]
            for question, prompt in zip(questions, prompts, strict=True)
        ]
        numbers = likelier(self.student, pairs, adapter=self.adapter, advance=advance)
        return [question.choices[number] == question.answer for question, number in zip(questions, numbers, strict=True)]

    def _written(self, benchmark: Any, questions: Sequence[Question], prompts: Sequence[str], advance: Advance) -> list[bool]:
        """A token that is no text (the end of a turn, or of a text) ends what is written."""
        ids = [Prompt(encoded(self.tokenizer, prompt), benchmark.STOPS, benchmark.TOKENS) for prompt in prompts]
        ends = [end for end in self.tokenizer.all_special_ids if end is not None]
        said = written(self.student, self.tokenizer, ids, adapter=self.adapter, ends=ends, advance=advance)
        if questions[0].kind == "exact":
            return [benchmark.right(question, text) for question, text in zip(questions, said, strict=True)]
        return [sandbox.judge(benchmark.case(question, text)).passed for question, text in zip(questions, said, strict=True)]


def forgetting(
    spec: ForgettingSpec, student: Student, tokenizer: Any, progress: Progress, *, base: Callable[[], Student] | None = None
) -> dict[str, Any]:
    """document["forgetting"]. `student` has the run's adapter as its own, and the base beneath it.

    `base` opens the base by itself: for a student all of whose weights were trained, which has none beneath. Without it such a student is
    held against the floors alone. Raises DataError for a benchmark that cannot be read.
    """
    read = {name: find("evaluation.benchmarks", each.kind).read(Path(each.path)) for name, each in spec.benchmarks.items()}
    who = sides(student, tokenizer, base)
    answers = {name: _answers(name, each, read[name], who, spec.seed, progress) for name, each in spec.benchmarks.items()}
    return figures.forgetting(answers, max_drop=spec.max_drop)


def sides(student: Student, tokenizer: Any, base: Callable[[], Student] | None) -> list[Side]:
    """The student, and the base where it can be asked. `student` and `base` as of `forgetting`."""
    own = Side("student", student, None, tokenizer)
    try:
        student.session(np.zeros(0, np.int32), adapter=BARE)
    except BackendError:
        return [own] if base is None else [own, Side("base", base(), None, tokenizer)]
    return [own, Side("base", student, BARE, tokenizer)]


def _answers(name: str, spec: BenchmarkSpec, read: Read, who: Sequence[Side], seed: int, progress: Progress) -> Answers:
    benchmark = find("evaluation.benchmarks", spec.kind)
    questions, shots = drawn(read.questions, rows=spec.rows, shots=spec.shots, seed=seed)
    by_side: dict[str, list[bool]] = {}
    unjudged, guard = _unjudged(spec)
    for side in [] if unjudged else who:
        with progress.step(f"{name}: {side.name}", total=len(questions), unit="questions") as bar:
            by_side[side.name] = side.right(benchmark, questions, shots, bar.advance)
            bar.advance(0, right=sum(by_side[side.name]))
    alone = [] if len(who) > 1 else ["All weights were trained, and the base was not asked beside them."]
    notes = [*unjudged, *_notes(spec, read, questions, shots), *alone, *([GUARDS[guard]] if guard else [])]
    path = Path(spec.path)
    return Answers(
        title=benchmark.TITLE,
        kind=questions[0].kind,
        floor=benchmark.FLOOR if spec.floor is None else spec.floor,
        named=spec.floor is not None,
        tasks=[question.task for question in questions],
        chance=[question.chance for question in questions],
        base=by_side.get("base"),
        student=by_side.get("student"),
        notes=notes,
        facts={"file": path.name, "sha256": sha256(path) if path.is_file() else None, "left_out": dict(read.left_out),
               "shots": spec.shots, "of": len(read.questions), "guard": guard},
    )  # fmt: skip


def _unjudged(spec: BenchmarkSpec) -> tuple[list[str], str | None]:
    """Why nothing is judged, if nothing is; and what will hold the programs that are run, where any are."""
    if spec.kind != "humaneval":
        return [], None
    if not spec.run_code:
        return [f"Not judged: {ON_DEMAND}."], None
    tried = sandbox.works()
    return ([], tried.guard) if tried.passed else ([f"Not judged: no program can be run here ({tried.reason})."], None)


GUARDS = {
    "kernel": "Programs ran under the kernel's filter of system calls and Landlock: no network, no other process, no file written, "
    "none read but in folders of libraries.",
    "calls": "Programs ran under the kernel's filter of system calls: no network, no other process, no file written. Landlock is not to be "
    "had here: what is read was held by Python itself alone, which is proof against slips, not malice.",
    "sandbox": "Programs ran under macOS's sandbox-exec: no network, no other process started, no file written. What is read, and signals "
    "to others, were held by Python itself alone, which is proof against slips, not malice.",
    "python": "Programs were held by Python itself alone, which is proof against slips, not malice: this system has no filter known here.",
}


def _notes(spec: BenchmarkSpec, read: Read, questions: Sequence[Question], shots: Mapping[str, Sequence[Question]]) -> Iterator[str]:
    if read.left_out:
        why = ", ".join(f"{reason} {number:,}" for reason, number in read.left_out.items())
        yield f"{amount(sum(read.left_out.values()), 'rows')} left out: {why}."
    if len(questions) < len(read.questions):
        yield f"{len(questions):,} of {len(read.questions):,} questions, drawn evenly over the tasks."
    if spec.shots and (without := [task for task, own in shots.items() if not own]):
        yield f"No solved questions to spare in {', '.join(without)}."


def _alike(questions: Sequence[Question], shots: Mapping[str, Sequence[Question]]) -> Iterator[list[int]]:
    """Numbers of those that are asked together: a task's, where solved ones stand before them, which are read once then."""
    if not any(shots.values()):
        yield list(range(len(questions)))
        return
    by_task: dict[str, list[int]] = {}
    for number, question in enumerate(questions):
        by_task.setdefault(question.task, []).append(number)
    yield from by_task.values()
