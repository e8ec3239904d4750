"""NumPy's arrays on the device, all of a forward's in one transfer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

ALIGNED = 16
"""Bytes; the widest number has 8."""
NUMBERS = {"bool": torch.bool, "int32": torch.int32, "int64": torch.int64, "float32": torch.float32}


def uploaded(arrays: Sequence[NDArray[Any]], device: torch.device) -> list[Tensor]:
    """bool, int64 and float32 as they are; int32, which PyTorch is slower to index with, as int64; the bits of uint32 in int32.

    Nobody waits for a GPU: it copies when its turn comes, from memory that is kept for it until then.
    """
    arrays = [np.ascontiguousarray(_known(array)) for array in arrays]
    if device.type == "cpu" or not arrays:
        return [torch.from_numpy(array) for array in arrays]
    return unpacked(freight(arrays).to(device, non_blocking=True), arrays)


def unpacked(there: Tensor, arrays: Sequence[NDArray[Any]]) -> list[Tensor]:
    """What `freight` has made of these arrays, wherever it is by now."""
    return [there[at : at + n].view(NUMBERS[a.dtype.name]).view(a.shape) for (at, n), a in zip(_places(arrays), arrays, strict=True)]


def freight(arrays: Sequence[NDArray[Any]]) -> Tensor:
    """Their bytes, in memory from which the device copies by itself."""
    places = _places(arrays)
    out = torch.empty(sum(places[-1]), dtype=torch.uint8, pin_memory=torch.cuda.is_available())
    packed = out.numpy()
    for (at, n), array in zip(places, arrays, strict=True):
        packed[at : at + n] = array.reshape(-1).view(np.uint8)
    return out


def _places(arrays: Sequence[NDArray[Any]]) -> list[tuple[int, int]]:
    """Where the bytes of each begin, and how many they are."""
    ends = np.cumsum([0, *(-(-array.nbytes // ALIGNED) * ALIGNED for array in arrays)])
    return [(int(at), array.nbytes) for at, array in zip(ends, arrays, strict=False)]


def _known(array: NDArray[Any]) -> NDArray[Any]:
    if array.dtype == np.uint32:
        return array.view(np.int32)
    return array.astype(np.int64) if array.dtype == np.int32 else array
