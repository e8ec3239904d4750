"""The layers of the families' models, forwarded for learning: packed rows, a shared prefix, and nothing that nobody reads.

mlx-lm's modules hold the weights (and the adapters put on them); the computation is written here, so that

- rows lie one after another, (n, hidden): no linear layer sees padding;
- attention goes over prefix and rows in tiles (backends.mlx.attention);
- the last layer computes queries, attention and feed-forward at the positions that are read alone, and for a prefix at none.

It knows no losses and no gradients. `n` tokens, `k` read positions, `p` tokens of the prefix.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property, partial
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from mlx_distill.backends.mlx.attention import Layout, attend
from mlx_distill.backends.mlx.elementwise import geglu, rms_norm, swiglu
from mlx_distill.records import Ids

KeysValues = list[mx.array]
"""Keys and values of each layer in turn, each (kv heads, p, width)."""
Block = Callable[..., Sequence[mx.array]]
"""(x, and the prefix's keys and values where there is one) to (x, keys, values) of the rows' own tokens."""
Through = Callable[[int, Block, Sequence[mx.array]], Sequence[mx.array]]
"""How layer i is called: at once, or so that its activations are computed again in the backward pass."""


class Packed:
    """Rows one after another, and where they are read."""

    def __init__(self, model: nn.Module, rows: Sequence[Ids], read_at: Sequence[Ids] | None, prefix: int):
        """`read_at` None: keys and values alone are wanted."""
        self._lengths, self._read_at, self._prefix = [len(row) for row in rows], read_at, prefix
        self._window = getattr(model.model, "sliding_window", None)
        self._layouts: dict[tuple[bool, int | None], Layout] = {}
        self.tokens = mx.array(np.concatenate(rows))
        """(n,)"""
        self.positions = mx.array(np.concatenate([prefix + np.arange(n, dtype=np.int32) for n in self._lengths]))
        """(n,) of each token in its text, the prefix counted."""

    @cached_property
    def read(self) -> mx.array:
        """(k,) into the tokens, ascending."""
        assert self._read_at is not None
        starts = np.concatenate([[0], np.cumsum(self._lengths)])[:-1]
        return mx.array(np.concatenate([start + at for start, at in zip(starts, self._read_at, strict=True)]).astype(np.int32))

    def tiles(self, layer: Any, *, read: bool) -> Layout:
        """Of attention in this layer, where every token asks, or the read ones alone."""
        window = self._window if getattr(layer, "use_sliding", False) else None
        if (read, window) not in self._layouts:
            heads = {"heads": layer.self_attn.n_heads, "kv_heads": layer.self_attn.n_kv_heads}
            asked = self._read_at if read else None
            self._layouts[read, window] = Layout(self._lengths, asked, prefix=self._prefix, window=window, **heads)
        return self._layouts[read, window]


def directly(_: int, block: Block, arrays: Sequence[mx.array]) -> Sequence[mx.array]:
    return block(*arrays)


def hidden_states(model: nn.Module, packed: Packed, prefix: KeysValues | None, through: Through = directly) -> mx.array:
    """(k, hidden), after the last norm, at the positions that are read."""
    x = _embedded(model, packed.tokens)
    last = len(model.layers) - 1
    for i, layer in enumerate(model.layers):
        shared = prefix[2 * i : 2 * i + 2] if prefix else []
        block = partial(_block, layer, packed.positions, packed.tiles(layer, read=i == last), packed.read if i == last else None)
        x, _, _ = through(i, block, [x, *shared])
    return _normed(model.model.norm, x)


def prefix_keys_values(model: nn.Module, prefix: Ids, through: Through = directly) -> KeysValues:
    """Forward a prefix alone. Of the last layer nothing but keys and values is computed."""
    packed = Packed(model, [prefix], None, 0)
    x = _embedded(model, packed.tokens)
    out: KeysValues = []
    last = len(model.layers) - 1
    for i, layer in enumerate(model.layers):
        whole = partial(_block, layer, packed.positions, packed.tiles(layer, read=False), None)
        x, keys, values = through(i, whole if i < last else partial(_asked, layer, packed.positions), [x])
        out += [keys.transpose(1, 0, 2), values.transpose(1, 0, 2)]
    return out


def _asked(layer: Any, positions: mx.array, x: mx.array) -> tuple[mx.array, mx.array, mx.array]:
    """Of a layer only what later queries ask: the queries of its own are never evaluated."""
    _, keys, values = _heads(layer.self_attn, _normed(layer.input_layernorm, x), positions, None)
    return x, keys, values


def _block(
    layer: Any, positions: mx.array, layout: Layout, read: mx.array | None, x: mx.array, *shared: mx.array
) -> tuple[mx.array, mx.array, mx.array]:
    """One layer. `read`: the only positions to go on with; None: all."""
    attention = layer.self_attn
    queries, keys, values = _heads(attention, _normed(layer.input_layernorm, x), positions, read)
    prefix = (shared[0], shared[1]) if shared else None
    cap = getattr(attention, "attn_logit_softcapping", None)
    mixed = attend(queries, keys, values, prefix, layout, scale=attention.scale, cap=cap)
    mixed = attention.o_proj(mixed.reshape(mixed.shape[0], -1))
    if read is not None:
        x = x[read]
    if "pre_feedforward_layernorm" in layer:  # Gemma 2: norms before and after each half
        x = x + _normed(layer.post_attention_layernorm, mixed)
        inner = _feed_forward(layer.mlp, _normed(layer.pre_feedforward_layernorm, x), geglu)
        return x + _normed(layer.post_feedforward_layernorm, inner), keys, values
    x = x + mixed
    return x + _feed_forward(layer.mlp, _normed(layer.post_attention_layernorm, x), swiglu), keys, values


def _heads(attention: Any, x: mx.array, positions: mx.array, read: mx.array | None) -> tuple[mx.array, mx.array, mx.array]:
    """Queries (k, heads, width), keys and values (n, kv heads, width), turned by their positions."""
    if "qkv_proj" in attention:
        width = attention.head_dim
        cuts = [attention.n_heads * width, (attention.n_heads + attention.n_kv_heads) * width]
        queries, keys, values = mx.split(attention.qkv_proj(x), cuts, axis=-1)
        queries = queries if read is None else queries[read]
    else:
        keys, values = attention.k_proj(x), attention.v_proj(x)
        queries = attention.q_proj(x if read is None else x[read])
    queries, keys, values = (
        part.reshape(part.shape[0], heads, -1)
        for part, heads in ((queries, attention.n_heads), (keys, attention.n_kv_heads), (values, attention.n_kv_heads))
    )
    if "q_norm" in attention:
        queries, keys = _normed(attention.q_norm, queries), _normed(attention.k_norm, keys)
    asked = positions if read is None else positions[read]
    return _turned(attention.rope, queries, asked), _turned(attention.rope, keys, positions), values


def _turned(rope: Any, x: mx.array, positions: mx.array) -> mx.array:
    """Rotary embedding of (n, heads, width): each token is a row of its own, at an offset of its own."""
    out: mx.array = rope(x[:, :, None], offset=positions)
    return out[:, :, 0]


def _feed_forward(mlp: Any, x: mx.array, gated: Callable[[mx.array, mx.array], mx.array]) -> mx.array:
    if "gate_up_proj" in mlp:
        gate, up = mx.split(mlp.gate_up_proj(x), 2, axis=-1)
    else:
        gate, up = mlp.gate_proj(x), mlp.up_proj(x)
    out: mx.array = mlp.down_proj(gated(gate, up))
    return out


def _normed(norm: Any, x: mx.array) -> mx.array:
    """mlx-lm's Gemma keeps the weight less 1, in a class of its own."""
    return rms_norm(x, norm.weight if isinstance(norm, nn.RMSNorm) else 1.0 + norm.weight, norm.eps)


def _embedded(model: nn.Module, tokens: mx.array) -> mx.array:
    x: mx.array = model.model.embed_tokens(tokens)
    return x * model.args.hidden_size**0.5 if model.model_type == "gemma2" else x
