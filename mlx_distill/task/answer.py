"""What an answer looks like in tokens: fixed text between values, closed values that can be told apart, open ones under a grammar.

An answer is compact JSON in field order. Its text is cut where values begin and end, and each piece is tokenized by itself, in
training and in inference alike. So the text between values is known beforehand and is never decoded, and a closed field's legal values
are known token sequences: a trie, whose branching points are the only places where the student has to choose.

It knows fields and a tokenizer; nothing of prompts, models or batches.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from mlx_distill.errors import CheckpointError
from mlx_distill.recipe.schema import FieldSpec
from mlx_distill.records import Taught, Value
from mlx_distill.task.fields import ITEM_CHARS, ITEMS, TEXT_CHARS, closed_values, json_text, nearest_value, schema
from mlx_distill.task.spelling import Tokens, spelled, spells


@dataclass(frozen=True, slots=True)
class Slot:
    """One field's place in the answer."""

    name: str
    spec: FieldSpec
    before: Tokens
    """The fixed text before its value."""
    values: tuple[Value, ...] = ()
    """Of a closed field, in order; empty for an open one."""
    tokens: tuple[Tokens, ...] = ()
    """Of each closed value, with the first token of what follows where one value begins another (1 and 10)."""
    own: tuple[int, ...] = ()
    """How many of those tokens are the value's own."""

    @property
    def closed(self) -> bool:
        return bool(self.values)


@dataclass(frozen=True, slots=True)
class Target:
    """An answer to learn. `field` names the field that each token decides; None for text that is fixed."""

    tokens: Tokens
    field: tuple[str | None, ...]


class AnswerPlan:
    """The pieces of a task's answers for one tokenizer. Raises CheckpointError where its tokens cannot spell them."""

    def __init__(self, fields: Mapping[str, FieldSpec], tokenizer: Any):
        self._tokenizer, self.fields = tokenizer, dict(fields)
        self.end: int | None = tokenizer.eos_token_id
        texts = self._fixed_texts()
        self.close: Tokens = self.encode(texts[-1])
        before = [self.encode(text) for text in texts[:-1]]
        after = [*before[1:], self.close]
        self.slots = [self._slot(name, spec, *places) for (name, spec), *places in zip(fields.items(), before, after, strict=True)]
        self._prove()
        self.room = self._room()
        """Tokens to set aside for an answer: the most that closed fields need, and half a token a character for open ones."""

    def _room(self) -> int:
        fixed = sum(len(slot.before) for slot in self.slots) + len(self.close) + 1
        closed = sum(max(slot.own) for slot in self.slots if slot.closed)
        return fixed + closed + sum(most_chars(slot.spec) // 2 for slot in self.slots if not slot.closed)

    def target(self, labels: Mapping[str, Value]) -> Target:
        """The tokens to learn from a row's labels, as far as its leading fields are labelled.

        The student answers field after field, so a field's likelihood needs the ones before it and none after: a row whose third field is
        missing teaches its first two exactly, and stops there. A complete answer ends with the end-of-turn token.
        """
        tokens: list[int] = []
        field: list[str | None] = []
        begun: str | None = None
        """The field whose value is told from a longer one by the next token: 1 before a comma is not 10."""
        for slot in self.slots:
            if slot.name not in labels:
                behind = slot.before[:1] if begun else ()
                return Target((*tokens, *behind), (*field, *[begun] * len(behind)))
            value, begins = self._value_tokens(slot, labels[slot.name])
            tokens += [*slot.before, *value]
            field += [begun, *[None] * (len(slot.before) - 1)] + [slot.name] * len(value)
            begun = slot.name if begins else None
        ending = (*self.close, *(() if self.end is None else (self.end,)))
        return Target((*tokens, *ending), (*field, begun, *[None] * (len(ending) - 1)))

    def taught(self, labels: Mapping[str, Value]) -> Taught | None:
        """What a row teaches: every token of its answer. None where the first field has no label."""
        target = self.target(labels)
        if not target.tokens:
            return None
        return Taught(
            inputs=np.array(target.tokens[:-1], np.int32),
            read=np.arange(len(target.tokens), dtype=np.int32),
            targets=np.array(target.tokens, np.int32),
            weight=np.array([self.weight(field) for field in target.field], np.float32),
            field=target.field,
        )

    def weight(self, field: str | None) -> float:
        """How much a token counts in the loss: its field's `loss`, 1 for fixed text."""
        return 1.0 if field is None else self.fields[field].loss

    def _value_tokens(self, slot: Slot, label: Value) -> tuple[Tokens, bool]:
        """A value's own tokens, and whether another value begins with them."""
        if not slot.closed:
            return self.encode(json_text(slot.spec, label)), False
        place = slot.values.index(nearest_value(slot.spec, label))
        own = slot.own[place]
        return slot.tokens[place][:own], own < len(slot.tokens[place])

    def render(self, values: Mapping[str, Value]) -> str:
        """The answer's JSON text."""
        *before, close = self._fixed_texts()
        pieces = zip(before, self.fields.items(), strict=True)
        return "".join(fixed + self._inner(spec, json_text(spec, values[name])) for fixed, (name, spec) in pieces) + close

    def encode(self, text: str) -> Tokens:
        """Tokens that spell a text in the middle of another. Raises CheckpointError."""
        return spelled(self._tokenizer, text)

    def _fixed_texts(self) -> list[str]:
        """The text before each value, and the text after the last. A choice's quotes belong to them."""
        specs = list(self.fields.items())
        texts = []
        for i, (name, spec) in enumerate(specs):
            opening = ("{" if i == 0 else ",") + json.dumps(name, ensure_ascii=False) + ":"
            quote = '"' if i and self._quoted(specs[i - 1][1]) else ""
            texts.append(quote + opening + ('"' if self._quoted(spec) else ""))
        return [*texts, ('"' if self._quoted(specs[-1][1]) else "") + "}"]

    @staticmethod
    def _quoted(spec: FieldSpec) -> bool:
        return spec.kind == "choice"

    def _inner(self, spec: FieldSpec, text: str) -> str:
        return text[1:-1] if self._quoted(spec) else text

    def _slot(self, name: str, spec: FieldSpec, before: Tokens, after: Tokens) -> Slot:
        values = closed_values(spec)
        if values is None:
            return Slot(name, spec, before)
        each = [self.encode(self._inner(spec, json_text(spec, value))) for value in values]
        begins = [any(other != tokens and other[: len(tokens)] == tokens for other in each) for tokens in each]
        marked = [(*tokens, after[0]) if more else tokens for tokens, more in zip(each, begins, strict=True)]
        if len(set(marked)) < len(marked):
            raise CheckpointError(f"the tokenizer spells two values of {name} alike", hint="rename one of its choices")
        return Slot(name, spec, before, tuple(values), tuple(marked), tuple(map(len, each)))

    def _prove(self) -> None:
        """Each closed value, between its fixed texts, must read as the JSON that it stands for."""
        for slot, text in zip(self.slots, self._fixed_texts(), strict=False):
            for value, tokens, own in zip(slot.values, slot.tokens, slot.own, strict=True):
                whole = text + self._inner(slot.spec, json_text(slot.spec, value))
                if not spells(self._tokenizer, (*slot.before, *tokens[:own]), whole):
                    raise CheckpointError(f"the tokenizer does not spell {whole!r} as it is cut", hint="choose another base")


def most_chars(spec: FieldSpec) -> int:
    """Of an open field's value."""
    if spec.kind == "text":
        return spec.max_chars or TEXT_CHARS
    longest = max(map(len, spec.choices)) if spec.choices else spec.max_chars or ITEM_CHARS
    return (longest + 3) * (spec.max_items or ITEMS)


def open_schema(spec: FieldSpec) -> dict[str, Any]:
    """The JSON schema of an open field's value, quotes and brackets included."""
    assert closed_values(spec) is None
    return schema(spec)
