"""The least work that a gradient takes: floating-point operations of an effective batch, counted by hand.

One multiplication and its addition are 2 FLOPs. A token through the layers' linear maps costs 2 · layers · weights; through the adapters
2 · layers · r (inputs + outputs) per adapted map; a token that sees c tokens (itself included) costs 2 · c · heads · width for its scores
and as much for its values; logits of one token cost 2 · V · hidden.

Backward, with frozen weights: a linear map and the head once more their forward (the gradient of their input alone), adapters and attention
twice more (both factors of each product have a gradient). So, with n tokens, the sum C of tokens seen, and k tokens with logits,

    FLOPs = 2 · (2 · layers · weights · n + 2 · V · hidden · k) + 3 · (2 · layers · adapter weights · n + 4 · layers · heads · width · C)

Ours at its limit: each prefix token once, each article and answer token once behind the prefix, logits once per answer token.
A rival: every row whole, prefix included, logits of every token. Neither computes padding; embeddings, norms, activations, softmax and the
optimizer are left out on both sides. The limit is the quotient of the two. Computing less in the last layer, of which only answers are
read, is not counted: it lets a trainer pass the limit by up to one layer's share, a sixth here and a twenty-eighth in Qwen2.5-1.5B.

How much attention weighs depends on tokens over hidden size. It is what a prefix saves least of, so a small model behind the tokens of a
large one has a lower limit than the large one: both are given, with attention and without.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from bench.model import HEAD, Sizes
from bench.shapes import Row


@dataclass(frozen=True, slots=True)
class Tokens:
    """What is computed in a batch."""

    forwarded: int
    seen: int
    """Sum over the forwarded tokens of the tokens each attends to, itself included."""
    logits: int
    """Tokens whose logits are computed."""

    def __add__(self, other: Tokens) -> Tokens:
        return Tokens(self.forwarded + other.forwarded, self.seen + other.seen, self.logits + other.logits)


def text(length: int, behind: int = 0, logits: int = 0) -> Tokens:
    """A text of that many tokens, causal, after `behind` others that are not forwarded with it.

    >>> text(3, behind=10)
    Tokens(forwarded=3, seen=36, logits=0)
    """
    return Tokens(length, length * behind + length * (length + 1) // 2, logits)


def ours(prefix: int, rows: Iterable[Row], batches: int = 1) -> Tokens:
    """`rows` of `batches` effective batches: the prefix once in each."""
    each = [text(len(row), behind=prefix, logits=len(row.answer)) for row in rows]
    return sum(each + [text(prefix)] * batches, Tokens(0, 0, 0))


def whole_rows(prefix: int, rows: Iterable[Row]) -> Tokens:
    return sum((text(prefix + len(row), logits=prefix + len(row)) for row in rows), Tokens(0, 0, 0))


def flops(sizes: Sizes, tokens: Tokens, *, attention: bool = True) -> int:
    """Forward and backward of what is computed; without attention, what the weights alone take."""
    linear, head, between = parts(sizes, tokens)
    adapters = 2 * sizes.layers * sizes.adapter_weights * tokens.forwarded
    return 2 * (linear + head) + 3 * (adapters + (between if attention else 0))


def parts(sizes: Sizes, tokens: Tokens) -> tuple[int, int, int]:
    """Of one forward pass without adapters: linear layers, head, attention."""
    linear = 2 * sizes.layers * sizes.layer_weights * tokens.forwarded
    return linear, 2 * sizes.vocabulary * sizes.hidden * tokens.logits, 4 * sizes.layers * sizes.heads * HEAD * tokens.seen
