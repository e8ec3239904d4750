"""Keys and values of rows that are being answered, as MLX arrays: a list, those of each layer in turn."""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx

from mlx_distill.backends.rows.cohort import Ints

Arrays = list[mx.array]


class MlxColumns:
    def cut(self, layers: Arrays, tokens: Ints) -> Arrays:
        index = mx.array(tokens)
        return [mx.contiguous(array[index].transpose(0, 2, 1, 3)) for array in layers]

    def some(self, layers: Arrays, rows: Ints) -> Arrays:
        index = mx.array(rows)
        return [array[index] for array in layers]

    def joined(self, older: Arrays, newer: Arrays) -> Arrays:
        return [mx.concatenate([a, b], axis=2) for a, b in zip(older, newer, strict=True)]

    def settle(self, layers: Sequence[Arrays]) -> None:
        mx.eval(layers)  # until then copies hold on to what they are taken from
