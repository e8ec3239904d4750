"""Some of the training rows: nested, seeded, in their own order, and never more than there are."""

import itertools
from pathlib import Path

import pytest

from mlx_distill.data.examples import taken
from mlx_distill.errors import DataError
from mlx_distill.recipe.schema import TakeSpec

IDS = [f"r{i:03}" for i in range(200)]
FILE = Path("rows.jsonl")


def test_all_rows_are_taken_where_nothing_is_asked() -> None:
    assert taken(IDS, None, FILE) == IDS


def test_a_smaller_number_takes_some_of_the_rows_of_a_larger_one() -> None:
    several = [taken(IDS, TakeSpec(rows=rows, seed=3), FILE) for rows in (1, 50, 100, 200)]
    assert [len(ids) for ids in several] == [1, 50, 100, 200]
    for few, many in itertools.pairwise(several):
        assert set(few) < set(many)
    assert several[-1] == IDS and several[1] == sorted(several[1]), "in their own order"


def test_another_seed_takes_others() -> None:
    one, other = (set(taken(IDS, TakeSpec(rows=100, seed=seed), FILE)) for seed in (0, 1))
    assert 30 < len(one & other) < 70, "about half are in both, as by chance"


def test_a_row_is_taken_or_not_whatever_other_rows_there_are() -> None:
    """A row more does not turn the subset around: at most one other leaves."""
    before, after = (set(taken(ids, TakeSpec(rows=100), FILE)) for ids in (IDS, [*IDS, "new"]))
    assert len(before - after) <= 1


def test_more_rows_than_train_are_refused_with_both_numbers() -> None:
    with pytest.raises(DataError) as error:
        taken(IDS, TakeSpec(rows=1000), FILE)
    assert error.value.message == "data.take.rows is 1,000, and 200 rows train"
