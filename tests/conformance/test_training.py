"""Twenty steps of training end at the same weights, whoever takes them; and one goes on where another stopped."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file

from mlx_distill.backends.base import LoraShape
from mlx_distill.records import Group
from tests.conformance.contestants import (
    AFTER_TRAINING,
    BACKENDS,
    CLOSE,
    EVERYONE,
    PAIRS,
    Weights,
    gap,
    prepared,
    random_adapter,
    require_alike,
    trained_by,
)  # fmt: skip
from tests.conftest import MakeBase
from tests.rows import random_group, shape_of

STEPS = 20
Losses = NDArray[np.float64]


def batch(step: int) -> list[Group]:
    return [random_group(np.random.default_rng(step % 4), 5, [[4, 6], [3]], closed=step % 2 == 1)]


def train(student: Any, steps: Iterable[int], *, learning_rate: float = 1e-3) -> Losses:
    """Four batches in turns, some clipped, at a falling rate; the loss of each step."""
    taken = [student.update(batch(step), learning_rate=learning_rate * (1 - step / STEPS / 2), clip_norm=2.0, step=step) for step in steps]
    assert all(step.applied for step in taken)
    return np.array([step.loss.mean for step in taken])


def way_of(kind: str, folder: Path) -> tuple[LoraShape | None, Weights | None]:
    """What is trained, and from where: `initial` None would begin at B = 0, where AdamW's first step is all sign and no size."""
    shape = None if kind == "whole" else shape_of(dora=kind == "dora")
    return shape, None if shape is None else random_adapter(folder, shape)


def begun_by(name: str, base: MakeBase, kind: str) -> Any:
    folder = base("llama", bits=4 if kind == "packed" else None, num_hidden_layers=1)
    shape, weights = way_of(kind, folder)
    return prepared(name, folder, shape, weights=weights, decay=0.1, packed=kind == "packed")


@pytest.fixture(scope="module")
def twenty(base: MakeBase, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Losses, Weights]]:
    """The reference's twenty steps, taken once for all who are compared with it."""

    @cache
    def taken(kind: str) -> tuple[Losses, Weights]:
        student = begun_by("reference", base, kind)
        before = trained_by(student, tmp_path_factory.mktemp(kind))
        losses, after = train(student, range(STEPS)), trained_by(student, tmp_path_factory.mktemp(kind))
        assert losses[-4:].mean() < 0.98 * losses[:4].mean(), "it learned something"
        assert min(gap(before[key], after[key]) for key in after) > 10 * AFTER_TRAINING, "weights that hardly moved are alike anyway"
        return losses, after

    return taken


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("kind", ["lora", "packed", "dora", "whole"])
def test_twenty_steps_end_at_the_references_weights(
    base: MakeBase, tmp_path: Path, twenty: Callable[[str], tuple[Losses, Weights]], name: str, kind: str
) -> None:
    student = begun_by(name, base, kind)
    losses, weights = twenty(kind)
    assert gap(train(student, range(STEPS)), losses) <= CLOSE
    require_alike(trained_by(student, tmp_path), weights, AFTER_TRAINING)


@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_ten_steps_by_one_and_ten_by_another_are_twenty(
    base: MakeBase, tmp_path: Path, twenty: Callable[[str], tuple[Losses, Weights]], first: str, second: str
) -> None:
    begun, going_on = (begun_by(each, base, "dora") for each in (first, second))
    train(begun, range(STEPS // 2))
    begun.save_state(tmp_path / "state")
    going_on.load_state(tmp_path / "state")
    train(going_on, range(STEPS // 2, STEPS))
    require_alike(trained_by(going_on, tmp_path / "ours"), twenty("dora")[1], AFTER_TRAINING)


@pytest.mark.parametrize("optimizer", ["adafactor", "lion"])
@pytest.mark.parametrize(("first", "second"), list(permutations(BACKENDS, 2)))
def test_other_optimizers_go_on_across_backends(base: MakeBase, tmp_path: Path, first: str, second: str, optimizer: str) -> None:
    """All but a few: Lion's step is a sign, which rounding turns where a running mean is all but 0."""
    folder = base("phi3", num_hidden_layers=1)
    shape = shape_of("phi3")
    weights = random_adapter(folder, shape)
    begun, going_on, alone = (prepared(each, folder, shape, weights=weights, optimizer=optimizer) for each in (first, second, second))
    train(begun, range(4), learning_rate=1e-4)
    begun.save_state(tmp_path / "state")
    going_on.load_state(tmp_path / "state")
    train(going_on, range(4, 8), learning_rate=1e-4)
    train(alone, range(8), learning_rate=1e-4)
    ours, theirs = (trained_by(student, tmp_path / side) for side, student in (("ours", going_on), ("theirs", alone)))
    apart = [np.abs(ours[key] - theirs[key]) > AFTER_TRAINING * np.abs(theirs[key]).max() for key in theirs]
    assert sum(map(np.sum, apart)) <= 0.001 * sum(part.size for part in apart)


@pytest.mark.parametrize(("first", "second"), PAIRS)
@pytest.mark.parametrize("kind", ["lora", "whole"])
def test_state_written_by_one_is_written_again_by_another_byte_for_byte(
    base: MakeBase, tmp_path: Path, first: str, second: str, kind: str
) -> None:
    folder = base(num_hidden_layers=1)
    shape, weights = way_of(kind, folder)
    one, other = (prepared(each, folder, shape, weights=weights) for each in (first, second))
    train(one, range(2))
    one.save_state(tmp_path / "one")
    other.load_state(tmp_path / "one")
    other.save_state(tmp_path / "other")
    for file in sorted(path.name for path in (tmp_path / "one").iterdir()):
        if file != "optimizer.safetensors":  # the order of its tensors is each writer's own
            assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "other" / file).read_bytes(), file
    states = [load_file(tmp_path / side / "optimizer.safetensors") for side in ("one", "other")]
    assert states[0].keys() == states[1].keys()
    assert all(np.array_equal(states[0][key], states[1][key]) for key in states[0])


@pytest.mark.parametrize("dora", [False, True])
def test_the_same_seed_begins_at_the_same_weights_everywhere(base: MakeBase, tmp_path: Path, dora: bool) -> None:
    """A and B to the bit; magnitudes are norms, which are sums."""
    folder = base("gemma2", bits=4)
    begun = {name: trained_by(prepared(name, folder, shape_of(dora=dora), seed=11), tmp_path / name) for name in EVERYONE}
    for name in BACKENDS:
        assert begun[name].keys() == begun["reference"].keys()
        for key, weight in begun[name].items():
            expected = begun["reference"][key]
            assert gap(weight, expected) <= CLOSE if key.endswith("magnitude_vector") else np.array_equal(weight, expected)
