"""From a record to the text that the student reads: the task's template, and the tokenizer's own chat template around it.

It renders strings and token ids. It knows nothing of answers, labels or files.
"""

from __future__ import annotations

import contextlib
import json
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from mlx_distill.errors import CheckpointError
from mlx_distill.recipe.schema import TaskSpec
from mlx_distill.records import Ids
from mlx_distill.task.fields import ABSENT, follow, legible

_PART = re.compile(r"\{\{|\}\}|\{([^{}]*)\}")
HEAD = 0.7
"""Of what is kept of a text that is too long: so much from its beginning, the rest from its end."""
GAP = " … "
BEGINNINGS = ("Aa1", "zZ9", "", " x", "\n\n", ".", '"', "(", "-", "#", "@")
"""Texts that are unlike each other in how they begin: some tokenizers join a line break or a mark with what stands before it."""
FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "tekken.json")
"""A folder without any of them has no tokenizer, though transformers would make an empty one up."""


class MissingColumn(ValueError):
    """The template names a column that the record has not."""


def columns(template: str) -> list[str]:
    """The columns that a template names, in order."""
    return [match.group(1) for match in _PART.finditer(template) if match.group(1) is not None]


def fill(template: str, record: Mapping[str, Any]) -> str:
    """{column} replaced by the record's value; {a.b} reaches into nested records; {{ and }} are braces; null is empty.

    Raises MissingColumn.
    """

    def part(match: re.Match[str]) -> str:
        if match.group(1) is None:
            return match.group(0)[0]
        value = follow(record, match.group(1))
        if value is ABSENT:
            raise MissingColumn(f"no column {match.group(1)!r}; there is {', '.join(map(str, record)) or 'none'}")
        if value is None or isinstance(value, str):
            return value or ""
        return json.dumps(value, ensure_ascii=False, default=str)  # a date, or a decimal, as it is written

    return legible(_PART.sub(part, template))


def load_tokenizer(base: Path) -> Any:
    """A base's own tokenizer. Raises CheckpointError."""
    with _no_advice():
        from transformers import AutoTokenizer
        from transformers.utils import logging as remarks

    if not any((base / name).is_file() for name in FILES):
        raise CheckpointError("there is no tokenizer in it", file=base, hint=f"it lies in {FILES[0]}, beside the weights")
    level = remarks.get_verbosity()
    remarks.set_verbosity_error()  # its remarks on long texts and absent frameworks are not the user's concern
    try:
        tokenizer = AutoTokenizer.from_pretrained(base, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"the tokenizer cannot be read: {error}", file=base) from None
    finally:
        remarks.set_verbosity(level)
    if not tokenizer.is_fast:
        raise CheckpointError("the tokenizer does not say where its tokens stand in a text", file=base, hint="it needs a tokenizer.json")
    return tokenizer


@contextlib.contextmanager
def _no_advice() -> Iterator[None]:
    """Where transformers is imported: it would warn that PyTorch, which nothing here needs, is not there."""
    logger = logging.getLogger("transformers")
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before


class Prompt:
    """Renders and tokenizes the prompts of one task for one tokenizer. Raises CheckpointError where its chat template cannot be used.

    Where a chat template has no system role (Gemma's), the instructions open the first user turn; thinking is off where a template has it.
    A special token that stands in a text is taken apart by a space: a text cannot end its own turn.
    """

    def __init__(self, task: TaskSpec, tokenizer: Any):
        self._instructions, self._template, self._tokenizer = task.instructions.strip(), task.input, tokenizer
        self._special = _any_of(whole_tokens(tokenizer))
        self._system = bool(tokenizer.chat_template) and self._has_system_role()
        self.prefix = self._shared_prefix()
        """What the prompts begin with. A text can still begin so that its prompt does not: that is checked for each row."""

    def render(self, text: str) -> str:
        """The whole prompt as a string."""
        text = self._defused(text)
        if not self._tokenizer.chat_template:
            return f"{self._instructions}\n\n{text}\n\n" if self._instructions else f"{text}\n\n"
        if self._instructions and self._system:
            return self._chat([{"role": "system", "content": self._instructions}, {"role": "user", "content": text}])
        content = f"{self._instructions}\n\n{text}" if self._instructions else text
        return self._chat([{"role": "user", "content": content}])

    def ids(self, text: str, most: int | None = None) -> tuple[Ids, bool]:
        """A prompt's token ids, and whether its text lost its middle to stay within `most` of them.

        Where not even one token of the text fits, the ids are longer than `most`: that is for the caller to refuse.
        """
        text = self._defused(text)
        if most is not None and len(text) > most and len(text) > (reach := most * self._longest_token):
            head = round(reach * HEAD)  # no token is longer: what lies beyond cannot be kept, and need not be read
            return self._trimmed(text[:head] + text[len(text) - (reach - head) :], most), True
        ids = self._encode(text)
        if most is None or len(ids) <= most:
            return ids, False
        return self._trimmed(text, most), True

    def _trimmed(self, text: str, most: int) -> Ids:
        """The prompt of as much of a text as fits, at least one token."""
        found = self._tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        offsets = found["offset_mapping"]
        keep = max(1, min(most - len(self._encode(GAP)), len(offsets) - 1))
        while True:
            ids = self._encode(without_middle(text, offsets, keep))
            if len(ids) <= most or keep == 1:
                return ids
            keep = max(1, keep - (len(ids) - most))

    @cached_property
    def _longest_token(self) -> int:
        """Characters of a text that one token can stand for, at most."""
        return max(map(len, self._tokenizer.get_vocab()))

    def _defused(self, text: str) -> str:
        """A text that no tokenizer trips over, and whose special tokens are mere characters."""
        text = legible(text)
        return self._special.sub(lambda match: f"{match.group()[0]} {match.group()[1:]}", text) if self._special else text

    def _encode(self, text: str) -> Ids:
        rendered = self.render(text)
        bare = not self._tokenizer.chat_template
        return np.array(self._tokenizer(rendered, add_special_tokens=bare, verbose=False)["input_ids"], np.int32)

    def _chat(self, messages: list[dict[str, str]]) -> str:
        from jinja2 import TemplateError

        try:
            text: str = self._tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, enable_thinking=False)
        except TemplateError as error:
            what = " and ".join(message["role"] for message in messages)
            raise CheckpointError(f"the chat template refuses {what}: {error}", hint="choose another base") from None
        return text

    def _has_system_role(self) -> bool:
        try:
            return "\u241fsystem" in self._chat([{"role": "system", "content": "\u241fsystem"}, {"role": "user", "content": "x"}])
        except CheckpointError:
            return False

    def _shared_prefix(self) -> Ids:
        """What prompts begin with, whatever their texts do: records that begin in many ways, rendered and compared."""
        rows = [self._encode(fill(self._template, _Everywhere(word))) for word in BEGINNINGS]
        return rows[0][: common_length(rows)]


def whole_tokens(tokenizer: Any) -> set[str]:
    """Texts that a tokenizer takes for one token wherever they stand: turns, ends, tools. Not all are called special (Phi-3's `</s>`).

    Runs of blanks that are tokens of their own (Gemma's, Phi-2's) are plain text.
    """
    return {token for token in (*tokenizer.all_special_tokens, *map(str, tokenizer.added_tokens_decoder.values())) if token.strip()}


def _any_of(tokens: set[str]) -> re.Pattern[str] | None:
    """The longest first, so that none hides in another."""
    return re.compile("|".join(map(re.escape, sorted(tokens, key=lambda token: (-len(token), token))))) if tokens else None


def without_middle(text: str, offsets: Sequence[tuple[int, int]], keep: int) -> str:
    """So many tokens of a text, 70 % from its head, 30 % from its tail. `offsets`: where each of its tokens begins and ends."""
    if len(offsets) <= keep:
        return text
    head = round(keep * HEAD)
    tail = keep - head
    before = text[: offsets[head - 1][1]] if head else ""
    after = text[offsets[-tail][0] :] if tail else ""
    return before.rstrip() + GAP + after.lstrip()


class _Everywhere(dict[str, str]):
    """A record that has every column, of one value."""

    def __init__(self, word: str):
        super().__init__()
        self._word = word

    def __contains__(self, name: object) -> bool:
        return True

    def __getitem__(self, name: str) -> str:
        return self._word


def common_length(rows: list[Ids]) -> int:
    """Length of the longest common prefix."""
    shortest = min(map(len, rows))
    same = np.all(np.stack([row[:shortest] for row in rows]) == rows[0][:shortest], axis=0)
    return shortest if same.all() else int(np.argmin(same))
