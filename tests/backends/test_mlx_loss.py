"""The loss of a row is its own: by hand where the head is indifferent, and whatever stands beside it in the batch."""

from __future__ import annotations

from dataclasses import replace
from math import log
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from mlx_distill.backends.base import Backend
from mlx_distill.backends.mlx.loss import free_nll
from mlx_distill.backends.mlx.model import Head, open_model
from mlx_distill.backends.mlx.tape import Tape, Variables
from mlx_distill.backends.rows.allowed import union_of
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


def test_allowed_ids_are_united() -> None:
    union, mask = union_of([np.array([9, 2]), np.array([5, 9])])
    np.testing.assert_array_equal(union, [2, 5, 9])
    np.testing.assert_array_equal(mask, [[True, False, True], [False, True, True]])


# logits a few positions at a time


def nll_and_gradients(folder: Path, at_once: int | None, *, trained: bool = False, plainly: bool = False) -> plain.Weights:
    """Of 11 random states, with cotangents that differ: nats, their gradient by the states and, `trained`, by the head's table."""
    model, generator = open_model(folder, "float32"), np.random.default_rng(4)
    head, hidden = Head(model), mx.array(generator.normal(0, 2, (11, 64)).astype(np.float32))
    targets, cotangent = plain.random_ids(generator, 11), mx.array(generator.uniform(0.5, 2, 11).astype(np.float32))
    if plainly:

        def whole(hidden: mx.array, *table: mx.array) -> mx.array:
            for weight in table:
                head.table.weight = weight
            logits = head.logits(hidden)
            return mx.logsumexp(logits, axis=-1) - mx.take_along_axis(logits, mx.array(targets)[:, None], axis=-1)[:, 0]

        (nll,), found = mx.vjp(whole, [hidden, head.table.weight] if trained else [hidden], [cotangent])
    else:
        name = "lm_head.weight" if "lm_head" in model else "model.embed_tokens.weight"
        variables = Variables(model, [name] if trained else [], [head.table.weight] if trained else [], lambda names, values: None)
        tape = Tape(variables)
        out = free_nll(tape, head, tape.leaf(hidden), targets, at_once=at_once)
        nll, found = out.value, [*tape.backward([(out, cotangent)]).values(), *variables.sums.values()]
    return {name: np.asarray(array) for name, array in zip(("nll", "states", "table"), (nll, *found), strict=False)}


HEADS = pytest.mark.parametrize(
    ("family", "bits", "tied"),
    [("qwen2", None, True), ("llama", None, False), ("llama", 4, False), ("qwen2", 4, True), ("gemma2", None, True), ("gemma2", 4, True)],
)


@HEADS
@pytest.mark.parametrize("at_once", [1, VOCABULARY, 3 * VOCABULARY + 5, 11 * VOCABULARY, None])
def test_pieces_of_any_size_give_nats_and_gradient_of_the_whole(
    base: MakeBase, family: str, bits: int | None, tied: bool, at_once: int | None
) -> None:
    """Packed heads, capped ones, and those that are the embedding."""
    folder = base(family, num_hidden_layers=1, bits=bits, tied=tied)
    ours, theirs = nll_and_gradients(folder, at_once), nll_and_gradients(folder, None, plainly=True)
    for name in ("nll", "states"):
        assert plain.distance({name: ours[name]}, {name: theirs[name]}) <= 2e-6


@pytest.mark.parametrize(("family", "tied"), [("llama", False), ("qwen2", True), ("gemma2", True)])
@pytest.mark.parametrize("at_once", [1, 4 * VOCABULARY, None])
def test_a_head_that_is_trained_gets_the_gradient_of_the_whole(base: MakeBase, family: str, tied: bool, at_once: int | None) -> None:
    folder = base(family, num_hidden_layers=1, tied=tied)
    ours, theirs = nll_and_gradients(folder, at_once, trained=True), nll_and_gradients(folder, None, trained=True, plainly=True)
    for name in ("nll", "states", "table"):
        assert plain.distance({name: ours[name]}, {name: theirs[name]}) <= 2e-6


def test_more_positions_take_no_more_logits(base: MakeBase) -> None:
    """8 at a time, 400 positions need less than the logits of 100 more than 8 do."""
    model, generator = open_model(base("llama", num_hidden_layers=1, tied=False, vocab=20_000), "float32"), np.random.default_rng(0)
    head, peaks = Head(model), []
    for positions in (8, 400):
        hidden = mx.array(generator.normal(0, 1, (positions, 64)).astype(np.float32))
        mx.eval(hidden)
        mx.reset_peak_memory()
        before, tape = mx.get_active_memory(), Tape()
        mx.eval(free_nll(tape, head, tape.leaf(hidden), np.zeros(positions, np.int32), at_once=8 * head.vocabulary).value)
        peaks.append(mx.get_peak_memory() - before)
    assert peaks[1] - peaks[0] < 100 * head.vocabulary * 4, peaks
