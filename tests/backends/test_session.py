"""Whatever the neighbours, lengths, extensions and drops: a row answers as if it had been forwarded alone with its whole prompt."""

from __future__ import annotations

from pathlib import Path

import mlx.nn as nn
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_distill.backends.base import BARE, Backend, LoraShape
from mlx_distill.backends.choose import choose
from mlx_distill.errors import BackendError
from mlx_distill.records import Group, TokenRow
from tests.backends import plain
from tests.backends.sides import Side, each_side
from tests.backends.test_mlx_update import prepared
from tests.backends.twin import CLOSE, EVERYTHING, NOTHING, Twin, ids, mask_of, opened
from tests.checkpoints import VOCABULARY
from tests.conftest import MakeBase

pytestmark = each_side

# rows and their neighbours


@plain.FORMS
@pytest.mark.parametrize("family", plain.FAMILIES)
def test_rows_answer_as_if_alone(side: Side, base: MakeBase, family: str, bits: int | None, unpack: bool) -> None:
    generator = np.random.default_rng(1)
    twin = opened(side, base(family, bits=bits), plain.random_ids(generator, 7), unpack=unpack)
    a, b, c, d = twin.admit(ids(generator, 5, 1, 9, 4))
    twin.check()
    twin.extend({b: [11, 12, 13], c: [14]})
    twin.check()
    twin.extend({a: [15], b: [16]})
    e, f = twin.admit(ids(generator, 3, 6))
    twin.extend({d: [17, 18], e: [19]})
    twin.check_score(generator)
    twin.drop([b, d, e])
    twin.extend({c: [20, 21], f: [22]})
    twin.check_score(generator)
    twin.drop([a, c])
    twin.check()


def test_without_a_prefix_rows_stand_for_themselves(side: Side, base: MakeBase) -> None:
    generator = np.random.default_rng(2)
    twin = opened(side, base("gemma2"), NOTHING)
    a, b = twin.admit(ids(generator, 1, 4))
    twin.extend({a: [9]})
    twin.check_score(generator)
    twin.drop([b])
    twin.check()


OPERATION = st.tuples(st.sampled_from(["admit", "extend", "drop", "score"]), st.integers(0, 1 << 30))


@settings(max_examples=12, deadline=None, derandomize=True)
@given(operations=st.lists(OPERATION, min_size=3, max_size=9), prefix=st.integers(0, 4))
def test_whatever_happens_between(side: Side, base: MakeBase, operations: list[tuple[str, int]], prefix: int) -> None:
    generator = np.random.default_rng(prefix)
    twin = opened(side, base(num_hidden_layers=1), plain.random_ids(generator, prefix))
    for name, seed in operations:
        generator = np.random.default_rng(seed)
        some = [handle for handle in twin.rows if generator.random() < 0.5]
        if name == "admit" or not twin.rows:
            twin.admit(ids(generator, *generator.integers(1, 6, int(generator.integers(1, 5)))))
        elif name == "extend" and some:
            twin.extend({handle: plain.random_ids(generator, int(generator.integers(1, 4))).tolist() for handle in some})
        elif name == "drop":
            twin.drop(some)
        elif name == "score":
            twin.check_score(generator)
        if twin.rows:
            twin.check()


def test_a_row_that_was_not_extended_still_answers_from_its_last_tokens(side: Side, base: MakeBase) -> None:
    generator = np.random.default_rng(3)
    twin = opened(side, base(num_hidden_layers=1), plain.random_ids(generator, 3))
    short, long = twin.admit(ids(generator, 2, 8))
    for tokens in ({short: [5, 6, 7]}, {short: [8]}, {long: [9]}, {short: [10, 11]}):
        twin.extend(tokens)
        twin.check()


def test_a_window_of_attention_is_kept_behind_a_prefix(side: Side, base: MakeBase) -> None:
    """Keys too far behind a query are not seen, whether they are the prefix's or the row's own."""
    kinds = ["sliding_attention", "full_attention"]
    folder = base("llama", layer_types=kinds, sliding_window=6)
    generator = np.random.default_rng(4)
    twin = opened(side, folder, plain.random_ids(generator, 4))
    a, _ = twin.admit(ids(generator, 5, 9))
    twin.extend({a: [5, 6, 7, 8]})
    twin.check_score(generator)


def test_dropped_rows_free_their_memory(side: Side, base: MakeBase) -> None:
    generator = np.random.default_rng(6)
    twin = opened(side, base(num_hidden_layers=1), NOTHING)
    handles = twin.admit(ids(generator, *[40] * 32))
    full = side.held()
    twin.drop(handles[:24])
    row = 2 * 2 * 16 * 40 * 4  # keys and values, 2 heads of 16, 40 tokens, fp32
    assert side.held() <= full - 23 * row, "24, but for an index or two"
    twin.extend({handle: [5 + i] for i, handle in enumerate(handles[24:])})
    twin.check()


# what may be asked


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("bits", [None, 4, 8])
def test_reading_among_allowed_ids_is_the_whole_head_renormalised(side: Side, base: MakeBase, bits: int | None, tied: bool) -> None:
    generator = np.random.default_rng(7)
    twin = opened(side, base(bits=bits, tied=tied, num_hidden_layers=1), plain.random_ids(generator, 4))
    a, b = twin.admit(ids(generator, 3, 6))
    sets = [np.array([300, 4, 17]), np.array([9]), np.array([383, 0]), np.array([5, 6, 7, 8, 4])]
    read = twin.session.read({b: [0, 5], a: [-1, -3]}, {b: sets[:2], a: sets[2:]})
    for handle, at, chosen in ((b, (0, 5), sets[:2]), (a, (2, 0), sets[2:])):
        for logs, position, allowed in zip(read[handle], at, chosen, strict=True):
            np.testing.assert_allclose(logs, plain.among(twin.alone(handle)[4 + position], allowed), atol=CLOSE)
            assert np.exp(logs).sum() == pytest.approx(1, abs=1e-6)


def test_choosing_keeps_to_the_mask(side: Side, base: MakeBase) -> None:
    generator = np.random.default_rng(8)
    twin = opened(side, base(vocab=VOCABULARY + 5, num_hidden_layers=1), plain.random_ids(generator, 4))
    handles = twin.admit(ids(generator, 3, 6, 2))
    sets = {handle: np.unique(plain.random_ids(generator, 6)) for handle in handles}
    sets[handles[0]] = np.array([VOCABULARY + 4])  # the last row of a head that is no whole number of words
    wide = {handle: mask_of(allowed, VOCABULARY + 5) for handle, allowed in sets.items()}
    for temperature in (0.0, 1.5):
        chosen, logs = twin.session.choose(wide, temperature=temperature)
        for handle, allowed in sets.items():
            among = dict(zip(allowed.tolist(), plain.among(twin.alone(handle)[-1], allowed), strict=True))
            assert logs[handle] == pytest.approx(among[chosen[handle]], abs=CLOSE)
            assert temperature or among[chosen[handle]] == max(among.values())


def test_where_two_tie_the_lowest_id_is_chosen(side: Side, backend: Backend, tmp_path: Path) -> None:
    session = side.open(plain.indifferent_base(backend, tmp_path)).session(NOTHING)
    a, b = session.admit([np.array([5]), np.array([6, 7])])
    chosen, logs = session.choose({a: mask_of([200, 31, 32, 370]), b: mask_of([383, 77])})
    assert chosen == {a: 31, b: 77}
    assert logs == {a: pytest.approx(-np.log(4)), b: pytest.approx(-np.log(2))}


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_samples_come_as_often_as_they_are_likely(side: Side, base: MakeBase, temperature: float) -> None:
    twin = opened(side, base(num_hidden_layers=1), NOTHING)
    row, rows, draws = np.array([17, 4, 250]), 64, 40
    handles = twin.admit([row] * rows)
    allowed = np.array([3, 50, 121, 300])
    counts = np.zeros(VOCABULARY)
    for seed in range(draws):
        chosen, _ = twin.session.choose(dict.fromkeys(handles, mask_of(allowed)), temperature=temperature, seed=seed)
        counts += np.bincount(list(chosen.values()), minlength=VOCABULARY)
    logs = plain.among(twin.alone(handles[0])[-1], allowed) / temperature
    expected = np.exp(logs) / np.exp(logs).sum()
    spread = np.sqrt(expected * (1 - expected) / (rows * draws))
    assert (np.abs(counts[allowed] / (rows * draws) - expected) < 4 * spread).all()


def test_samples_follow_from_the_seed(side: Side, base: MakeBase) -> None:
    student = side.open(base(num_hidden_layers=1))
    drawn = []
    for seed in (1, 1, 2):
        session = student.session(NOTHING)
        handles = session.admit([np.array([5])] * 16)
        chosen, _ = session.choose(dict.fromkeys(handles, mask_of(EVERYTHING)), temperature=1.0, seed=seed)
        drawn.append([chosen[handle] for handle in handles])
    assert drawn[0] == drawn[1] != drawn[2]
    assert drawn[0][1:] != drawn[2][:-1], "no seed's draws are another's, moved by a row"
    assert len(set(drawn[0])) > 1, "every row draws for itself"


# adapters


@pytest.fixture
def two(base: MakeBase, tmp_path: Path) -> tuple[Path, dict[str, Path], dict[str, nn.Module]]:
    """Two adapters of unlike shape, with dropout, and the plain model of each."""
    folder = base()
    shapes = {"one": plain.shape_of(dropout=0.5), "two": LoraShape(2, 6, 0.5, ("q_proj", "down_proj"))}
    models = {}
    for seed, (name, shape) in enumerate(shapes.items()):
        weights = plain.random_adapter(folder, shape, seed)
        prepared(folder, shape, weights=weights).save_adapter(tmp_path / name)
        models[name] = plain.plain_model(folder, weights, shape)
    return folder, {name: tmp_path / name for name in shapes}, models


def test_each_adapter_gives_its_own_answers_in_turns(side: Side, two: tuple[Path, dict[str, Path], dict[str, nn.Module]]) -> None:
    folder, adapters, models = two
    generator = np.random.default_rng(9)
    prefix = plain.random_ids(generator, 5)
    student = choose(side.name).open(folder, adapters=adapters)
    twins = [Twin(student.session(prefix, adapter=name), model, prefix) for name, model in models.items()]
    twins.append(Twin(student.session(prefix), plain.plain_model(folder), prefix))
    handles = [twin.admit(ids(generator, 4, 6))[0] for twin in twins]
    for twin, handle in zip(twins, handles, strict=True):
        twin.extend({handle: [8, 9]})
    for twin in twins:
        twin.check_score(generator)


def test_losses_are_those_of_the_only_adapter_that_was_opened(side: Side, two: tuple[Path, dict[str, Path], dict[str, nn.Module]]) -> None:
    folder, adapters, models = two
    groups = [plain.random_group(np.random.default_rng(10), 4, [[5, 3]])]
    bare = plain.plain_model(folder)
    for opened_with, model in (({"one": adapters["one"]}, models["one"]), (adapters, bare), ({}, bare)):
        losses = choose(side.name).open(folder, adapters=opened_with).loss(groups)
        assert {name: loss.nats for name, loss in losses.items()} == pytest.approx(plain.row_nats(model, groups), rel=1e-5)


def test_the_base_as_it_was_answers_beside_its_only_adapter(side: Side, two: tuple[Path, dict[str, Path], dict[str, nn.Module]]) -> None:
    folder, adapters, models = two
    generator = np.random.default_rng(9)
    prefix = plain.random_ids(generator, 5)
    student = choose(side.name).open(folder, adapters={"one": adapters["one"]})
    named = {None: models["one"], BARE: plain.plain_model(folder), "one": models["one"]}
    twins = [Twin(student.session(prefix, adapter=name), model, prefix) for name, model in named.items()]
    handles = [twin.admit(ids(generator, 4, 6))[0] for twin in twins]
    for twin, handle in zip(twins, handles, strict=True):
        twin.extend({handle: [8, 9]})
    for twin in twins:
        twin.check_score(generator)


def test_a_base_all_of_whose_weights_were_trained_is_not_in_memory_any_more(side: Side, base: MakeBase, tmp_path: Path) -> None:
    folder = base(num_hidden_layers=1)
    student = choose(side.name).open(folder)
    student.prepare(None, optimizer="adamw", weight_decay=0.0, initial=None, seed=0)
    student.save_adapter(tmp_path / "whole")
    for changed in (student, choose(side.name).open(folder, adapters={"own": tmp_path / "whole"})):
        with pytest.raises(BackendError, match="all weights were trained: the base as it was is not in memory"):
            changed.session(NOTHING, adapter=BARE)


def test_the_nats_of_each_target_are_those_of_which_the_row_s_loss_is_made(
    side: Side, two: tuple[Path, dict[str, Path], dict[str, nn.Module]]
) -> None:
    folder, adapters, _ = two
    groups = [plain.random_group(np.random.default_rng(seed), seed - 10, [[5, 3], [7]]) for seed in (10, 14)]
    student = choose(side.name).open(folder, adapters={"one": adapters["one"]})
    nats, losses = student.nlls(groups), student.loss(groups)
    rows = {row.id: row for group in groups for row in group.rows}
    assert nats.keys() == losses.keys() == rows.keys()
    for name, row in rows.items():
        assert nats[name].shape == row.targets.shape
        assert float(nats[name] @ row.weight) == pytest.approx(losses[name].nats, rel=1e-5)


def test_an_adapter_that_was_not_opened_is_refused_with_those_that_were(
    side: Side, two: tuple[Path, dict[str, Path], dict[str, nn.Module]]
) -> None:
    student = choose(side.name).open(two[0], adapters=two[1])
    with pytest.raises(BackendError, match="no adapter named 'three'") as caught:
        student.session(NOTHING, adapter="three")
    assert caught.value.hint == "there is one, two"


def test_a_base_refuses_the_adapter_of_another(side: Side, base: MakeBase, two: tuple[Path, dict[str, Path], dict[str, nn.Module]]) -> None:
    with pytest.raises(BackendError, match="not of this base"):
        choose(side.name).open(base(num_hidden_layers=1), adapters=two[1])
    with pytest.raises(BackendError, match="not of this base"):
        choose(side.name).open(base("phi3"), adapters=two[1])


def test_training_goes_on_where_it_was_after_sample_answers(side: Side, two: tuple[Path, dict[str, Path], dict[str, nn.Module]]) -> None:
    """Sessions of the adapter in training answer with what it has learned so far; those of others leave it as it is."""
    folder, adapters, _ = two
    generator = np.random.default_rng(11)
    groups = [plain.random_group(generator, 4, [[5, 3], [6]])]
    undisturbed, disturbed = (choose(side.name).open(folder, adapters=adapters) for _ in range(2))
    shape, row = plain.shape_of(dropout=0.2), plain.random_ids(generator, 4)
    for student in (undisturbed, disturbed):
        student.prepare(shape, optimizer="adamw", weight_decay=0.0, initial=None, seed=0)
    said = []
    for step in range(3):
        losses = [student.update(groups, learning_rate=1e-2, clip_norm=1.0, step=step).loss for student in (undisturbed, disturbed)]
        assert losses[0] == losses[1]
        for adapter in ("one", None):
            session = disturbed.session(groups[0].prefix, adapter=adapter)
            handle = session.admit([row])[0]
            said.append(session.read({handle: [-1]}, {handle: [EVERYTHING]})[handle][0])
    asked = TokenRow("row", row, np.array([3]), np.array([7]), np.ones(1, np.float32))
    loss = undisturbed.loss([Group(groups[0].prefix, [[asked]])])["row"]
    assert loss.nats == pytest.approx(-said[-1][7], rel=1e-5)
    np.testing.assert_array_equal(said[0], said[2])
    assert np.abs(said[1] - said[3]).max() > 1e-3
