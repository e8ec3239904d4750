"""The shared prefix in training: forwarded once, its gradient exact.

Rows of a group share a prefix p. A row's loss depends on the adapter W directly, through the row's own tokens, and through the keys and
values kv(W) of the prefix:

    L(W) = sum over micro-batches m of  l_m(W, kv(W))
    dL/dW = sum_m  dl_m/dW  +  (sum_m dl_m/dkv) · dkv/dW

The second term is linear in the cotangents dl_m/dkv, so they are summed over the micro-batches and pulled back through the prefix once.
In exact arithmetic this is the gradient of forwarding the prefix in each row. Attention is causal, so nothing of a row reaches the prefix.

The caches below never write in place, so that everything stays differentiable. They speak mlx-lm's cache protocol:
`offset` (position of the next token), `update_and_fetch`, `make_mask`.
"""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import mlx.nn as nn

from mlx_distill.records import Ids

KeysValues = list[mx.array]
"""Keys and values of each layer in turn, each (1, heads, prefix, width)."""


class Recorder:
    """Takes down the keys and values of a layer."""

    offset = 0

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        self.keys, self.values = keys, values
        return keys, values

    def make_mask(self, n: int, return_array: bool = False, window_size: int | None = None) -> mx.array | str | None:
        return causal_mask(n, 0, return_array=return_array, window_size=window_size)


class Behind:
    """Puts a prefix's keys and values before those of each of B rows."""

    def __init__(self, keys: mx.array, values: mx.array, rows: int):
        self._keys, self._values, self._rows = keys, values, rows
        self.offset = keys.shape[2]

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        return self._join(self._keys, keys), self._join(self._values, values)

    def make_mask(self, n: int, return_array: bool = False, window_size: int | None = None) -> mx.array | str | None:
        return causal_mask(n, self.offset, return_array=return_array, window_size=window_size)

    def _join(self, prefix: mx.array, own: mx.array) -> mx.array:
        return mx.concatenate([mx.broadcast_to(prefix, (self._rows, *prefix.shape[1:])), own], axis=2)


def causal_mask(n: int, offset: int, *, return_array: bool, window_size: int | None) -> mx.array | str | None:
    """Query i, at position offset + i, sees the keys 0 ... offset + i, the last `window_size` of them where there is a window.

    Padding on the right needs no mask: it comes after everything that is read.
    """
    if not return_array and (window_size is None or offset + n <= window_size):
        return None if n == 1 else "causal"
    queries, keys = mx.arange(offset, offset + n)[:, None], mx.arange(offset + n)[None]
    seen = queries >= keys
    return seen if window_size is None else seen & (queries < keys + window_size)


def prefix_keys_values(model: nn.Module, prefix: Ids) -> KeysValues:
    """Forward a prefix (p,) alone."""
    recorders = [Recorder() for _ in model.layers]
    model.model(mx.array(prefix)[None], recorders)
    return [array for recorder in recorders for array in (recorder.keys, recorder.values)]


def behind(model: nn.Module, keys_values: KeysValues | None, rows: int) -> list[Any] | None:
    """A cache for each layer that puts the prefix before each of `rows` rows; None without a prefix."""
    if keys_values is None:
        return None
    pairs = zip(keys_values[::2], keys_values[1::2], strict=True)
    return [Behind(keys, values, rows) for keys, values in pairs]
