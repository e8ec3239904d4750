"""`answer: slots`: every value read at once, none decoded.

Behind the prompt stands a fixed scaffold with one placeholder a field. What the student would say after a placeholder, among the
single-token codes of that field's values, is the field's distribution:

    ... <prompt>  A  B  C          three fields, three placeholders
                  |  |  |
                  0..3  0..6       each read over the codes of its own values

Fields are independent given the text; code renders the JSON. The scaffold is the same in training and in inference, and follows from
tokenizer and fields alone. It knows fields and a tokenizer; nothing of prompts, models or batches.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from mlx_distill.errors import CheckpointError
from mlx_distill.recipe.schema import FieldSpec
from mlx_distill.records import Ids, Taught, Value
from mlx_distill.task.fields import closed_values, nearest_value

PLACEHOLDERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


@dataclass(frozen=True, slots=True)
class Place:
    """One field's placeholder in the scaffold, and the codes of its values, in their order."""

    name: str
    spec: FieldSpec
    token: int
    values: tuple[Value, ...]
    codes: Ids


class SlotPlan:
    """The scaffold of a task for one tokenizer. Raises CheckpointError where it has too few single-token codes."""

    def __init__(self, fields: Mapping[str, FieldSpec], tokenizer: Any):
        self.fields = dict(fields)
        marks = _singles(tokenizer, iter(PLACEHOLDERS))
        self.places = [self._place(name, spec, next(marks, None), tokenizer) for name, spec in fields.items()]
        self.scaffold = np.array([place.token for place in self.places], np.int32)
        self.room = len(self.scaffold)
        """Tokens that an answer adds to its prompt."""

    def taught(self, labels: Mapping[str, Value]) -> Taught | None:
        """What a row teaches: the code of each field that has a label. None where no field has."""
        known = [(i, place) for i, place in enumerate(self.places) if place.name in labels]
        if not known:
            return None
        codes = [place.codes[place.values.index(nearest_value(place.spec, labels[place.name]))] for _, place in known]
        return Taught(
            inputs=self.scaffold,
            read=np.array([i + 1 for i, _ in known], np.int32),
            targets=np.array(codes, np.int32),
            weight=np.array([place.spec.loss for _, place in known], np.float32),
            allowed=[place.codes for _, place in known],
            field=[place.name for _, place in known],
        )

    @staticmethod
    def _place(name: str, spec: FieldSpec, token: int | None, tokenizer: Any) -> Place:
        values = closed_values(spec)
        assert values is not None, "check refuses open fields in slots"
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
