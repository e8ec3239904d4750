"""How an answer is asked for, token by token, held against a student that is a plain function of the tokens before it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from mlx_distill.inference.ask import Program, Told
from mlx_distill.inference.row import Counts, Row, Way
from mlx_distill.inference.slots import SlotReader
from mlx_distill.inference.trie import NEGLIGIBLE, branches
from mlx_distill.inference.written import Writer
from mlx_distill.recipe.schema import FieldSpec
from mlx_distill.records import Example
from mlx_distill.task.answer import AnswerPlan
from mlx_distill.task.prompt import load_tokenizer
from mlx_distill.task.slots import SlotPlan
from tests.checkpoints import VOCABULARY, make_checkpoint

RIVERS = ("the same river", "the same river rose", "the same rain", "the same road", "the bridge")
FIELDS = {
    "one": FieldSpec(kind="choice", choices=("the same river", "the same river rose", "the same rain")),
    "score": FieldSpec(kind="score", max=110, step=5),
    "two": FieldSpec(kind="choice", choices=RIVERS),
    "flag": FieldSpec(kind="flag"),
    "three": FieldSpec(kind="choice", choices=RIVERS),
}
"""Values that begin each other, that share a long beginning, that part again and again."""


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return load_tokenizer(make_checkpoint(tmp_path_factory.mktemp("written")))


def says(tokens: Sequence[int], allowed: Sequence[int], sharpness: float) -> NDArray[np.float32]:
    """Log probabilities over the allowed tokens behind these."""
    scores = sharpness * np.random.default_rng([17, *tokens]).normal(size=VOCABULARY)[list(allowed)]
    return np.asarray(scores - np.log(np.exp(scores).sum()), np.float32)


def answered(program: Program, of: Row, fields: int, sharpness: float) -> None:
    """Whatever is asked is told as the student says it."""
    stands, ask = list[int](), next(program)
    while True:
        assert len(ask.tokens) + len(ask.asides), "something is asked"
        assert ask.last == (len(of.answer) == fields), "where all is answered, it is asked for the last time"
        beside = [says([*stands, *path], ids, sharpness) for path, ids in ask.asides]
        stands += ask.tokens
        own = [says(stands[: len(stands) + 1 + at], ids, sharpness) for at, ids in zip(ask.at, ask.allowed, strict=True)]
        try:
            ask = program.send(Told([*own, *beside]))
        except StopIteration:
            return


def expected(plan: AnswerPlan, answer: dict[str, Any], sharpness: float) -> dict[str, NDArray[np.float64]]:
    """Each field's distribution behind the values that were answered before it: the product over its trie."""
    stands, out = list[int](), {}
    for slot in plan.slots:
        stands += slot.before
        shares = np.ones(len(slot.values))
        for point in branches(slot.tokens):
            for child, log in zip(point.children, says([*stands, *point.path], list(point.tokens), sharpness), strict=True):
                shares[list(child)] *= np.exp(log)
        out[slot.name] = shares
        best = slot.values.index(answer[slot.name])
        stands += slot.tokens[best][: slot.own[best]]
    return out


def row(name: str = "r", sample: int = 0) -> Row:
    return Row(Example(name, {}, ""), np.zeros(0, np.int32), False, sample)


@pytest.mark.parametrize("sharpness", [0.3, 1.0, 2.0, 4.0])
@pytest.mark.parametrize("whole", [True, False])
def test_every_field_is_answered_as_its_trie_says_whatever_was_asked_late(tokenizer: Any, sharpness: float, whole: bool) -> None:
    for order in range(8):
        fields = {name: FIELDS[name] for name in np.random.default_rng(order).permutation(list(FIELDS))}
        plan, counts, of = AnswerPlan(fields, tokenizer), Counts(), row()
        answered(Writer(plan, tokenizer, VOCABULARY, counts, Way(whole=whole)).program(of), of, len(fields), sharpness)
        shares = expected(plan, of.answer, sharpness)
        for slot in plan.slots:
            best = int(np.argmax(shares[slot.name]))
            assert of.answer[slot.name] == slot.values[best]
            assert of.confidence[slot.name] == pytest.approx(shares[slot.name][best], abs=1e-5)
            if whole:
                assert of.probabilities[slot.name] == pytest.approx(shares[slot.name], abs=NEGLIGIBLE)
        decided = sum(slot.values.index(of.answer[slot.name]) in p.members for slot in plan.slots for p in branches(slot.tokens))
        assert counts.decoded == decided, "a choice is a point where values parted on the way to the answer"
        assert counts.decoded + counts.forced == len(plan.target(of.answer).tokens) - 1


def test_what_is_drawn_comes_as_often_as_it_is_likely_at_that_temperature(tokenizer: Any) -> None:
    fields = {"two": FIELDS["two"]}
    plan, draws, way = AnswerPlan(fields, tokenizer), 600, Way(temperature=0.5, samples=600)
    writer = Writer(plan, tokenizer, VOCABULARY, Counts(), way)
    samples = [row(sample=i) for i in range(draws)]
    for sample in samples:
        answered(writer.program(sample), sample, 1, 1.0)
    shares = expected(plan, samples[0].answer, 1.0)["two"] ** 2
    shares /= shares.sum()
    found = np.array([sum(sample.answer["two"] == value for sample in samples) for value in RIVERS]) / draws
    assert (np.abs(found - shares) < 4 * np.sqrt(shares * (1 - shares) / draws) + 1e-3).all()
    assert samples[0].probabilities["two"] == pytest.approx(shares, abs=10 * NEGLIGIBLE)
    others = [row(f"r{i}") for i in range(40)]
    for other in others:
        answered(writer.program(other), other, 1, 1.0)
    assert len({str(other.answer["two"]) for other in others}) > 1, "rows of other names draw otherwise"


def test_a_text_is_as_sure_as_its_tokens_are_on_average(tokenizer: Any) -> None:
    writer = Writer(AnswerPlan({"why": FieldSpec(kind="text", max_chars=3)}, tokenizer), tokenizer, VOCABULARY, Counts(), Way())
    of, logs = row(), [-0.5, -1.5, -1.0, -2.0]
    program = writer.program(of)
    next(program)
    with pytest.raises(StopIteration):
        for letter, log in zip('"ab"', logs, strict=True):
            program.send(Told((), tokenizer.convert_tokens_to_ids(letter), log))
    assert of.answer["why"] == "ab"
    assert of.confidence["why"] == pytest.approx(np.exp(-1.25))


@pytest.mark.parametrize("texts", [True, False])
def test_slots_are_the_last_that_is_asked_where_no_text_follows(tokenizer: Any, texts: bool) -> None:
    plan = SlotPlan({"flag": FIELDS["flag"], "why": FieldSpec(kind="text", max_chars=3)}, tokenizer)
    counts = Counts()
    program = SlotReader(plan, tokenizer, VOCABULARY, counts, Way(), texts=texts).program(row())
    ask = next(program)
    assert ask.last is (not texts)
    assert list(ask.tokens) == plan.scaffold.tolist()
    if texts and plan.texts is not None:
        behind = program.send(Told([np.log(np.full(2, 0.5, np.float32))])).tokens
        assert list(behind) == [*plan.codes({"flag": False}), *plan.texts.slots[0].before]
        assert counts.forced == len(ask.tokens) + len(behind)
