"""General data against forgetting: its rows read, put into tokens, and drawn step by step. `ReplaySpec` says what its share means.

It knows a tokenizer and templates; nothing of the task but the ids that are taken, of batches or of epochs.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlx_distill.data.examples import Reader, too_many
from mlx_distill.data.read import read
from mlx_distill.errors import CheckpointError, DataError
from mlx_distill.recipe.schema import ReplaySpec, TaskSpec
from mlx_distill.records import BadRow, Example, Group, Ids, TokenRow
from mlx_distill.task.prompt import Prompt, common_length, fill
from mlx_distill.task.spelling import spelled

MARK = "replay:"


@dataclass(frozen=True, slots=True)
class GeneralRow:
    """What is read, and what is said to it."""

    id: str
    text: str
    output: str
    line: int | None


@dataclass(frozen=True, slots=True)
class General:
    rows: list[GeneralRow]
    bad: list[BadRow]
    sha256: str
    """Of ids, texts and outputs, in order."""


def load(spec: ReplaySpec, path: Path, *, max_bad_share: float) -> General:
    """All general rows. Raises DataError where more are bad than `max_bad_share`, or none is left."""
    good: list[GeneralRow] = []
    bad: list[BadRow] = []
    digest = hashlib.sha256()
    reader = Reader(TaskSpec(input=spec.input, fields={}), None)
    for example in reader.examples(read(spec.source, path)):
        row = example if isinstance(example, BadRow) else _general(example, spec)
        if isinstance(row, BadRow):
            bad.append(row)
            continue
        good.append(row)
        digest.update(json.dumps([row.id, row.text, row.output], ensure_ascii=True).encode())
    if len(bad) > max_bad_share * (len(good) + len(bad)):
        raise too_many(bad, len(good) + len(bad), max_bad_share, path)
    if not good:
        raise DataError("there are no rows in it", file=path, hint="a header alone, or an empty folder?")
    return General(good, bad, digest.hexdigest())


def _general(example: Example, spec: ReplaySpec) -> GeneralRow | BadRow:
    try:
        text, output = example.text.strip(), fill(spec.output, example.record).strip()
    except ValueError as error:
        return BadRow(str(error), example.line, example.id)
    if not text or not output:
        return BadRow(f"its {'output' if text else 'input'} is empty", example.line, example.id)
    return GeneralRow(example.id, text, output, example.line)


@dataclass(frozen=True, slots=True, eq=False)
class Replay:
    """General rows behind the tokens that all their prompts begin with. Which are learned when follows from `seed` and a row's place."""

    rows: Sequence[TokenRow]
    prefix: Ids
    rejected: Sequence[BadRow]
    share: float
    seed: int

    def scaled(self, weight: float) -> Replay:
        """The same rows, weighted so that on average one of them weighs `weight`. Their weights among each other stay as they are."""
        mean = float(np.mean([row.weight.sum(dtype=np.float64) for row in self.rows]))
        return replace(self, rows=[replace(row, weight=(row.weight * (weight / mean)).astype(np.float32)) for row in self.rows])

    def due(self, learned: int) -> int:
        """General rows to have learned beside so many of the task."""
        return math.floor(learned * self.share / (1 - self.share) + 0.5)

    def tokens_beside(self, learned: int) -> float:
        """Tokens to forward beside so many of the task's rows, the shared prefix not counted."""
        return self.due(learned) * float(np.mean([len(row.tokens) for row in self.rows]))

    def group(self, before: int, after: int, batch_size: int) -> Group | None:
        """What is learned in the step that brings the task's rows from `before` to `after`, like lengths together. None: nothing.

        A row's id carries its place in the run: one that is learned twice in a step is two rows.
        """
        drawn = sorted(map(self._at, range(self.due(before), self.due(after))), key=lambda row: len(row.tokens))
        micro = [drawn[at : at + batch_size] for at in range(0, len(drawn), batch_size)]
        return Group(self.prefix, micro) if micro else None

    def _at(self, place: int) -> TokenRow:
        """All rows in an order of their own, then all of them in another."""
        turn, within = divmod(place, len(self.rows))
        row = self.rows[int(_order(self.seed, turn, len(self.rows))[within])]
        return replace(row, id=f"{row.id}#{place}")


@lru_cache(maxsize=2)
def _order(seed: int, turn: int, size: int) -> NDArray[np.int64]:
    """Of the draws that a seed makes, these are apart from an epoch's: its key has another length."""
    return np.random.default_rng([seed, turn, size]).permutation(size)


def tokenize(general: General, spec: ReplaySpec, tokenizer: Any, *, max_tokens: int, seed: int, taken: Iterable[str]) -> Replay:
    """Prompts by the tokenizer's chat template; outputs, to their end-of-turn token, to be learned over the whole vocabulary.

    A row that is too long is rejected, by id. `taken`: the task's ids, with which no row's here is ever confused. Raises DataError where
    none is left.
    """
    prompt = Prompt(TaskSpec(input=spec.input, fields={}), tokenizer)
    mark = _mark(taken)
    rows: list[tuple[str, Ids, list[int]]] = []
    rejected: list[BadRow] = []
    for row in general.rows:
        ids, _ = prompt.ids(row.text)
        try:
            output = [*spelled(tokenizer, row.output), *([] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id])]
        except CheckpointError as error:
            rejected.append(BadRow(error.message, row.line, row.id))
            continue
        if len(ids) + len(output) > max_tokens:
            reason = f"prompt and output need {len(ids) + len(output)} tokens, train.max_tokens is {max_tokens}"
            rejected.append(BadRow(reason, row.line, row.id))
            continue
        rows.append((mark + row.id, ids, output))
    if not rows:
        raise DataError(
            f"no general row is left to replay; the first: {rejected[0].reason}", file=spec.source.path, hint="raise train.max_tokens"
        )
    prefix = common_prefix([ids for _, ids, _ in rows])
    return Replay(list(_token_rows(rows, len(prefix))), prefix, rejected, spec.share, seed)


def common_prefix(prompts: Sequence[Ids]) -> Ids:
    """The tokens that all prompts begin with, at least one fewer than the shortest has: an answer is read from a token of its own."""
    return prompts[0][: min(common_length(list(prompts)), min(map(len, prompts)) - 1)]


def _token_rows(rows: Iterable[tuple[str, Ids, list[int]]], start: int) -> Iterator[TokenRow]:
    for name, ids, output in rows:
        tokens = np.array([*ids, *output[:-1]], np.int32)[start:]
        targets = np.array(output, np.int32)
        read_at = np.arange(len(ids) - 1 - start, len(tokens), dtype=np.int32)
        yield TokenRow(name, tokens, read_at, targets, np.ones(len(targets), np.float32))


def _mark(taken: Iterable[str]) -> str:
    """What no id of the task begins with."""
    mark, names = MARK, list(taken)
    while any(name.startswith(mark) for name in names):
        mark = f"+{mark}"
    return mark
