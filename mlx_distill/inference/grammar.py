"""The grammar of open fields (texts, lists): which tokens may come next, and which must (llguidance).

One grammar is compiled per field and copied for each row; the masks of many rows are computed in one call, in parallel. It knows JSON
schemas and tokens; nothing of models.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlx_distill.errors import BackendError
from mlx_distill.recipe.schema import FieldSpec
from mlx_distill.task.answer import open_schema


class Grammars:
    """Compiles the grammars of a task's open fields for one tokenizer. `vocabulary`: rows of the head, which may exceed the tokenizer's."""

    def __init__(self, tokenizer: Any, vocabulary: int):
        from llguidance import LLExecutor
        from llguidance.hf import from_tokenizer

        self._tokenizer = from_tokenizer(tokenizer, n_vocab=vocabulary)
        self._vocabulary = vocabulary
        self._executor = LLExecutor()

    def compile(self, spec: FieldSpec) -> Grammar:
        from llguidance import LLMatcher

        compiled = LLMatcher.grammar_from_json_schema(open_schema(spec), overrides={"whitespace_flexible": False})
        return Grammar(LLMatcher(self._tokenizer, compiled))

    def masks(self, grammars: Sequence[Grammar]) -> NDArray[np.uint32]:
        """Bit masks over the vocabulary, (rows, ceil(V / 32)), as a session's `choose` takes them."""
        from llguidance.numpy import allocate_token_bitmask, fill_next_token_bitmask_par

        masks = allocate_token_bitmask(len(grammars), self._vocabulary)
        fill_next_token_bitmask_par(self._executor, [(grammar.matcher, i) for i, grammar in enumerate(grammars)], masks)
        for grammar in grammars:
            grammar.check()
        bits: NDArray[np.uint32] = masks.view(np.uint32)
        return bits

    def text(self, tokens: Sequence[int]) -> str:
        """What tokens spell."""
        raw: bytes = self._tokenizer.decode_bytes(list(tokens))
        return raw.decode("utf-8", "replace")


class Grammar:
    """One row's position in one field's grammar. Errors are sticky flags in llguidance: every call is checked."""

    def __init__(self, matcher: Any):
        self.matcher = matcher
        self.check()

    def copy(self) -> Grammar:
        return Grammar(self.matcher.deep_copy())

    @property
    def over(self) -> bool:
        """Whether the value is complete and nothing can follow."""
        return bool(self.matcher.is_stopped())

    def forced(self) -> list[int]:
        """Tokens that must come next; they count as consumed."""
        tokens = list(self.matcher.compute_ff_tokens())
        for token in tokens:
            self.consume(token)
        return tokens

    def consume(self, token: int) -> None:
        if not self.matcher.consume_token(token):
            self.check()
            raise BackendError(f"the grammar refuses token {token}, which it had allowed")
        self.check()

    def check(self) -> None:
        """Raises BackendError."""
        if self.matcher.is_error():
            raise BackendError(f"the grammar failed: {self.matcher.get_error()}")
