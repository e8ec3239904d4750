"""Packed weights as what they stand for, in NumPy: W = scale * code + bias, group by group.

A row of codes is one little-endian stream of bits, least significant bit first. It knows arrays; nothing of names or files.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def unpack(words: NDArray[np.uint32], scales: NDArray[np.float32], biases: NDArray[np.float32], columns: int) -> NDArray[np.float32]:
    """Float32 (N, columns) of words (N, columns * bits / 32) and a scale and a bias for each group, (N, groups).

    >>> words = np.array([[0b10_01_00_11]], np.uint32)
    >>> one = np.ones((1, 1), np.float32)
    >>> unpack(words, 2 * one, -one, 16)[0, :5].tolist()
    [5.0, -1.0, 1.0, 3.0, -1.0]
    """
    rows, bits = len(words), words.shape[1] * 32 // columns
    stream = np.unpackbits(np.ascontiguousarray(words, "<u4").view(np.uint8), axis=1, bitorder="little")
    codes = stream.reshape(rows, columns, bits) @ (1 << np.arange(bits, dtype=np.uint8))
    groups = codes.reshape(rows, scales.shape[1], -1).astype(np.float32)
    whole: NDArray[np.float32] = groups * scales[:, :, None] + biases[:, :, None]
    return whole.reshape(rows, columns)
