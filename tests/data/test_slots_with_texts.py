"""A task of values and texts in slots, learned: one row teaches codes among few and texts among all tokens, with the right gradient."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from mlx_distill.backends.mlx.student import MlxStudent
from mlx_distill.data.batches import groups
from mlx_distill.data.tokens import lessons
from mlx_distill.recipe.schema import FieldSpec, TaskSpec
from mlx_distill.records import Example, Group, Value
from mlx_distill.task.prompt import Prompt, load_tokenizer
from mlx_distill.task.slots import SlotPlan
from tests.backends import plain
from tests.students import tiny_base

FIELDS = {"why": FieldSpec(kind="text", max_chars=40, loss=0.5), "high": FieldSpec(kind="flag"), "post": FieldSpec(kind="score", max=3)}
LABELS: list[dict[str, Value]] = [
    {"why": "it rose", "high": True, "post": 3},
    {"why": "it fell", "high": False, "post": 1},
    {"high": True, "post": 2},
    {"why": "it rose"},
]
TEXTS = ["The river rose over the bridge.", "The river is low.", "Over the bridge!", "It rose again."]
SHAPE = plain.shape_of()


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_base(tmp_path_factory.mktemp("base"))


def learned(base: Path, texts: list[str], labels: list[dict[str, Value]]) -> list[Group]:
    """Micro-batches of two rows each."""
    tokenizer = load_tokenizer(base)
    prompt = Prompt(TaskSpec(instructions="How high is the water?", input="{t}", fields=FIELDS), tokenizer)
    examples = [Example(f"r{i}", {}, *each) for i, each in enumerate(zip(texts, labels, strict=True))]
    found = lessons(examples, prompt, SlotPlan(FIELDS, tokenizer), 256).rows
    return groups([found[i : i + 2] for i in range(0, len(found), 2)], prompt.prefix)


@pytest.fixture(scope="module")
def batch(base: Path) -> list[Group]:
    """Both parts, both parts; values alone, a text alone."""
    return learned(base, TEXTS, LABELS)


def student(base: Path) -> MlxStudent:
    opened = plain.open_student(base)
    opened.prepare(SHAPE, optimizer="adamw", weight_decay=0.0, initial=plain.random_adapter(base, SHAPE), seed=0)
    return opened


def trained(base: Path, batch: list[Group], *, steps: int) -> MlxStudent:
    learner = student(base)
    for step in range(steps):
        learner.update(batch, learning_rate=0.01, clip_norm=1.0, step=step)
    return learner


def test_the_gradient_over_codes_and_texts_is_that_of_plain_autodiff(base: Path, batch: list[Group]) -> None:
    model = plain.plain_model(base, plain.random_adapter(base, SHAPE), SHAPE)
    assert plain.distance(plain.our_gradient(student(base), batch), plain.gradient(model, batch)) <= 1e-5
    nats = {name: loss.nats for name, loss in student(base).loss(batch).items()}
    assert nats == pytest.approx(plain.row_nats(model, batch), rel=1e-5)


def test_training_learns_the_values_and_the_texts(base: Path, batch: list[Group]) -> None:
    learner = trained(base, batch, steps=30)
    before, after = student(base).loss(batch), learner.loss(batch)
    assert {row.id: len(row.targets) for group in batch for row in group.rows}["r2"] == 2, "a flag and a score, no text"
    for name, loss in after.items():
        assert loss.mean < 0.1 * before[name].mean


def test_a_text_is_learned_from_the_values_that_it_stands_behind(base: Path) -> None:
    """One article, judged twice and not alike: only the codes tell which text follows. Behind the other's codes it is unlikely."""
    batch = learned(base, [TEXTS[0]] * 2, LABELS[:2])
    learner = trained(base, batch, steps=60)
    one, other = batch[0].rows
    known = len(one.tokens) - len(one.targets) - 1
    codes = slice(known + 2, known + 4)
    assert one.tokens[codes].tolist() == one.targets[:2].tolist(), "where the codes stand"
    swapped = one.tokens.copy()
    swapped[codes] = other.targets[:2]
    behind = learner.loss([replace(batch[0], micro_batches=[[replace(one, tokens=swapped)]])])["r0"]
    assert behind.nats > learner.loss(batch)["r0"].nats + 2
