"""Arrays that go to the device in one piece come out as they went in."""

from __future__ import annotations

import numpy as np
import torch

from mlx_distill.backends.torch.upload import freight, unpacked, uploaded


def test_arrays_of_every_kind_and_of_none_travel_together() -> None:
    arrays = [np.arange(5), np.array([[True, False, True]]), np.zeros((0, 3), np.int64), np.arange(6, dtype=np.int32).reshape(2, 3)]
    for array, there in zip(arrays, unpacked(freight(arrays), arrays), strict=True):
        np.testing.assert_array_equal(there.numpy(), array)
        assert there.numpy().dtype == array.dtype


def test_indices_are_wide_and_bits_keep_their_places() -> None:
    index, bits = uploaded([np.array([7], np.int32), np.array([0x80000001], np.uint32)], torch.device("cpu"))
    assert (index.dtype, index.tolist()) == (torch.int64, [7])
    assert (bits.dtype, bits.tolist()) == (torch.int32, [-0x7FFFFFFF])
