"""The layers of the families' models, forwarded: packed rows, a shared prefix, and nothing that nobody reads.

transformers' modules hold the weights (and the adapters put on them); the computation is written here, so that

- rows lie one after another, (n, hidden): no linear layer sees padding;
- attention goes over prefix and rows apart (`attention`);
- the last layer computes queries, attention and feed-forward at the positions that are read alone, and for a prefix at none.

Those who learn use autograd, those who answer (`session`) keep keys and values. It knows no losses. `n` tokens, `k` read positions, `p`
tokens of the prefix.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property, partial
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from mlx_distill.backends.rows.batch import Places
from mlx_distill.backends.rows.within import require_within
from mlx_distill.backends.torch.attention import Layout, attended
from mlx_distill.backends.torch.elementwise import geglu, rms_norm, swiglu, turned
from mlx_distill.backends.torch.model import Layer, Model
from mlx_distill.backends.torch.upload import uploaded
from mlx_distill.records import Ids

KeysValues = list[Tensor]
"""Keys and values of each layer in turn, each (kv heads, p, width)."""
Recompute = Callable[[], Callable[[], None]]
"""Called when a layer is forwarded: what to call before it is forwarded again, so that it drops what it dropped."""


class Rows(Protocol):
    """What is forwarded together: tokens of many rows one after another, and how they attend."""

    tokens: Tensor
    """(n,)"""
    positions: Tensor
    """(n,) of each token in its text, the prefix counted."""

    @property
    def read(self) -> Tensor:
        """(k,) into the tokens: where somebody reads. Maybe nowhere."""
        ...

    def attended(
        self, i: int, layer: Layer, queries: Tensor, keys: Tensor, values: Tensor, prefix: Sequence[Tensor], *, read: bool
    ) -> Tensor:
        """Attention of layer i, (n, heads, width); with `read`, the queries are those of the read positions alone, (k, heads, width)."""
        ...


class Packed:
    """Rows one after another behind one prefix, and where they are read."""

    def __init__(self, model: Model, places: Places):
        require_within(model.longest, int(places.positions.max()) + 1)
        self._places, self._device = places, model.device
        self._layouts: dict[bool, Layout] = {}
        self.tokens, self.positions = uploaded([places.tokens, places.positions], model.device)

    @cached_property
    def read(self) -> Tensor:
        """(k,) into the tokens, ascending within each row."""
        return uploaded([self._places.read()], self._device)[0]

    def attended(
        self, i: int, layer: Layer, queries: Tensor, keys: Tensor, values: Tensor, prefix: Sequence[Tensor], *, read: bool
    ) -> Tensor:
        if read not in self._layouts:
            self._layouts[read] = Layout(self._places, read=read, device=self._device)
        return attended(queries, keys, values, prefix, self._layouts[read], layer)


def hidden_states(
    model: Model, rows: Rows, prefix: Sequence[Tensor], kept: list[Tensor] | None = None, *, recompute: Recompute | None = None
) -> Tensor:
    """(k, hidden), after the last norm, at the positions that are read. `kept` gets each layer's keys and values, (n, kv heads, width).

    `recompute`: layers keep their inputs alone, and are forwarded again in the backward pass.
    """
    x, turns = _embedded(model, rows.tokens), model.turns(rows.positions)
    last = len(model.layers) - 1
    for i, layer in enumerate(model.layers):
        read = rows.read if i == last else None
        unread = read is not None and not read.numel()  # pieces of prompts alone: what they leave behind is all that is wanted
        compute = partial(_asked, layer) if unread else partial(_block, i, layer, rows, read, model.kind)
        x, keys, values = _forwarded(compute, recompute, x, turns, *prefix[2 * i : 2 * i + 2])
        if kept is not None:
            kept += [keys, values]
    return norm(model.norm, x)


def prefix_states(model: Model, prefix: Ids, *, recompute: Recompute | None = None) -> KeysValues:
    """The keys and values of a prefix (p,) forwarded alone. Of the last layer nothing else is computed."""
    rows = Packed(model, Places([prefix], None, 0))
    x, turns = _embedded(model, rows.tokens), model.turns(rows.positions)
    out: KeysValues = []
    last = len(model.layers) - 1
    for i, layer in enumerate(model.layers):
        compute = partial(_block, i, layer, rows, None, model.kind) if i < last else partial(_asked, layer)
        x, keys, values = _forwarded(compute, recompute, x, turns)
        out += [keys.transpose(0, 1), values.transpose(0, 1)]
    return out


def _forwarded(compute: Callable[..., tuple[Tensor, ...]], recompute: Recompute | None, *inputs: Any) -> tuple[Tensor, ...]:
    if recompute is None or not torch.is_grad_enabled():
        return compute(*inputs)
    again, first = recompute(), True

    def drawn(*inputs: Any) -> tuple[Tensor, ...]:
        nonlocal first
        if not first:
            again()
        first = False
        return compute(*inputs)

    out: tuple[Tensor, ...] = checkpoint(drawn, *inputs, use_reentrant=False, preserve_rng_state=False)
    return out


def _block(
    i: int, layer: Layer, rows: Rows, read: Tensor | None, kind: str, x: Tensor, turns: tuple[Tensor, Tensor], *prefix: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Layer i. `read`: the only positions to go on with; None: all."""
    module = layer.module
    queries, keys, values = _asking(layer, read, norm(module.input_layernorm, x), turns)
    mixed = rows.attended(i, layer, queries, keys, values, prefix, read=read is not None)
    mixed = module.self_attn.o_proj(mixed.flatten(1))
    x = _picked(x, read)
    if kind == "gemma2":  # norms before and after each half
        x = x + norm(module.post_attention_layernorm, mixed)
        inner = _feed_forward(module.mlp, norm(module.pre_feedforward_layernorm, x), geglu)
        return x + norm(module.post_feedforward_layernorm, inner), keys, values
    x = x + mixed
    return x + _feed_forward(module.mlp, norm(module.post_attention_layernorm, x), swiglu), keys, values


def _asked(layer: Layer, x: Tensor, turns: tuple[Tensor, Tensor], *prefix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of a layer only what later queries ask: its own are never computed, and what it is given goes on as it is."""
    keys, values = _asking(layer, x.new_empty(0, dtype=torch.int64), norm(layer.module.input_layernorm, x), turns)[1:]
    return x, keys, values


def _asking(layer: Layer, read: Tensor | None, x: Tensor, turns: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Queries (k, heads, width), keys and values (n, kv heads, width), turned by their positions."""
    attention, width = layer.module.self_attn, layer.width
    if hasattr(attention, "qkv_proj"):
        sizes = [layer.heads * width, layer.kv_heads * width, layer.kv_heads * width]
        queries, keys, values = attention.qkv_proj(x).split(sizes, dim=-1)
        queries = _picked(queries, read)
    else:
        keys, values = attention.k_proj(x), attention.v_proj(x)
        queries = attention.q_proj(_picked(x, read))
    queries, keys, values = (part.unflatten(-1, (-1, width)) for part in (queries, keys, values))
    if hasattr(attention, "q_norm"):
        queries, keys = norm(attention.q_norm, queries), norm(attention.k_norm, keys)
    cos, sin = turns
    return turned(queries, _picked(cos, read), _picked(sin, read)), turned(keys, cos, sin), values


def _picked(x: Tensor, read: Tensor | None) -> Tensor:
    return x if read is None else x[read]


def _feed_forward(mlp: Any, x: Tensor, gate: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    if hasattr(mlp, "gate_up_proj"):
        first, up = mlp.gate_up_proj(x).chunk(2, dim=-1)
    else:
        first, up = mlp.gate_proj(x), mlp.up_proj(x)
    out: Tensor = mlp.down_proj(gate(first, up))
    return out


def norm(module: Any, x: Tensor) -> Tensor:
    """RMS norm. transformers' Gemma keeps the weight less 1, and another name for eps."""
    if hasattr(module, "eps"):
        return rms_norm(x, module.weight.float() + 1, module.eps)
    return rms_norm(x, module.weight, module.variance_epsilon)


def _embedded(model: Model, tokens: Tensor) -> Tensor:
    x: Tensor = model.embedding(tokens)
    return x * model.config["hidden_size"] ** 0.5 if model.kind == "gemma2" else x
