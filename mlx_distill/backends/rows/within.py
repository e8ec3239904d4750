"""Which rows a base cannot answer as its original does: those longer than its rotary embedding knows (`models.rotary`)."""

from __future__ import annotations

from mlx_distill.errors import BackendError


def require_within(longest: int | None, tokens: int) -> None:
    """`tokens` of the longest row, its prefix among them; `longest` None: any. Raises BackendError."""
    if longest is not None and tokens > longest:
        message = f"a row of {tokens} tokens, its prefix among them; this base answers rows of up to {longest} as the original does"
        raise BackendError(message, hint=f"--set train.max_tokens={longest}")
