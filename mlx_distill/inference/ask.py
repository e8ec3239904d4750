"""What a row needs next, as the lane that answers many rows sees it: tokens forwarded behind what it has, and something read.

How a row is answered is a program, written as if the row were alone: a generator that yields what it asks and is sent what came of it.

    told = yield Ask(tokens, at=(-1,), allowed=(ids,))         told.logs[0]: log probabilities over ids, behind the last token
    told = yield Ask(tokens, grammar=grammar)                  told.token, told.log: one that the grammar allows

It knows tokens; nothing of sessions, fields or files.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass

from mlx_distill.backends.base import Logs
from mlx_distill.inference.grammar import Grammar
from mlx_distill.records import Ids

Aside = tuple[Sequence[int], Ids]
"""A branch that leaves the row where it stood before the tokens of an ask, and the tokens whose log probabilities are wanted at its end."""


@dataclass(frozen=True, slots=True)
class Ask:
    """`at`: positions in `tokens`, negative: from their end. `asides` may stand alone, or beside tokens that the row goes on with."""

    tokens: Sequence[int]
    at: Sequence[int] = ()
    allowed: Sequence[Ids] = ()
    """Of each position the tokens whose log probabilities are wanted."""
    asides: Sequence[Aside] = ()
    grammar: Grammar | None = None
    """One token that it allows is chosen behind the last of `tokens`."""
    seed: int = 0
    """Of that choice, where there is a temperature."""
    last: bool = False
    """Nothing is forwarded behind this."""


@dataclass(frozen=True, slots=True)
class Told:
    logs: Sequence[Logs]
    """Of each position, then of each aside."""
    token: int = -1
    log: float = 0.0


Program = Generator[Ask, Told, None]
