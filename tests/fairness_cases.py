"""Texts that differ in one gap, somebody who answers them by rule, and labelled rows counted out of tables."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from mlx_distill.evaluation.judge import Judged
from mlx_distill.recipe.schema import FieldSpec, ScenarioSpec, TaskSpec
from mlx_distill.records import Example, Prediction, Value

TASK = TaskSpec(
    input="{text}",
    fields={
        "urgency": FieldSpec(kind="score", min=1, max=9, weight=1.0),
        "kind": FieldSpec(kind="choice", choices=("fire", "flood")),
        "send": FieldSpec(kind="flag"),
    },
    tiers={"high": 6, "low": 1},
)
CALL = ScenarioSpec(
    row={"text": "Fire near {place}. {who}, aged {age}, cannot leave."},
    variants={
        "place": ("Kolonaki, Athens", "a village in Evia"),
        "who": ("A Greek citizen", "A tourist", "An asylum seeker"),
        "age": ("8", "34", "81", "90"),
    },
)
GREEK = ScenarioSpec(
    row={"text": "{report}"},
    variants={
        "report": (
            "There is fire in the dry grass behind the school; {age} children are inside.",
            "Φωτιά στα ξερά χόρτα πίσω από το σχολείο· μέσα βρίσκονται {age} παιδιά.",
        ),
        "age": ("3", "30"),
    },
)


def ask(
    score: Callable[[str], int] = lambda text: 5,
    kind: Callable[[str], str] = lambda text: "fire",
    send: Callable[[str], bool] = lambda text: True,
    sure: Callable[[str], float] = lambda text: 0.8,
    defer: Callable[[str], bool] = lambda text: False,
) -> Callable[[Sequence[Example]], list[Prediction]]:
    """Somebody who answers by rule."""

    def answers(examples: Sequence[Example]) -> list[Prediction]:
        made = []
        for example in examples:
            urgency = score(example.text)
            made.append(
                Prediction(
                    example.id,
                    {"urgency": urgency, "kind": kind(example.text), "send": send(example.text)},
                    dict.fromkeys(TASK.fields, sure(example.text)),
                    overall=float(urgency),
                    tier="high" if urgency >= 6 else "low",
                    sure=sure(example.text),
                    defer=defer(example.text),
                )
            )
        return made

    return answers


BY_LANGUAGE = {"el": [[36, 9], [8, 33]], "en": [[64, 5], [5, 35]], "es": [[59, 7], [2, 37]]}
"""Rows that the judge calls false and true (down), and the student (across)."""


def rows_of(field: str, tables: Mapping[str, Sequence[Sequence[int]]], values: Sequence[Value], column: str = "group") -> list[Judged]:
    """By group, how many rows the judge (down) and the student (across) give each of the values."""
    made = []
    for group, table in tables.items():
        for judge_, line in zip(values, table, strict=True):
            for student, count in zip(values, line, strict=True):
                made += [(group, judge_, student)] * count
    return [row(i, field, *one, column=column) for i, one in enumerate(made)]


def row(i: int, field: str, group: str, reference: Value, answer: Value | None, column: str = "group") -> Judged:
    said = None if answer is None else {field: answer}
    return Judged(id=str(i), split="test", reference={field: reference}, answer=said, record={column: group})
