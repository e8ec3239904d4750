"""Several answers to one text, drawn and put to the vote: what is drawn follows from seed, row, sample and field alone."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlx_distill.backends.base import Capacity, Student
from mlx_distill.inference.row import Row
from mlx_distill.inference.samples import vote
from mlx_distill.recipe.schema import FieldSpec
from mlx_distill.records import Example, Prediction
from mlx_distill.task.answer import AnswerPlan
from mlx_distill.task.fields import answer_schema, ended
from tests.inference.test_engine import CLOSED, EVERY_KIND, TEXTS, Fields, answered, by_brute_force, examples, problems
from tests.inference.test_ways import BEHIND, engine_of


def sampled(student: Student, tokenizer: Any, fields: Fields, rows: Sequence[Example], **ways: Any) -> dict[str, Prediction]:
    return answered(engine_of(student, tokenizer, fields, **{"samples": 5, "temperature": 0.8, "seed": 3, **ways}), rows)


def test_samples_of_a_row_follow_from_the_seed_and_from_nothing_around_it(
    student: Student, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = examples(TEXTS)
    together = sampled(student, tokenizer, EVERY_KIND, rows)
    assert all(problems(answer_schema(EVERY_KIND), prediction.answer) == [] for prediction in together.values())
    monkeypatch.setattr(student, "capacity", lambda: Capacity(64, 200))
    for way in (sampled(student, tokenizer, EVERY_KIND, rows[::-1]), sampled(student, tokenizer, EVERY_KIND, rows[1:2])):
        for name, prediction in way.items():
            assert prediction.answer == together[name].answer
            assert prediction.confidence == pytest.approx(together[name].confidence, abs=1e-4)
    other = sampled(student, tokenizer, EVERY_KIND, rows, seed=4)
    assert any(other[name].answer != prediction.answer for name, prediction in together.items())


def test_a_first_field_s_vote_is_its_own_distribution_and_later_ones_average_over_what_was_drawn(
    untrained: Path, student: Student, tokenizer: Any
) -> None:
    """The first field hangs on nothing that was drawn. Of the second, many samples come to what summing over the first would give."""
    fields: Fields = {"flag": FieldSpec(kind="flag"), "kind": FieldSpec(kind="choice", choices=("a", "b"))}
    rows = examples(TEXTS[1:2])
    greedy, drawn = (
        answered(engine_of(student, tokenizer, fields), rows),
        sampled(student, tokenizer, fields, rows, samples=400, temperature=1.0),
    )
    assert drawn["r0"].probabilities["flag"] == pytest.approx(greedy["r0"].probabilities["flag"], abs=1e-5)
    plan, prompt = AnswerPlan(fields, tokenizer), engine_of(student, tokenizer, fields)._prompt
    summed = np.zeros(2)
    for probability, value in zip(drawn["r0"].probabilities["flag"], plan.slots[0].tokens, strict=True):
        context = [*map(int, prompt.ids(rows[0].text)[0]), *plan.slots[0].before, *value, *plan.slots[1].before]
        summed += probability * np.array(by_brute_force(untrained, context, plan.slots[1].tokens))
    assert drawn["r0"].probabilities["kind"] == pytest.approx(summed, abs=0.02)
    assert drawn["r0"].confidence["kind"] == max(drawn["r0"].probabilities["kind"])


def test_a_sample_is_drawn_from_everything_that_its_field_may_be(student: Student, tokenizer: Any) -> None:
    """Not only from what the likeliest answer hangs on."""
    fields: Fields = {"score": FieldSpec(kind="score", max=110)}
    greedy = answered(engine_of(student, tokenizer, fields), examples(TEXTS[:3]))
    drawn = sampled(student, tokenizer, fields, examples(TEXTS[:3]), samples=2, temperature=1.0)
    for name, prediction in greedy.items():
        assert drawn[name].probabilities["score"] == pytest.approx(prediction.probabilities["score"], abs=1e-5)


def test_each_token_of_a_text_is_a_draw_of_its_own(student: Student, tokenizer: Any) -> None:
    fields: Fields = {"why": FieldSpec(kind="text", max_chars=30)}
    drawn = sampled(student, tokenizer, fields, examples(TEXTS[:3]), samples=2, temperature=100.0)
    assert all(len(set(str(prediction.answer["why"]))) > 8 for prediction in drawn.values()), "at that temperature any letter may follow"


def test_the_vote_takes_the_texts_of_the_sample_that_agrees_with_it() -> None:
    fields: Fields = {"flag": FieldSpec(kind="flag"), "why": FieldSpec(kind="text")}
    example = examples(["x"])[0]
    rows = []
    for flag, why, sure in ((False, "low", 0.6), (True, "high", 0.2), (True, "high", 0.3)):
        row = Row(example, np.zeros(1, np.int32), False, answer={"flag": flag, "why": why}, forwarded=5)
        row.probabilities["flag"] = [sure, 1 - sure]
        rows.append(row)
    voted = vote(rows, fields)
    assert voted.answer == {"flag": True, "why": "high"}
    assert voted.forwarded == 15
    assert voted.confidence == {"flag": pytest.approx(1 - 1.1 / 3), "why": pytest.approx(2 / 3)}


def test_lower_temperatures_agree_more(student: Student, tokenizer: Any) -> None:
    rows = examples(TEXTS[:3])
    cold, hot = (sampled(student, tokenizer, CLOSED, rows, temperature=t) for t in (0.2, 2.0))
    for name in cold:
        assert sum(cold[name].confidence.values()) > sum(hot[name].confidence.values())
    greedy = answered(engine_of(student, tokenizer, {"flag": CLOSED["flag"]}), rows)
    drawn = sampled(student, tokenizer, {"flag": CLOSED["flag"]}, rows, temperature=0.5)
    for name, prediction in drawn.items():
        squared = np.square(greedy[name].probabilities["flag"])
        assert prediction.probabilities["flag"] == pytest.approx(squared / squared.sum(), abs=1e-4)


def test_a_line_of_json_holds_what_was_voted(student: Student, tokenizer: Any) -> None:
    prediction = sampled(student, tokenizer, BEHIND, examples(TEXTS[:1]))["r0"]
    assert json.loads(AnswerPlan(BEHIND, tokenizer).render(prediction.answer)) == prediction.answer


def test_a_text_at_its_limit_ends_with_a_word(student: Student, tokenizer: Any) -> None:
    fields: Fields = {"why": FieldSpec(kind="text", max_chars=12), "marks": FieldSpec(kind="list", max_items=2, max_chars=12)}
    found = sampled(student, tokenizer, fields, examples(TEXTS), samples=2, temperature=3.0).values()
    texts = [text for prediction in found for text in (prediction.answer["why"], *prediction.answer["marks"])]  # type: ignore[misc]
    assert all(len(text) <= 12 and ended(text, 12) == text for text in texts)
    assert any(text.endswith("…") for text in texts), "at that temperature hardly any text ends by itself"
