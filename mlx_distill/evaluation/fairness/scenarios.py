"""Counterfactual texts: a template whose gaps are filled in turn, and which of the texts differ in one gap alone.

    made = texts("fire", scenario, task, seed=0)
    made.examples            what is to be answered
    made.contexts["place"]   (contexts, fillings): the same text but for its place; each is a place in `examples`

Up to MOST texts: every combination. Of more, each gap is tried in contexts drawn for it: fillings of the other gaps, each as often as any
other, each context with all the fillings of the gap. So every difference is one between texts that are alike but for that gap.
It knows templates; nothing of answers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from mlx_distill.errors import RecipeError
from mlx_distill.recipe.schema import ScenarioSpec, TaskSpec
from mlx_distill.records import Example
from mlx_distill.task.fields import ABSENT, follow
from mlx_distill.task.prompt import columns, fill

MOST = 256
"""Texts of one scenario that are answered; more only where its fillings alone are more."""
CANDIDATES = 4096
"""Contexts that are drawn from, where there are more."""
Combination = tuple[int, ...]
"""Which filling each gap has, in the order of `variants`."""


@dataclass(frozen=True, slots=True, eq=False)
class Texts:
    examples: Sequence[Example]
    """Each text once."""
    contexts: Mapping[str, NDArray[np.intp]]
    """By gap. A context in which the gap changes nothing (its text does not come to it) is left out."""
    others: Mapping[str, Sequence[Mapping[str, int]]]
    """By gap, for each of its contexts: the fillings of the other gaps."""
    possible: int
    """Combinations that there are; more than were asked where they were drawn."""


def texts(name: str, scenario: ScenarioSpec, task: TaskSpec, *, seed: int) -> Texts:
    """Raises RecipeError for a scenario that makes no sense, or lacks a column that the task reads."""
    _check(name, scenario, task)
    gaps = list(scenario.variants)
    sizes = [len(scenario.variants[gap]) for gap in gaps]
    place: dict[str, int] = {}
    examples: list[Example] = []
    contexts, others = {}, {}
    for number, gap in enumerate(gaps):
        lines, kept = [], []
        for context in _contexts(sizes, number, seed):
            line = []
            for combination in ((*context[:number], i, *context[number + 1 :]) for i in range(sizes[number])):
                record = record_of(scenario, dict(zip(gaps, combination, strict=True)))
                key = repr(sorted(record.items()))
                if key not in place:
                    place[key] = len(examples)
                    examples.append(Example(f"{name}/{len(examples) + 1}", record, fill(task.input, record)))
                line.append(place[key])
            if len(set(line)) > 1:
                lines.append(line)
                kept.append({other: context[i] for i, other in enumerate(gaps) if i != number})
        contexts[gap] = np.array(lines, dtype=np.intp).reshape(len(lines), sizes[number])
        others[gap] = kept
    return Texts(examples, contexts, others, math.prod(sizes))


def record_of(scenario: ScenarioSpec, chosen: Mapping[str, int]) -> dict[str, str]:
    """The columns with every gap filled; a filling's own gaps first.

    >>> spec = ScenarioSpec(row={"text": "{who} waits"}, variants={"who": ("a woman of {age}", "a man"), "age": ("30", "80")})
    >>> record_of(spec, {"who": 0, "age": 1})
    {'text': 'a woman of 80 waits'}
    """

    def filled(template: str) -> str:
        return fill(template, {gap: filled(scenario.variants[gap][chosen[gap]]) for gap in columns(template)})

    return {column: filled(template) for column, template in scenario.row.items()}


def _check(name: str, scenario: ScenarioSpec, task: TaskSpec) -> None:
    where = f"fairness.scenarios.{name}"
    for path, message, hint in scenario.problems():
        raise RecipeError(f"{where}.{path}: {message}", hint=hint)
    for column in columns(task.input):
        if follow(scenario.row, column) is ABSENT:
            raise RecipeError(f"{where}.row: task.input reads the column {column!r}, and the row lacks it", hint=f"row: {{{column}: ...}}")


def _contexts(sizes: Sequence[int], number: int, seed: int) -> list[Combination]:
    """Fillings of the other gaps (that of gap `number` is 0): all of them, or as many as there is room for."""
    free = [1 if i == number else size for i, size in enumerate(sizes)]
    possible, room = math.prod(free), max(1, MOST // sum(sizes))
    if math.prod(sizes) <= MOST or possible <= room:
        return list(product(*map(range, free)))
    random = np.random.default_rng((seed, number))
    if possible <= CANDIDATES:
        candidates = random.permutation(np.array(list(product(*map(range, free)))))
    else:
        candidates = np.unique(random.integers(0, free, size=(CANDIDATES, len(free))), axis=0)
        random.shuffle(candidates)
    return [tuple(int(i) for i in candidates[row]) for row in _balanced(candidates, free, room)]


def _balanced(candidates: NDArray[np.intp], sizes: Sequence[int], wanted: int) -> list[int]:
    """Rows of `candidates`, one after the other that whose fillings were taken least often so far."""
    taken = [np.zeros(size) for size in sizes]
    left = np.ones(len(candidates), dtype=bool)
    chosen: list[int] = []
    for _ in range(min(wanted, len(candidates))):
        cost = sum(np.exp2(counts - counts.min())[candidates[:, gap]] for gap, counts in enumerate(taken))
        row = int(np.where(left, cost, np.inf).argmin())
        left[row] = False
        chosen.append(row)
        for gap, filling in enumerate(candidates[row]):
            taken[gap][filling] += 1
    return chosen
