"""The layers of the families' models, forwarded: packed rows, a shared prefix, and nothing that nobody reads.

mlx-lm's modules hold the weights (and the adapters put on them); the computation is written here, on a tape, so that

- rows lie one after another, (n, hidden): no linear layer sees padding;
- attention goes over prefix and rows in tiles (backends.mlx.attention);
- the last layer computes queries, attention and feed-forward at the positions that are read alone, and for a prefix at none.

Those who learn bring a tape with variables; those who answer (`session`) one without, rows that go on behind what they have (`mixed`), and
keep keys and values. It knows no losses. `n` tokens, `k` read positions, `p` tokens of the prefix.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property, partial
from typing import Any, Protocol

import mlx.core as mx
import mlx.nn as nn

from mlx_distill.backends.mlx.attention import Layout
from mlx_distill.backends.mlx.elementwise import GEGLU, SWIGLU, Gate
from mlx_distill.backends.mlx.tape import Tape, Var
from mlx_distill.backends.rows.batch import Places
from mlx_distill.backends.rows.within import require_within
from mlx_distill.records import Ids

KeysValues = list[mx.array]
"""Keys and values of each layer in turn, each (kv heads, p, width)."""


class Rows(Protocol):
    """What is forwarded together: tokens of many rows one after another, and how they attend."""

    tokens: mx.array
    """(n,)"""
    positions: mx.array
    """(n,) of each token in its text, the prefix counted."""

    @property
    def read(self) -> mx.array:
        """(k,) into the tokens: where somebody reads. Maybe nowhere."""
        ...

    def attended(self, tape: Tape, i: int, layer: Any, queries: Var, keys: Var, values: Var, prefix: Sequence[Var], *, read: bool) -> Var:
        """Attention of layer i, (n, heads, width); with `read`, the queries are those of the read positions alone, (k, heads, width)."""
        ...


class Packed:
    """Rows one after another behind one prefix, and where they are read."""

    def __init__(self, model: nn.Module, rows: Sequence[Ids], read_at: Sequence[Ids] | None, prefix: int):
        """`read_at` None: keys and values alone are wanted."""
        self._places = Places(rows, read_at, prefix)
        require_within(model.longest, prefix + max(self._places.lengths))
        self._layouts: dict[tuple[bool, int | None], Layout] = {}
        self.tokens, self.positions = mx.array(self._places.tokens), mx.array(self._places.positions)

    @cached_property
    def read(self) -> mx.array:
        """(k,) into the tokens, ascending within each row."""
        return mx.array(self._places.read())

    def tiles(self, layer: Any, *, read: bool) -> Layout:
        """Of attention in this layer, where every token asks, or the read ones alone."""
        window: int | None = layer.window
        if (read, window) not in self._layouts:
            heads = {"heads": layer.self_attn.n_heads, "kv_heads": layer.self_attn.n_kv_heads}
            places, asked = self._places, self._places.read_at if read else None
            self._layouts[read, window] = Layout(places.lengths, asked, prefix=places.prefix, window=window, **heads)
        return self._layouts[read, window]

    def attended(self, tape: Tape, i: int, layer: Any, queries: Var, keys: Var, values: Var, prefix: Sequence[Var], *, read: bool) -> Var:
        attention = layer.self_attn
        return tape.attended(queries, keys, values, prefix, self.tiles(layer, read=read), scale=attention.scale, cap=cap_of(attention))


def cap_of(attention: Any) -> float | None:
    """What bends the scores of this attention (Gemma 2)."""
    cap: float | None = getattr(attention, "attn_logit_softcapping", None)
    return cap


def hidden_states(tape: Tape, model: nn.Module, rows: Rows, prefix: Sequence[Var], kept: list[mx.array] | None = None) -> Var:
    """(k, hidden), after the last norm, at the positions that are read. `kept` gets each layer's keys and values, (n, kv heads, width)."""
    x = _embedded(tape, model, rows.tokens)
    last = len(model.layers) - 1
    for i, layer in enumerate(model.layers):
        read = rows.read if i == last else None
        unread = read is not None and not read.size  # pieces of prompts alone: what they leave behind is all that is wanted
        compute = partial(_asked, layer, rows) if unread else partial(_block, i, layer, rows, read)
        x, keys, values = tape.layer(i, layer, compute, [x, *prefix[2 * i : 2 * i + 2]])
        if kept is not None:
            kept += [keys.value, values.value]
    return tape.norm(model.model.norm, x)


def prefix_states(tape: Tape, model: nn.Module, prefix: Ids) -> list[Var]:
    """The keys and values of a prefix (p,) forwarded alone, as `KeysValues`. Of the last layer nothing else is computed."""
    packed = Packed(model, [prefix], None, 0)
    x = _embedded(tape, model, packed.tokens)
    out: list[Var] = []
    last = len(model.layers) - 1
    for i, layer in enumerate(model.layers):
        x, keys, values = tape.layer(i, layer, partial(_block, i, layer, packed, None) if i < last else partial(_asked, layer, packed), [x])
        out += [tape.moved(_heads_first, keys), tape.moved(_heads_first, values)]
    return out


def prefix_keys_values(model: nn.Module, prefix: Ids) -> KeysValues:
    """For those who learn nothing."""
    return [var.value for var in prefix_states(Tape(), model, prefix)]


def _block(i: int, layer: Any, rows: Rows, read: mx.array | None, tape: Tape, x: Var, *prefix: Var) -> tuple[Var, Var, Var]:
    """Layer i. `read`: the only positions to go on with; None: all."""
    attention = layer.self_attn
    queries, keys, values = _asking(attention, rows, read, tape, tape.norm(layer.input_layernorm, x))
    mixed = rows.attended(tape, i, layer, queries, keys, values, prefix, read=read is not None)
    mixed = tape.linear(attention.o_proj, tape.moved(lambda x: x.reshape(x.shape[0], -1), mixed))
    x = _picked(tape, x, read)
    if "pre_feedforward_layernorm" in layer:  # Gemma 2: norms before and after each half
        x = tape.added(x, tape.norm(layer.post_attention_layernorm, mixed))
        inner = _feed_forward(layer.mlp, tape, tape.norm(layer.pre_feedforward_layernorm, x), GEGLU)
        return tape.added(x, tape.norm(layer.post_feedforward_layernorm, inner)), keys, values
    x = tape.added(x, mixed)
    return tape.added(x, _feed_forward(layer.mlp, tape, tape.norm(layer.post_attention_layernorm, x), SWIGLU)), keys, values


def _asked(layer: Any, rows: Rows, tape: Tape, x: Var, *prefix: Var) -> tuple[Var, Var, Var]:
    """Of a layer only what later queries ask: its own are never computed, and what it is given goes on as it is."""
    keys, values = _asking(layer.self_attn, rows, None, tape, tape.norm(layer.input_layernorm, x))[1:]
    return x, keys, values


def _asking(attention: Any, rows: Rows, read: mx.array | None, tape: Tape, x: Var) -> tuple[Var, Var, Var]:
    """Queries (k, heads, width), keys and values (n, kv heads, width), turned by their positions."""
    if "qkv_proj" in attention:
        width = attention.head_dim
        cuts = [attention.n_heads * width, (attention.n_heads + attention.n_kv_heads) * width]
        queries, keys, values = tape.split(tape.linear(attention.qkv_proj, x), cuts)
        queries = _picked(tape, queries, read)
    else:
        keys, values = tape.linear(attention.k_proj, x), tape.linear(attention.v_proj, x)
        queries = tape.linear(attention.q_proj, _picked(tape, x, read))
    queries, keys, values = (
        tape.moved(lambda x, heads=heads: x.reshape(x.shape[0], heads, -1), part)  # type: ignore[misc]
        for part, heads in ((queries, attention.n_heads), (keys, attention.n_kv_heads), (values, attention.n_kv_heads))
    )
    if "q_norm" in attention:
        queries, keys = tape.norm(attention.q_norm, queries), tape.norm(attention.k_norm, keys)
    at = rows.positions
    return _turned(tape, attention.rope, queries, at if read is None else at[read]), _turned(tape, attention.rope, keys, at), values


def _turned(tape: Tape, rope: Any, x: Var, positions: mx.array) -> Var:
    """Rotary embedding of (n, heads, width): each token is a row of its own, at an offset of its own."""
    return tape.moved(lambda x: rope(x[:, :, None], offset=positions)[:, :, 0], x)


def _picked(tape: Tape, x: Var, read: mx.array | None) -> Var:
    return x if read is None else tape.moved(lambda x: x[read], x)


def _feed_forward(mlp: Any, tape: Tape, x: Var, gate: Gate) -> Var:
    if "gate_up_proj" in mlp:
        both = tape.linear(mlp.gate_up_proj, x)
        first, up = tape.split(both, [both.shape[-1] // 2])
    else:
        first, up = tape.linear(mlp.gate_proj, x), tape.linear(mlp.up_proj, x)
    return tape.linear(mlp.down_proj, tape.gated(gate, first, up))


def _embedded(tape: Tape, model: nn.Module, tokens: mx.array) -> Var:
    x = tape.embedded(model.model.embed_tokens, tokens)
    return tape.moved(lambda x: x * model.args.hidden_size**0.5, x) if model.model_type == "gemma2" else x


def _heads_first(x: mx.array) -> mx.array:
    return x.transpose(1, 0, 2)
