"""`answer: slots`: every closed value read at once, none decoded; texts and lists written behind them.

Behind the prompt stands a fixed scaffold with one placeholder a closed field. What the student would say after a placeholder, among the
single-token codes of that field's values, is the field's distribution:

    ... <prompt>  A  B  C          three fields, three placeholders
                  |  |  |
                  0..3  0..6       each read over the codes of its own values

Closed fields are independent given the text; code renders the JSON. Where the task has open fields too, the codes of the values that
were answered follow, so that what is written agrees with them, and then the open fields alone, as an answer in JSON:

    ... <prompt>  A  B  C  2  0  5  {"reasoning":"The river rose ..."}

The scaffold is the same in training and in inference, and follows from tokenizer and fields alone. It knows fields and a tokenizer;
nothing of prompts, models or batches.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mlx_distill.errors import CheckpointError
from mlx_distill.recipe.schema import FieldSpec
from mlx_distill.records import Ids, Taught, Value
from mlx_distill.task.answer import AnswerPlan
from mlx_distill.task.fields import CLOSED, closed_values, nearest_value

PLACEHOLDERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


@dataclass(frozen=True, slots=True)
class Place:
    """One field's placeholder in the scaffold, and the codes of its values, in their order."""

    name: str
    spec: FieldSpec
    token: int
    values: tuple[Value, ...]
    codes: Ids

    def code(self, value: Value) -> int:
        """The code of a value; of a score between two steps, that of the nearest."""
        return int(self.codes[self.values.index(nearest_value(self.spec, value))])


class SlotPlan:
    """The scaffold of a task for one tokenizer. Raises CheckpointError where it has too few single-token codes."""

    def __init__(self, fields: Mapping[str, FieldSpec], tokenizer: Any):
        self.fields = dict(fields)
        closed = {name: spec for name, spec in fields.items() if spec.kind in CLOSED}
        texts = {name: spec for name, spec in fields.items() if name not in closed}
        assert closed, "check refuses slots without a closed field"
        marks = _singles(tokenizer, iter(PLACEHOLDERS))
        self.places = [_place(name, spec, next(marks, None), tokenizer) for name, spec in closed.items()]
        self.scaffold = np.array([place.token for place in self.places], np.int32)
        self.texts = AnswerPlan(texts, tokenizer) if texts else None
        """How open fields are written behind the codes of the closed ones; None where the task has no open field."""
        self.room = len(self.scaffold) + (0 if self.texts is None else len(self.scaffold) + self.texts.room)
        """Tokens that an answer adds to its prompt."""

    def codes(self, values: Mapping[str, Value]) -> Ids:
        """What texts are written behind: each closed field's value as its code, (places,); where there is none, its placeholder again."""
        return np.array([place.code(values[place.name]) if place.name in values else place.token for place in self.places], np.int32)

    def taught(self, labels: Mapping[str, Value]) -> Taught | None:
        """What a row teaches: the code of each closed field that has a label, and its leading texts. None where it has neither."""
        codes, texts = self._taught_codes(labels), self._taught_texts(labels)
        if texts is not None:
            return _joined(codes, texts)
        return codes if len(codes.targets) else None

    def _taught_codes(self, labels: Mapping[str, Value]) -> Taught:
        known = [(i, place) for i, place in enumerate(self.places) if place.name in labels]
        return Taught(
            inputs=self.scaffold,
            read=np.array([i + 1 for i, _ in known], np.int32),
            targets=np.array([place.code(labels[place.name]) for _, place in known], np.int32),
            weight=np.array([place.spec.loss for _, place in known], np.float32),
            allowed=[place.codes for _, place in known],
            field=[place.name for _, place in known],
        )

    def _taught_texts(self, labels: Mapping[str, Value]) -> Taught | None:
        """Open fields as an answer of their own, behind the scaffold and the codes."""
        texts = None if self.texts is None else self.texts.taught(labels)
        if texts is None:
            return None
        before = np.concatenate([self.scaffold, self.codes(labels)])
        inputs, read = np.concatenate([before, texts.inputs]), (len(before) + texts.read).astype(np.int32)
        return replace(texts, inputs=inputs, read=read, allowed=[None] * len(read))


def _joined(codes: Taught, texts: Taught) -> Taught:
    """Both parts of one row; the inputs of the texts begin with those of the codes."""
    return Taught(
        inputs=texts.inputs,
        read=np.concatenate([codes.read, texts.read]),
        targets=np.concatenate([codes.targets, texts.targets]),
        weight=np.concatenate([codes.weight, texts.weight]),
        allowed=[*(codes.allowed or ()), *(texts.allowed or ())],
        field=[*codes.field, *texts.field],
    )


def _place(name: str, spec: FieldSpec, token: int | None, tokenizer: Any) -> Place:
    values = closed_values(spec) or []
    if token is None:
        raise CheckpointError(f"{name} is one field too many for slots: this tokenizer has no letter left for it", hint="answer: json")
    codes = list(_codes(tokenizer, len(values)))
    if len(codes) < len(values):
        hint = "fewer values (a larger step), or answer: json"
        raise CheckpointError(f"{name} has {len(values)} values; this tokenizer has {len(codes)} codes of a single token", hint=hint)
    return Place(name, spec, token, tuple(values), np.array(codes, np.int32))


def _codes(tokenizer: Any, number: int) -> Iterator[int]:
    """Numbers, then letters, that are one token each."""
    found = _singles(tokenizer, (str(i) for i in range(number)))
    letters = _singles(
        tokenizer, (first + second for first in ["", *"abcdefghijklmnopqrstuvwxyz"] for second in "abcdefghijklmnopqrstuvwxyz")
    )
    seen: set[int] = set()
    for token in (*found, *letters):
        if token not in seen and len(seen) < number:
            seen.add(token)
            yield token


def _singles(tokenizer: Any, texts: Iterator[str]) -> Iterator[int]:
    """The tokens of those texts that are a single one, behind a line break: some tokenizers put a space before a first word."""
    head = tokenizer("\n", add_special_tokens=False)["input_ids"]
    for text in texts:
        ids = tokenizer(f"\n{text}", add_special_tokens=False)["input_ids"]
        if ids[: len(head)] == head and len(ids) == len(head) + 1:
            yield ids[-1]
