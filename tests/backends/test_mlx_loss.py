"""The loss of a row is its own: by hand where the head is indifferent, and whatever stands beside it in the batch."""

from __future__ import annotations

from dataclasses import replace
from math import log
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlx_distill.backends.base import Backend
from mlx_distill.backends.mlx.loss import padded, union_of
from mlx_distill.records import Group, Ids, LossSum, TokenRow
from tests.backends import plain
from tests.checkpoints import VOCABULARY
from tests.conftest import MakeBase

NOTHING = np.zeros(0, np.int32)


def row(read_at: list[int], targets: list[int], weight: list[float], allowed: list[Ids] | None = None, *, length: int = 6) -> TokenRow:
    tokens = np.arange(10, 10 + length, dtype=np.int32)
    return TokenRow("row", tokens, np.array(read_at), np.array(targets), np.array(weight, np.float32), allowed)


def test_where_all_tokens_are_alike_each_costs_the_logarithm_of_their_number(backend: Backend, tmp_path: Path) -> None:
    student = backend.open(plain.indifferent_base(backend, tmp_path))
    everything = np.arange(VOCABULARY)
    some = [np.array([40, 50, 60, 70]), everything, np.array([5, 6])]
    for made, nats in (
        (row([3, 5], [7, 8], [1, 1]), 2 * log(VOCABULARY)),
        (row([0, 3, 5], [40, 7, 6], [1, 1, 1], some), log(4) + log(VOCABULARY) + log(2)),
        (row([0, 3, 5], [70, 7, 5], [2, 0.5, 10], some), 2 * log(4) + 0.5 * log(VOCABULARY) + 10 * log(2)),
        (row([2], [9], [1], [np.array([9])]), 0.0),
    ):
        for prefix in (NOTHING, np.array([3, 4])):
            loss = student.loss([Group(prefix, [[made]])])["row"]
            assert loss.nats == pytest.approx(nats, rel=1e-6, abs=1e-6)
            assert loss.tokens == made.weight.sum()


def test_padding_never_changes_the_loss(backend: Backend, base: MakeBase) -> None:
    student, generator = backend.open(base("qwen3", num_hidden_layers=1)), np.random.default_rng(0)
    prefix, short = plain.random_ids(generator, 5), plain.random_row(generator, "short", 4, closed=True)
    alone = student.loss([Group(prefix, [[short]])])["short"]
    for length in (5, 30, 200):
        neighbour = plain.random_row(generator, "neighbour", length)
        beside = student.loss([Group(prefix, [[neighbour, short]])])["short"]
        assert beside.nats == pytest.approx(alone.nats, rel=1e-5) and beside.tokens == alone.tokens


def test_only_what_is_allowed_counts(backend: Backend, base: MakeBase) -> None:
    """The nll among the allowed ids is the free one minus the nats of landing among them at all."""
    folder = base(num_hidden_layers=1)
    made = row([5], [40], [1], [np.array([40, 41, 300])])
    student, logs = backend.open(folder), plain.log_softmax(plain.plain_model(folder), made.tokens)[5]
    closed, free = (student.loss([Group(NOTHING, [[each]])])["row"].nats for each in (made, replace(made, allowed=None)))
    assert free == pytest.approx(-logs[40], rel=1e-5)
    assert closed == pytest.approx(free + np.log(np.exp(logs[[40, 41, 300]]).sum()), rel=1e-4)


def test_a_target_outside_of_what_is_allowed_is_our_own_mistake(backend: Backend, base: MakeBase) -> None:
    with pytest.raises(AssertionError, match="not among its allowed ids"):
        backend.open(base(num_hidden_layers=1)).loss([Group(NOTHING, [[row([5], [39], [1], [np.array([38, 40])])]])])


def test_losses_of_groups_and_micro_batches_come_together(backend: Backend, base: MakeBase) -> None:
    student, generator = backend.open(base(num_hidden_layers=1)), np.random.default_rng(1)
    groups: list[Any] = [plain.random_group(generator, prefix, [[3, 4], [5]]) for prefix in (4, 0)]
    together = student.loss(groups)
    apart = {name: loss for group in groups for one in group.rows for name, loss in student.loss([Group(group.prefix, [[one]])]).items()}
    assert together.keys() == apart.keys() and len(together) == 6
    assert {name: loss.nats for name, loss in together.items()} == pytest.approx({n: loss.nats for n, loss in apart.items()}, rel=1e-5)
    assert student.loss([]) == {}
    assert sum(together.values(), LossSum()).tokens == pytest.approx(sum(float(r.weight.sum()) for g in groups for r in g.rows))


def test_rows_are_padded_on_the_right_and_allowed_ids_are_united() -> None:
    np.testing.assert_array_equal(padded([np.array([1, 2, 3]), np.array([4])]), [[1, 2, 3], [4, 0, 0]])
    union, mask = union_of([np.array([9, 2]), np.array([5, 9])])
    np.testing.assert_array_equal(union, [2, 5, 9])
    np.testing.assert_array_equal(mask, [[True, False, True], [False, True, True]])
