"""Batches: every row once an epoch, like lengths together, a new order each time, all of it from the seed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_distill.data.batches import BUCKET, MicroBatch, by_length, epoch, groups, steps_per_epoch
from mlx_distill.data.tokens import Lesson
from mlx_distill.records import TokenRow


def lesson(name: str, length: int, shared: bool = True) -> Lesson:
    row = TokenRow(
        name, np.arange(length, dtype=np.int32), np.array([length - 1], np.int32), np.array([0], np.int32), np.ones(1, np.float32)
    )
    return Lesson(row, shared, False, length)


def rows_of(lengths: Sequence[int]) -> list[Lesson]:
    return [lesson(f"r{i}", length) for i, length in enumerate(lengths)]


def ids(batches: Sequence[Sequence[MicroBatch]]) -> list[list[list[str]]]:
    return [[[row.row.id for row in micro] for micro in batch] for batch in batches]


def flat(batches: Sequence[Sequence[MicroBatch]]) -> list[str]:
    return [row.row.id for batch in batches for micro in batch for row in micro]


lengths = st.lists(st.integers(1, 50), min_size=1, max_size=60)


@settings(deadline=None, derandomize=True)
@given(lengths, st.integers(1, 7), st.integers(1, 5), st.integers(0, 3), st.integers(0, 3))
def test_every_row_is_learned_once_an_epoch_in_as_many_steps_as_were_promised(
    lengths: list[int], batch_size: int, accumulate: int, seed: int, number: int
) -> None:
    batches = epoch(rows_of(lengths), batch_size=batch_size, accumulate=accumulate, seed=seed, number=number)
    assert sorted(flat(batches)) == sorted(f"r{i}" for i in range(len(lengths)))
    assert len(batches) == steps_per_epoch(len(lengths), batch_size, accumulate)
    assert all(1 <= len(batch) <= accumulate for batch in batches)
    sizes = [len(micro) for batch in batches for micro in batch]
    assert sorted(sizes)[1:] == [batch_size] * (len(sizes) - 1), "one is short at most"
    assert min(sizes) == len(lengths) % batch_size or min(sizes) == batch_size


def test_the_steps_of_an_epoch_by_hand() -> None:
    # 10 rows of 4 are 3 micro-batches (4, 4, 2); two at a time make 2 steps
    assert steps_per_epoch(10, 4, 2) == 2
    assert steps_per_epoch(8, 4, 2) == 1
    assert steps_per_epoch(1, 4, 2) == 1
    assert steps_per_epoch(0, 4, 2) == 0


def test_rows_of_like_length_meet() -> None:
    lengths = [1 + (i * 37) % 512 for i in range(512)]
    batches = epoch(rows_of(lengths), batch_size=4, accumulate=4, seed=0, number=0)
    padded = sum(len(micro) * max(len(row.row.tokens) for row in micro) for batch in batches for micro in batch)
    in_file_order = sum(4 * max(lengths[i : i + 4]) for i in range(0, 512, 4))
    assert sum(lengths) <= padded < 1.05 * sum(lengths)
    assert in_file_order > 1.3 * sum(lengths), "what it would cost otherwise"


def test_short_rows_do_not_always_come_first() -> None:
    batches = epoch(rows_of(range(1, 4 * BUCKET + 1)), batch_size=4, accumulate=1, seed=0, number=0)
    longest = [max(len(row.row.tokens) for row in batch[0]) for batch in batches]
    assert longest != sorted(longest) and longest != sorted(longest, reverse=True)


def test_the_same_seed_and_epoch_give_the_same_batches() -> None:
    rows = rows_of([1 + i % 17 for i in range(100)])
    first, again = (epoch(rows, batch_size=4, accumulate=2, seed=3, number=1) for _ in range(2))
    assert ids(first) == ids(again)


def test_another_epoch_or_another_seed_has_another_order_and_other_company() -> None:
    rows = rows_of([1 + i % 17 for i in range(400)])
    seen = [ids(epoch(rows, batch_size=4, accumulate=2, seed=seed, number=number)) for seed, number in ((0, 0), (0, 1), (1, 0), (1, 1))]
    companies = [{frozenset(micro) for batch in batches for micro in batch} for batches in seen]
    for i in range(4):
        for j in range(i):
            assert seen[i] != seen[j]
            assert len(companies[i] & companies[j]) < 10, "rows do not meet the same rows again"


def test_buckets_are_filled_whole_so_that_one_micro_batch_is_short_at_most() -> None:
    batches = epoch(rows_of([5] * (BUCKET * 3 * 2 + 4)), batch_size=3, accumulate=1, seed=0, number=0)
    assert sorted(len(batch[0]) for batch in batches)[0] == 1
    assert len(batches) == BUCKET * 2 + 2


def test_no_rows_are_no_batches() -> None:
    assert epoch([], batch_size=4, accumulate=2, seed=0, number=0) == []


# for a backend


def test_a_batch_is_a_group_behind_the_prefix() -> None:
    prefix = np.array([7, 8], np.int32)
    batch = [[lesson("a", 1), lesson("b", 2)], [lesson("c", 3)]]
    (group,) = groups(batch, prefix)
    assert group.prefix.tolist() == [7, 8]
    assert [[row.id for row in micro] for micro in group.micro_batches] == [["a", "b"], ["c"]]


def test_rows_without_the_prefix_are_a_group_of_their_own() -> None:
    prefix = np.array([7, 8], np.int32)
    batch = [[lesson("a", 1), lesson("b", 2, shared=False)], [lesson("c", 3, shared=False)], [lesson("d", 4)]]
    behind, alone = groups(batch, prefix)
    assert [[row.id for row in micro] for micro in behind.micro_batches] == [["a"], ["d"]]
    assert alone.prefix.tolist() == [] and [[row.id for row in micro] for micro in alone.micro_batches] == [["b"], ["c"]]
    (only,) = groups([[lesson("c", 3, shared=False)]], prefix)
    assert len(only.prefix) == 0


# for measuring


@settings(deadline=None, derandomize=True)
@given(lengths, st.integers(1, 200))
def test_batches_for_measuring_stay_within_their_budget_and_hold_every_row(lengths: list[int], budget: int) -> None:
    batches = list(by_length(rows_of(lengths), budget))
    assert sorted(row.row.id for batch in batches for row in batch) == sorted(f"r{i}" for i in range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(len(row.row.tokens) for row in batch) <= budget
    sizes = [len(row.row.tokens) for batch in batches for row in batch]
    assert sizes == sorted(sizes, reverse=True), "what does not fit shows at once"


@pytest.mark.parametrize("order", [1, -1])
def test_batches_for_measuring_do_not_depend_on_the_order_of_the_rows(order: int) -> None:
    rows = rows_of([3, 1, 2, 3, 2, 1])[::order]
    assert [[row.row.id for row in batch] for batch in by_length(rows, 6)] == [["r0", "r3"], ["r2", "r4", "r1"], ["r5"]]
