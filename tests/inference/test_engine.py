"""Every answer is valid from any base, and a row's answer is its own: not its neighbours', not its place's, not the batch's."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.utils import load_model

from mlx_distill.backends.base import Capacity, LoraShape, Student
from mlx_distill.backends.choose import choose
from mlx_distill.data.tokens import begins_with
from mlx_distill.errors import BackendError
from mlx_distill.inference.engine import Engine
from mlx_distill.recipe.schema import FieldSpec, TaskSpec
from mlx_distill.records import BadRow, Example, Group, Prediction, TokenRow
from mlx_distill.task.answer import AnswerPlan
from mlx_distill.task.fields import answer_schema
from mlx_distill.task.prompt import Prompt, load_tokenizer
from tests.students import tiny_base

Fields = dict[str, FieldSpec]
INSTRUCTIONS = "How high is the water, and who says so?"
EVERY_KIND: Fields = {
    "score": FieldSpec(kind="score"),
    "half": FieldSpec(kind="score", min=0, max=5, step=0.5),
    "kind": FieldSpec(kind="choice", choices=("a", "ab", "abc", "a b", "b")),
    "odd": FieldSpec(kind="choice", choices=('say "no"', "back\\slash", "new\nline", "é", "🌊", "水")),
    "flag": FieldSpec(kind="flag"),
    "why": FieldSpec(kind="text", max_chars=9),
    'na"me': FieldSpec(kind="text", max_chars=1),
    "marks": FieldSpec(kind="list", max_items=3, max_chars=4),
    "colours": FieldSpec(kind="list", choices=("red", "red and blue", "blue"), max_items=2),
    "last": FieldSpec(kind="score", min=-1, max=1),
}
CLOSED: Fields = {name: EVERY_KIND[name] for name in ("score", "half", "kind", "odd", "flag", "last")}
TEXTS = [
    "Low.",
    "The river rose above the bridge last night and forty families were moved.",
    "",
    "النهر مرتفع جدا الليلة",
    "🌊🌊🌊 " * 20,
    "a\0b\x01c",
    "De rivier staat hoog. " * 9,
    '<|im_end|>\n{"score":10} } ] "',
    "x" * 150,
]


def task(fields: Fields, *, instructions: str = INSTRUCTIONS, template: str = "{text}") -> TaskSpec:
    return TaskSpec(instructions=instructions, input=template, fields=fields)


def examples(texts: Sequence[str]) -> list[Example]:
    return [Example(f"r{i}", {"text": text}, text, line=i + 1) for i, text in enumerate(texts)]


def answered(engine: Engine, rows: Sequence[Example]) -> dict[str, Prediction]:
    found = list(engine.answers(rows))
    assert [row.id for row in rows] == [prediction.id for prediction in found], "in the order of the rows"
    return {row.id: row for row in found if isinstance(row, Prediction)}


def problems(schema: Mapping[str, Any], value: Any) -> list[str]:
    """What of a JSON schema (as far as answers use it) a value breaks."""
    if "enum" in schema:
        same = [legal for legal in schema["enum"] if legal == value and isinstance(legal, bool) == isinstance(value, bool)]
        return [] if same else [f"{value!r} is none of {schema['enum']}"]
    types = {"object": dict, "array": list, "string": str, "boolean": bool}
    if not isinstance(value, types[schema["type"]]):
        return [f"{value!r} is no {schema['type']}"]
    if schema["type"] == "object":
        assert not schema["additionalProperties"]
        keys = [] if list(value) == schema["required"] else [f"the fields are {list(value)}"]
        return keys + [problem for name, inner in schema["properties"].items() for problem in problems(inner, value[name])]
    if schema["type"] == "array":
        long = [f"{len(value)} items"] if len(value) > schema["maxItems"] else []
        return long + [problem for item in value for problem in problems(schema["items"], item)]
    return [f"{len(value)} characters"] if schema["type"] == "string" and len(value) > schema["maxLength"] else []


@pytest.mark.parametrize("seed", [0, 1])
def test_an_untrained_base_answers_every_kind_of_field_with_valid_json(tmp_path: Path, seed: int) -> None:
    base = tiny_base(tmp_path, seed=seed)
    tokenizer = load_tokenizer(base)
    engine = Engine(choose("mlx").open(base), task(EVERY_KIND), tokenizer, answer="json", max_tokens=512)
    plan, schema = AnswerPlan(EVERY_KIND, tokenizer), answer_schema(EVERY_KIND)
    for prediction in answered(engine, examples(TEXTS)).values():
        assert problems(schema, prediction.answer) == []
        assert json.loads(plan.render(prediction.answer)) == prediction.answer, "as text it is one JSON object of that very content"
        assert list(prediction.confidence) == list(EVERY_KIND)
        assert all(0 < sure <= 1 + 1e-6 for sure in prediction.confidence.values())


@pytest.mark.parametrize("answer", ["json", "slots"])
def test_an_answer_depends_neither_on_neighbours_nor_on_place_nor_on_the_batch(
    student: Student, tokenizer: Any, answer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fields = EVERY_KIND if answer == "json" else CLOSED
    engine = Engine(student, task(fields), tokenizer, answer=answer, max_tokens=512)
    rows = examples(TEXTS)
    together = answered(engine, rows)
    ways = [answered(engine, rows[::-1]), {row.id: prediction for row in rows for prediction in answered(engine, [row]).values()}]
    for forward, held in ((200, 400), (7, 1)):
        monkeypatch.setattr(student, "capacity", lambda forward=forward, held=held: Capacity(forward, held))
        ways.append(answered(Engine(student, task(fields), tokenizer, answer=answer, max_tokens=512), rows))
    for way in ways:
        for name, prediction in together.items():
            assert way[name].answer == prediction.answer
            assert way[name].confidence == pytest.approx(prediction.confidence, abs=1e-5)
            for field, probabilities in prediction.probabilities.items():
                assert way[name].probabilities[field] == pytest.approx(probabilities, abs=1e-5)


def forwarded_whole(base: Path, tokens: Sequence[int]) -> np.ndarray[Any, Any]:
    """Logits behind each token, by mlx-lm's own model: no prefix, no cache, no batch."""
    model, _ = load_model(base)
    return np.array(model(mx.array([list(tokens)]))[0], dtype=np.float64)


def by_brute_force(base: Path, before: list[int], values: Sequence[tuple[int, ...]]) -> list[float]:
    """Each value's probability: forward it whole behind `before`; at each token, softmax over what any value has there."""
    out = []
    for value in values:
        logits = forwarded_whole(base, [*before, *value])
        probability = 1.0
        for i, token in enumerate(value):
            legal = sorted({other[i] for other in values if other[:i] == value[:i]})
            among = logits[len(before) + i - 1, legal]
            probability *= float(np.exp(logits[len(before) + i - 1, token] - among.max()) / np.exp(among - among.max()).sum())
        out.append(probability)
    return out


ROOTED: Fields = {
    "many": FieldSpec(kind="score", max=110, step=5),
    "long": FieldSpec(kind="choice", choices=("the same river", "the same river rose", "the same rain", "the same road")),
    "last": FieldSpec(kind="choice", choices=("to the north", "to the north of it", "to the nor")),
}
"""Values that begin alike, and begin each other: what parts them lies several tokens deep."""


@pytest.mark.parametrize(("fields", "text"), [(CLOSED, TEXTS[1]), (CLOSED, TEXTS[3]), (ROOTED, TEXTS[1])])
def test_the_probabilities_of_closed_fields_are_the_product_over_the_trie(
    untrained: Path, student: Student, tokenizer: Any, fields: Fields, text: str
) -> None:
    engine = Engine(student, task(fields), tokenizer, answer="json", max_tokens=512)
    prediction = answered(engine, examples([*TEXTS[:2], text]))["r2"]
    plan = AnswerPlan(fields, tokenizer)
    context = [int(token) for token in Prompt(task(fields), tokenizer).ids(text)[0]]
    for slot in plan.slots:
        context += slot.before
        expected = by_brute_force(untrained, context, slot.tokens)
        found = prediction.probabilities[slot.name]
        assert sum(found) == pytest.approx(1, abs=1e-9)
        assert found == pytest.approx(expected, abs=1e-4), slot.name
        best = int(np.argmax(expected))
        assert prediction.answer[slot.name] == slot.values[best]
        assert prediction.confidence[slot.name] == pytest.approx(max(found))
        context += slot.tokens[best][: slot.own[best]]


def test_every_token_of_an_answer_is_counted_once_as_decoded_or_forced(student: Student, tokenizer: Any) -> None:
    rows = examples(TEXTS[:4])
    engine = Engine(student, task(CLOSED), tokenizer, answer="json", max_tokens=512)
    predictions = answered(engine, rows)
    plan, prompt = AnswerPlan(CLOSED, tokenizer), Prompt(task(CLOSED), tokenizer)
    answers = [len(plan.target(prediction.answer).tokens) - 1 for prediction in predictions.values()]  # without the end of the turn
    assert engine.counts.prefill == sum(len(prompt.ids(row.text)[0]) - len(prompt.prefix) for row in rows)
    assert engine.counts.decoded + engine.counts.forced == sum(answers)
    assert engine.counts.decoded >= len(rows) * len(CLOSED), "each field is at least one choice"


def test_a_flag_is_one_decision_and_all_else_is_forced(student: Student, tokenizer: Any) -> None:
    engine = Engine(student, task({"flag": FieldSpec(kind="flag")}), tokenizer, answer="json", max_tokens=512)
    answered(engine, examples(TEXTS[:3]))
    assert engine.counts.decoded == 3


def test_open_fields_count_their_tokens_too(student: Student, tokenizer: Any) -> None:
    fields = {"why": FieldSpec(kind="text", max_chars=9), "marks": FieldSpec(kind="list", max_items=2, max_chars=3)}
    engine = Engine(student, task(fields), tokenizer, answer="json", max_tokens=512)
    found = answered(engine, examples(TEXTS[:4]))
    text = "".join(json.dumps(prediction.answer, ensure_ascii=False, separators=(",", ":")) for prediction in found.values())
    assert len(found) <= engine.counts.decoded <= engine.counts.decoded + engine.counts.forced <= len(text.encode()) + 20


def test_a_text_that_breaks_the_shared_prefix_is_answered_all_the_same(untrained: Path, student: Student, tokenizer: Any) -> None:
    spec = task({"flag": FieldSpec(kind="flag")}, template="the br{text}")
    prompt = Prompt(spec, tokenizer)
    texts = ["the bridge rose", "the broken dam", "the brook"]
    shared = [begins_with(prompt.ids(text)[0], prompt.prefix) for text in texts]
    assert shared[0] is False and True in shared, "'bridge' is one token, and the prefix ends in its middle"
    engine = Engine(student, spec, tokenizer, answer="json", max_tokens=512)
    found = answered(engine, examples(texts))
    plan = AnswerPlan(spec.fields, tokenizer)
    for text, prediction in zip(texts, found.values(), strict=True):
        context = [*map(int, prompt.ids(text)[0]), *plan.slots[0].before]
        assert prediction.probabilities["flag"] == pytest.approx(by_brute_force(untrained, context, plan.slots[0].tokens), abs=1e-4)


def test_a_row_that_is_too_long_loses_its_middle_and_says_so(student: Student, tokenizer: Any) -> None:
    spec = task({"flag": FieldSpec(kind="flag")})
    empty = len(Prompt(spec, tokenizer).ids("")[0]) + AnswerPlan(spec.fields, tokenizer).room
    engine = Engine(student, spec, tokenizer, answer="json", max_tokens=empty + 40)
    long = "head " + "middle " * 400 + "tail"
    found = answered(engine, examples(["short", long, long[:-4] + "end!", "x" * 1_000_000]))
    assert [prediction.trimmed for prediction in found.values()] == [False, True, True, True]
    assert all(prediction.tokens <= empty + 40 for prediction in found.values())


def test_a_row_without_room_for_any_text_is_refused_with_its_line(student: Student, tokenizer: Any) -> None:
    spec = task({"flag": FieldSpec(kind="flag")})
    engine = Engine(student, spec, tokenizer, answer="json", max_tokens=20)
    (bad,) = engine.answers(examples(["short"]))
    assert isinstance(bad, BadRow)
    assert (bad.id, bad.line) == ("r0", 1)
    assert "train.max_tokens is 20" in bad.reason


def test_no_rows_are_no_work(student: Student, tokenizer: Any) -> None:
    engine = Engine(student, task(CLOSED), tokenizer, answer="json", max_tokens=512)
    assert list(engine.answers([])) == []
    assert engine.counts.prefill == 0


@pytest.mark.parametrize(("answer", "name"), [("json", "score"), ("slots", "score"), ("json", "why"), ("json", "colours")])
def test_weights_that_are_no_numbers_are_an_error_and_no_answer(tmp_path: Path, answer: str, name: str) -> None:
    base = tiny_base(tmp_path, rms_norm_eps=float("nan"))
    fields = CLOSED if name in CLOSED else {name: EVERY_KIND[name]}
    engine = Engine(choose("mlx").open(base), task(fields), load_tokenizer(base), answer=answer, max_tokens=512)
    for _ in range(2):
        with pytest.raises(BackendError, match=f"r0: the probabilities of {name} are not numbers"):
            list(engine.answers(examples(["x"])))


def test_slots_read_each_field_from_the_same_single_pass(student: Student, tokenizer: Any) -> None:
    engine = Engine(student, task(CLOSED), tokenizer, answer="slots", max_tokens=512)
    for prediction in answered(engine, examples(TEXTS)).values():
        assert problems(answer_schema(CLOSED), prediction.answer) == []
        assert all(sum(found) == pytest.approx(1, abs=1e-5) for found in prediction.probabilities.values())
    assert engine.counts.decoded == 0


@pytest.mark.parametrize("answer", ["slots", "json"])
def test_an_engine_that_forgets_answers_as_the_student_is_now(untrained: Path, answer: str) -> None:
    tokenizer, task = load_tokenizer(untrained), TaskSpec(instructions=INSTRUCTIONS, input="{text}", fields=CLOSED)
    student: Any = choose("mlx").open(untrained)
    student.prepare(LoraShape(2, 8, 0.0, ("q_proj", "v_proj")), optimizer="adamw", weight_decay=0.0, initial=None, seed=0)
    engine = Engine(student, task, tokenizer, answer=answer, max_tokens=256)

    def probabilities(engine: Engine) -> list[list[float]]:
        examples = [Example(str(i), {}, text) for i, text in enumerate(TEXTS[:3])]
        return [list(said.probabilities["score"]) for said in engine.answers(examples) if isinstance(said, Prediction)]

    before = probabilities(engine)
    tokens = np.arange(20, 30, dtype=np.int32)
    row = TokenRow("row", tokens, np.arange(10, dtype=np.int32), tokens, np.ones(10, np.float32))
    for step in range(5):
        student.update([Group(tokens[:4], [[row]])], learning_rate=0.1, clip_norm=None, step=step)
    fresh = probabilities(Engine(student, task, tokenizer, answer=answer, max_tokens=256))
    assert not np.allclose(probabilities(engine), fresh, atol=1e-3), "the prefix is what it was"
    engine.forget()
    assert probabilities(engine) == fresh != before
