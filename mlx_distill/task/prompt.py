"""From a record to the text that the student reads: the task's template, and the tokenizer's own chat template around it.

It renders strings and token ids. It knows nothing of answers, labels or files.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mlx_distill.errors import CheckpointError
from mlx_distill.recipe.schema import TaskSpec
from mlx_distill.records import Ids
from mlx_distill.task.fields import ABSENT, follow

_PART = re.compile(r"\{\{|\}\}|\{([^{}]*)\}")
HEAD = 0.7
"""Of what is kept of a text that is too long: so much from its beginning, the rest from its end."""
GAP = " … "


class MissingColumn(ValueError):
    """The template names a column that the record has not."""


def columns(template: str) -> list[str]:
    """The columns that a template names, in order."""
    return [match.group(1) for match in _PART.finditer(template) if match.group(1) is not None]


def fill(template: str, record: Mapping[str, Any]) -> str:
    """{column} replaced by the record's value; {a.b} reaches into nested records; {{ and }} are braces; null is empty."""

    def part(match: re.Match[str]) -> str:
        if match.group(1) is None:
            return match.group(0)[0]
        value = follow(record, match.group(1))
        if value is ABSENT:
            raise MissingColumn(f"no column {match.group(1)!r}; there is {', '.join(map(str, record)) or 'none'}")
        return "" if value is None else value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)

    return _PART.sub(part, template)


def load_tokenizer(base: Path) -> Any:
    """A base's own tokenizer. Raises CheckpointError."""
    from transformers import AutoTokenizer
    from transformers.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity_error()  # its remarks on long texts and absent frameworks are not the user's concern
    try:
        return AutoTokenizer.from_pretrained(base, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"the tokenizer cannot be read: {error}", file=base) from None
    finally:
        logging.set_verbosity(level)


class Prompt:
    """Renders and tokenizes the prompts of one task for one tokenizer.

    Where a chat template has no system role (Gemma's), the instructions open the first user turn; thinking is off where a template has it.
    A special token that stands in a text is taken apart by a space: a text cannot end its own turn.
    """

    def __init__(self, task: TaskSpec, tokenizer: Any):
        self._instructions, self._template, self._tokenizer = task.instructions.strip(), task.input, tokenizer
        specials = sorted(filter(None, {*tokenizer.all_special_tokens, *map(str, tokenizer.added_tokens_decoder.values())}), key=len)
        self._special = re.compile("|".join(re.escape(token) for token in reversed(specials))) if specials else None
        self._system = bool(tokenizer.chat_template) and self._has_system_role()
        self.prefix = self._shared_prefix()

    def render(self, text: str) -> str:
        """The whole prompt as a string."""
        if self._special is not None:
            text = self._special.sub(lambda match: f"{match.group(0)[0]} {match.group(0)[1:]}", text)
        if not self._tokenizer.chat_template:
            return f"{self._instructions}\n\n{text}\n\n" if self._instructions else f"{text}\n\n"
        if self._instructions and self._system:
            return self._chat([{"role": "system", "content": self._instructions}, {"role": "user", "content": text}])
        content = f"{self._instructions}\n\n{text}" if self._instructions else text
        return self._chat([{"role": "user", "content": content}])

    def ids(self, text: str, most: int | None = None) -> tuple[Ids, bool]:
        """A prompt's token ids, and whether its text lost its middle to stay within `most` of them.

        Where even an empty text does not fit, the ids are longer than `most`: that is for the caller to refuse.
        """
        ids = self._encode(text)
        if most is None or len(ids) <= most:
            return ids, False
        keep = most - len(self._encode(""))
        while len(ids) > most and keep > 0:
            ids = self._encode(self._without_middle(text, keep))
            keep -= max(1, len(ids) - most)
        return (ids, True) if len(ids) <= most else (self._encode(""), True)

    def _without_middle(self, text: str, tokens: int) -> str:
        """About so many tokens of a text: 70 % from its head, 30 % from its tail."""
        offsets = self._tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
        head = int(tokens * HEAD)
        tail = tokens - head
        if len(offsets) <= tokens:
            return text
        return text[: offsets[head - 1][1] if head else 0].rstrip() + GAP + text[offsets[-tail][0] if tail else len(text) :].lstrip()

    def _encode(self, text: str) -> Ids:
        rendered = self.render(text)
        bare = not self._tokenizer.chat_template
        return np.array(self._tokenizer(rendered, add_special_tokens=bare)["input_ids"], np.int32)

    def _chat(self, messages: list[dict[str, str]]) -> str:
        text: str = self._tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, enable_thinking=False)
        return text

    def _has_system_role(self) -> bool:
        from jinja2 import TemplateError

        try:
            return "\u241fsystem" in self._chat([{"role": "system", "content": "\u241fsystem"}, {"role": "user", "content": "x"}])
        except TemplateError:
            return False

    def _shared_prefix(self) -> Ids:
        """What all prompts begin with: two records without a common letter, rendered and compared."""
        first, second = (self._encode(fill(self._template, _Everywhere(word))) for word in ("Aa1", "zZ9"))
        return first[: common_length([first, second])]


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
