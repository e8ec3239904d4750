"""Where values part, worked out by hand."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from mlx_distill.inference.trie import NEGLIGIBLE, Branch, Unfolding, branches


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


VALUES = [(1, 1, 1), (1, 1, 2), (1, 2), (2, 1), (2, 2), (3,)]
"""Points at the root, behind 1, behind 2, behind 1 1."""


def unfolded(*said: Sequence[float]) -> tuple[Unfolding, list[Branch]]:
    """What the student said at the first points, one after another."""
    points = branches(VALUES)
    unfolding = Unfolding(points, len(VALUES))
    for point, shares in zip(points, said, strict=False):
        unfolding.take(point, np.log(np.array(shares, np.float32)))
    return unfolding, points


def test_values_that_are_not_told_apart_yet_share_evenly_what_is_theirs() -> None:
    assert unfolded([0.6, 0.3, 0.1])[0].probabilities == pytest.approx([0.2, 0.2, 0.2, 0.15, 0.15, 0.1])
    assert unfolded([0.6, 0.3, 0.1], [0.5, 0.5])[0].probabilities == pytest.approx([0.15, 0.15, 0.3, 0.15, 0.15, 0.1])


def test_a_point_is_next_when_what_stands_above_it_has_been_asked_and_the_rest_is_all_below() -> None:
    unfolding, points = unfolded([0.6, 0.3, 0.1])
    assert unfolding.next() == [points[1], points[2]]
    assert unfolding.rest() == [points[1], points[2], points[3]]
    unfolding.take(points[1], np.log(np.array([0.5, 0.5], np.float32)))
    assert unfolding.next() == unfolding.rest() == [points[2], points[3]]


@pytest.mark.parametrize(
    ("said", "decided"),
    [
        ([[0.3, 0.3, 0.4]], True),
        ([[0.41, 0.2, 0.39]], False),
        ([[0.2, 0.41, 0.39]], False),
        ([[0.4, 0.2, 0.4]], False),
        ([[0.6, 0.3, 0.1], [0.4, 0.6]], True),
        ([[0.6, 0.3, 0.1], [0.6, 0.4]], False),
        ([[0.5, 0.5, 0.0]], False),
    ],
)
def test_the_likeliest_value_is_known_where_no_point_that_is_left_holds_as_much(said: list[list[float]], decided: bool) -> None:
    with np.errstate(divide="ignore"):
        assert unfolded(*said)[0].decided is decided


def test_points_that_hardly_anything_leads_to_are_not_asked() -> None:
    unfolding, points = unfolded([1 - 1.5 * NEGLIGIBLE, 0.5 * NEGLIGIBLE, NEGLIGIBLE])
    assert points[2] not in unfolding.open() and points[1] in unfolding.open()
    unfolding, points = unfolded([0.9, 4 * NEGLIGIBLE, 0.1])
    assert points[2] in unfolding.open()
