"""Ways to answer: as they are done, in few forwards, without texts, by samples that vote. What is asked for changes no other answer."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlx_distill.backends.base import Capacity, Student
from mlx_distill.errors import RecipeError
from mlx_distill.inference import engine as module
from mlx_distill.inference.engine import Engine
from mlx_distill.inference.grammar import Grammars
from mlx_distill.inference.lane import ROWS
from mlx_distill.recipe.schema import FieldSpec
from mlx_distill.records import BadRow, Example, Prediction
from mlx_distill.task.answer import AnswerPlan
from mlx_distill.task.decision import decide
from mlx_distill.task.fields import answer_schema, ended
from mlx_distill.task.slots import SlotPlan
from tests.checkpoints import VOCABULARY
from tests.inference.test_engine import (
    CLOSED,
    EVERY_KIND,
    TEXTS,
    Fields,
    answered,
    examples,
    forwarded_whole,
    problems,
    task,
)

BEHIND: Fields = {
    "score": FieldSpec(kind="score"),
    "flag": FieldSpec(kind="flag"),
    "why": FieldSpec(kind="text", max_chars=12),
    "marks": FieldSpec(kind="list", max_items=2, max_chars=4),
}
"""Texts behind the values."""


def engine_of(student: Student, tokenizer: Any, fields: Fields, answer: str = "json", **ways: Any) -> Engine:
    return Engine(student, task(fields), tokenizer, answer=answer, max_tokens=512, **ways)


# as they are done


def test_examples_are_taken_a_window_at_a_time_and_come_out_before_the_next(
    student: Student, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "WINDOW", 4)
    taken: list[str] = []

    def endless() -> Iterator[Example]:
        for number in range(1 << 30):
            taken.append(f"n{number}")
            yield Example(f"n{number}", {}, TEXTS[number % len(TEXTS)])

    stream = engine_of(student, tokenizer, CLOSED).stream(endless())
    found = [next(stream).id for _ in range(10)]
    assert len(set(found)) == 10 and set(found) <= set(taken)
    assert len(taken) <= ROWS + 2 * 4, "as many as are answered at once, and a window or two"
    stream.close()  # type: ignore[attr-defined]


def test_a_stream_that_nobody_listens_to_any_more_leaves_its_engine_as_it_was(student: Student, tokenizer: Any) -> None:
    engine = engine_of(student, tokenizer, CLOSED)
    before = answered(engine, examples(TEXTS))
    stream = engine.stream(examples(TEXTS))
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    again = answered(engine, examples(TEXTS))
    assert {name: row.answer for name, row in again.items()} == {name: row.answer for name, row in before.items()}


def test_a_window_of_long_texts_is_of_few(student: Student, tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WINDOW_CHARS", 50)
    texts = (Example(f"n{number}", {}, "x" * 20) for number in range(400))
    next(engine_of(student, tokenizer, {"flag": FieldSpec(kind="flag")}).stream(texts))
    assert next(texts).id in ("n3", "n6"), "three at a time"


def test_values_stand_in_the_order_of_the_task_whatever_is_known_first(student: Student, tokenizer: Any) -> None:
    fields = {name: BEHIND[name] for name in reversed(BEHIND)}
    for prediction in answered(engine_of(student, tokenizer, fields, "slots"), examples(TEXTS[:2])).values():
        assert list(prediction.answer) == list(prediction.confidence) == list(fields)


def test_two_streams_of_one_engine_may_be_read_in_turns(student: Student, tokenizer: Any) -> None:
    engine = engine_of(student, tokenizer, CLOSED)
    alone = answered(engine, examples(TEXTS))
    one, other = engine.stream(examples(TEXTS)), engine.stream(examples(TEXTS[::-1]))
    found = [next(stream) for _ in TEXTS for stream in (one, other)]
    for stream, own in ((found[::2], alone), (found[1::2], answered(engine, examples(TEXTS[::-1])))):
        assert {row.id: row.answer for row in stream if isinstance(row, Prediction)} == {name: row.answer for name, row in own.items()}


def test_rows_that_are_refused_come_out_a_window_at_a_time(student: Student, tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Though none is answered in between."""
    monkeypatch.setattr(module, "WINDOW", 4)
    engine = Engine(student, task(CLOSED), tokenizer, answer="json", max_tokens=20)
    plenty = (Example(f"n{number}", {}, "x") for number in range(400))
    stream = engine.stream(plenty)
    assert [next(stream).id for _ in range(9)] == [f"n{number}" for number in range(9)]
    assert next(plenty).id == "n12", "three windows were taken"


def test_rows_without_the_shared_prefix_come_out_a_window_at_a_time(
    student: Student, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though no other comes between them."""
    monkeypatch.setattr(module, "WINDOW", 4)
    engine = Engine(student, replace(task(CLOSED), input="the br{text}"), tokenizer, answer="json", max_tokens=512)
    plenty = (Example(f"n{number}", {}, "the bridge rose") for number in range(400))
    stream = engine.stream(plenty)
    assert {next(stream).id for _ in range(8)} == {f"n{number}" for number in range(8)}
    assert next(plenty).id == "n8"


def test_rows_of_every_kind_come_out_once_each(student: Student, tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some with the prefix, some that break it, some that do not fit, in windows that end anywhere."""
    monkeypatch.setattr(module, "WINDOW", 3)
    spec = replace(task({"flag": FieldSpec(kind="flag")}), input="the br{text}")
    engine = Engine(student, spec, tokenizer, answer="json", max_tokens=60)
    texts = ["the bridge rose", "the broken dam", "x", *TEXTS] * 2
    rows = examples(texts)
    found = [(result.id, isinstance(result, BadRow)) for result in engine.stream(rows)]
    assert sorted(name for name, _ in found) == sorted(row.id for row in rows)
    in_order = list(engine.answers(rows))
    assert [row.id for row in in_order] == [row.id for row in rows]
    assert dict(found) == {str(row.id): isinstance(row, BadRow) for row in in_order}


@pytest.mark.parametrize("at_once", [1, 2, 5])
def test_who_has_no_more_rows_for_now_gets_the_answers_to_those_that_were_given(
    student: Student, tokenizer: Any, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    """Rows of every kind, which take several forwards: none of them waits for another that comes only once they are answered."""
    monkeypatch.setattr(module, "WINDOW", 3)
    spec = replace(task({name: CLOSED[name] for name in ("half", "flag")}), input="the br{text}")
    engine = Engine(student, spec, tokenizer, answer="json", max_tokens=75)
    rows = examples(["the bridge rose", "the broken dam", "x", *TEXTS])
    waiting: set[int] = set()

    def coming() -> Iterator[Example | None]:
        for number, row in enumerate(rows):
            waiting.add(number)
            yield row
            if number % at_once == at_once - 1:
                for _ in itertools.takewhile(lambda _: waiting, range(100)):
                    yield None
                assert not waiting, "they are not answered by themselves"

    found: dict[int, Any] = {}
    for number, result in engine.numbered(coming()):
        waiting.remove(number)
        found[number] = result
    assert [found[number].id for number in range(len(rows))] == [row.id for row in rows]


# in few forwards


def test_a_field_costs_a_row_one_forward_and_slots_none(student: Student, tokenizer: Any) -> None:
    rows = examples(TEXTS[:6])
    engine = engine_of(student, tokenizer, CLOSED, whole=False)
    predictions = answered(engine, rows)
    plan = AnswerPlan(CLOSED, tokenizer)
    tokens = sum(len(plan.target(prediction.answer).tokens) - 1 for prediction in predictions.values())
    assert engine.counts.own_steps <= 0.6 * tokens, "of the answers' tokens, so many needed a forward of their own"
    slots = engine_of(student, tokenizer, CLOSED, "slots")
    answered(slots, rows)
    assert slots.counts.own_steps == 0 and slots.counts.forwards == 1


def test_every_token_is_forwarded_once(student: Student, tokenizer: Any) -> None:
    """Prompts behind the prefix, and answers but for what stands behind the last choice; whole distributions cost a few branches more."""
    rows = examples(TEXTS[:6])
    lean, whole = (engine_of(student, tokenizer, CLOSED, whole=w) for w in (False, True))
    predictions = answered(lean, rows)
    answered(whole, rows)
    assert lean.counts.forwarded <= lean.counts.prefill + lean.counts.decoded + lean.counts.forced
    assert sum(prediction.tokens for prediction in predictions.values()) <= lean.counts.forwarded
    assert lean.counts.forwarded < whole.counts.forwarded
    assert whole.counts.own_steps - lean.counts.own_steps <= len(rows), "branches ride with other tokens; at the end they may go alone"


def test_what_an_answer_does_not_hang_on_changes_nothing(student: Student, tokenizer: Any) -> None:
    lean, whole = (answered(engine_of(student, tokenizer, EVERY_KIND, whole=w), examples(TEXTS)) for w in (False, True))
    for name, prediction in whole.items():
        assert lean[name].answer == prediction.answer
        assert lean[name].confidence == pytest.approx(prediction.confidence, abs=1e-5)
        assert not lean[name].probabilities and prediction.probabilities


@pytest.mark.parametrize("answer", ["json", "slots"])
@pytest.mark.parametrize("estimate", ["mean", "median"])
def test_a_score_is_the_number_that_the_recipe_asks_of_its_distribution(
    student: Student, tokenizer: Any, answer: str, estimate: str
) -> None:
    fields: Fields = {
        "score": FieldSpec(kind="score", estimate=estimate),
        "half": FieldSpec(kind="score", max=5, step=0.5, estimate=estimate),
    }
    plan: Any = SlotPlan(fields, tokenizer).places if answer == "slots" else AnswerPlan(fields, tokenizer).slots
    lean = answered(engine_of(student, tokenizer, fields, answer, whole=False), examples(TEXTS[:4]))
    for name, prediction in answered(engine_of(student, tokenizer, fields, answer), examples(TEXTS[:4])).items():
        for slot in plan:
            assert prediction.answer[slot.name] == decide(slot.spec, slot.values, prediction.probabilities[slot.name])
        assert lean[name].answer == pytest.approx(prediction.answer, abs=0.011), "everything that the answer hangs on was asked"


# with texts and without


def written_greedily(base: Path, tokenizer: Any, context: list[int], plan: AnswerPlan) -> dict[str, Any]:
    """Open fields behind a context, one token at a time, each by forwarding everything anew with mlx-lm's own model."""
    grammars, out = Grammars(tokenizer, VOCABULARY), {}
    for slot in plan.slots:
        grammar, tokens = grammars.compile(slot.spec), list[int]()
        context = [*context, *slot.before]
        while not grammar.over:
            if forced := grammar.forced():
                tokens += forced
                continue
            bits = np.unpackbits(grammars.masks([grammar]).view(np.uint8), bitorder="little")[:VOCABULARY].astype(bool)
            logits = np.where(bits, forwarded_whole(base, [*context, *tokens])[-1], -np.inf)
            grammar.consume(int(np.argmax(logits)))
            tokens.append(int(np.argmax(logits)))
        context += tokens
        out[slot.name] = json.loads(grammars.text(tokens))
    return out


@pytest.mark.parametrize("forward", [9, 2048])
def test_texts_are_written_behind_the_codes_of_the_values_that_were_read(
    untrained: Path, student: Student, tokenizer: Any, forward: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(student, "capacity", lambda: Capacity(forward, 1 << 12))
    engine = engine_of(student, tokenizer, BEHIND, "slots")
    plan = SlotPlan(BEHIND, tokenizer)
    closed = answered(engine_of(student, tokenizer, BEHIND, "slots", texts=False), examples(TEXTS))
    for (name, prediction), text in zip(answered(engine, examples(TEXTS)).items(), TEXTS, strict=True):
        assert problems(answer_schema(BEHIND), prediction.answer) == []
        assert {field: prediction.answer[field] for field in ("score", "flag")} == closed[name].answer
        assert list(prediction.answer) == list(BEHIND)
        if text == "Low.":
            context = [*map(int, engine._prompt.ids(text)[0]), *map(int, plan.scaffold), *map(int, plan.codes(prediction.answer))]
            assert plan.texts is not None
            written = written_greedily(untrained, tokenizer, context, plan.texts)
            assert prediction.answer["why"] == ended(written["why"], 12)
            assert prediction.answer["marks"] == [ended(mark, 4) for mark in written["marks"]]


def test_without_texts_the_values_are_what_they_were_with_them(student: Student, tokenizer: Any) -> None:
    for answer in ("json", "slots"):
        both = [answered(engine_of(student, tokenizer, BEHIND, answer, texts=texts), examples(TEXTS)) for texts in (True, False)]
        for name, prediction in both[1].items():
            assert list(prediction.answer) == ["score", "flag"]
            for field in prediction.answer:
                assert prediction.answer[field] == both[0][name].answer[field]
                assert prediction.probabilities[field] == pytest.approx(both[0][name].probabilities[field], abs=1e-5)


def test_texts_that_other_fields_were_learned_behind_cannot_be_left_out(student: Student, tokenizer: Any) -> None:
    with pytest.raises(RecipeError, match="cannot be left out"):
        engine_of(student, tokenizer, EVERY_KIND, texts=False)
