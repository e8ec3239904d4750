"""What rows hold as they grow, part and leave: columns are seldom copied, and stay whose they were."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from mlx_distill.backends.rows.cohort import Cohort, Ints, Stretch

Array = NDArray[Any]


class NumpyColumns:
    """Of one layer, keys alone."""

    def cut(self, layers: Array, tokens: Ints) -> Array:
        return layers[tokens].swapaxes(1, 2)

    def some(self, layers: Array, rows: Ints) -> Array:
        return layers[rows]

    def joined(self, older: Array, newer: Array) -> Array:
        return np.concatenate([older, newer], axis=2)

    def settle(self, layers: Sequence[Array]) -> None: ...


def stretch(rows: int, columns: int) -> Stretch[Array]:
    positions = np.zeros((rows, columns), np.int32)
    return Stretch(np.zeros((rows, 1, columns, 2)), np.ones((rows, columns), bool), positions)


@pytest.mark.parametrize("step", [1, 3])
def test_what_stands_there_is_seldom_copied_as_a_row_grows(step: int) -> None:
    cohort, copied = Cohort(2, 0, NumpyColumns()), 0
    cohort.grow(stretch(2, 500))
    for _ in range(120):
        before = [id(each) for each in cohort.stretches]
        cohort.grow(stretch(2, step))
        copied += sum(each.columns for each in cohort.stretches if id(each) not in before) - step
        assert len(cohort.stretches) <= 8
    assert cohort.length.tolist() == [500 + 120 * step] * 2
    assert sum(each.columns for each in cohort.stretches) == 500 + 120 * step
    assert copied < 120 * step * np.log2(120 * step) + 500 + 120 * step


def test_what_samples_share_stays_theirs_as_the_samples_of_others_leave() -> None:
    def numbered(rows: int) -> Stretch[Array]:
        return Stretch(np.arange(rows).reshape(rows, 1, 1, 1), np.ones((rows, 1), bool), np.zeros((rows, 1), np.int32))

    whole = Cohort(6, 0, NumpyColumns())
    whole.grow(numbered(6))
    whole.length = np.arange(6, dtype=np.int32)
    cohort = whole.parted([5, 4, 3, 1, 0], 2)
    cohort.grow(numbered(10))
    cohort.alive = {4, 9}
    assert cohort.compact() == {4: 0, 5: 1, 8: 2, 9: 3}
    assert [each.layers.reshape(-1).tolist() for each in cohort.stretches] == [[3, 0], [4, 5, 8, 9]]
    assert (cohort.alive, cohort.length.tolist()) == ({0, 3}, [4, 4, 1, 1])
