"""Where values part, worked out by hand."""

from __future__ import annotations

import pytest

from mlx_distill.inference.trie import branches


def test_values_part_at_the_root_and_behind_a_common_beginning() -> None:
    """1 and 10 before a comma, and 2: tokens 1 = "1", 0 = "0", 2 = "2", 9 = ","."""
    root, behind_one = branches([(1, 9), (1, 0), (2,)])
    assert (root.path, root.tokens.tolist(), root.children) == ((), [1, 2], ((0, 1), (2,)))
    assert (behind_one.path, behind_one.tokens.tolist(), behind_one.children) == ((1,), [0, 9], ((1,), (0,)))


def test_what_all_values_share_is_no_branching_point() -> None:
    (only,) = branches([(5, 6, 1), (5, 6, 2)])
    assert only.path == (5, 6)
    assert only.tokens.tolist() == [1, 2]


@pytest.mark.parametrize("values", [[(4,)], [(4, 5, 6)]])
def test_a_single_value_leaves_nothing_to_ask(values: list[tuple[int, ...]]) -> None:
    assert branches(values) == []


def test_points_nearer_to_the_root_come_first() -> None:
    """A point's mass is known only when the points above it have been asked."""
    points = branches([(1, 1, 1), (1, 1, 2), (1, 2), (2, 1), (2, 2), (3,)])
    assert [point.path for point in points] == [(), (1,), (2,), (1, 1)]
    assert [sorted(member for child in point.children for member in child) for point in points] == [
        [0, 1, 2, 3, 4, 5],
        [0, 1, 2],
        [3, 4],
        [0, 1],
    ]
