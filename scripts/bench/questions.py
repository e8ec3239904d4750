"""What everybody answers: a task of eight scores, a choice and a flag, and rows of a shape's lengths, in tokens of a base's own tokenizer.

A shape is that of training, `600/200-900/80 24x1`: instructions and template come to a prefix of 600 tokens, articles and what closes the
prompt to 200 to 900, the answer's JSON to 80, and 24 rows are one job. The articles are tweets of the quickstart, joined and cut. The
words that fields are called by make the answer as long as it has to be. Tokens alone: no model.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench.shapes import Shape
from mlx_distill.recipe.schema import FieldSpec, TaskSpec
from mlx_distill.records import Example, Ids
from mlx_distill.task.answer import AnswerPlan
from mlx_distill.task.fields import closed_values, json_text
from mlx_distill.task.prompt import Prompt

QUICKSTART = Path(__file__).resolve().parents[2] / "recipes" / "quickstart"
TOKENIZER = ("tokenizer.json", "tokenizer_config.json")
"""Of the quickstart's base: byte-level BPE, 4,096 tokens."""
NAMES = (
    "work that stands there now",
    "fire that may yet come of it",
    "day on which it is to begin",
    "land that it takes from all",
    "air that is made clean by it",
    "use of it to those who live near",
    "form in which the proof is told",
    "news that is in it at all",
    "kind of thing that the text tells",
    "true of what is done or only said",
)
"""Eight scores, a choice and a flag; as many words of each as the answer's length takes, joined by an underscore."""
CHOICES = ("sun", "wind", "water", "heat", "rail", "waste", "other")
TRIED = 8
"""Cuts of the instructions, each corrected by what the last one missed."""


@dataclass(frozen=True, slots=True)
class Questions:
    task: TaskSpec
    prefix: Ids
    """What the prompts share."""
    examples: Sequence[Example]
    prompts: Sequence[Ids]
    """Of each example, whole."""
    answer: int
    """Tokens of an answer, as `json` writes it."""
    most: int
    """Tokens that no prompt with its answer exceeds."""

    @property
    def articles(self) -> list[Ids]:
        """The prompts' own tokens, behind the prefix."""
        return [prompt[len(self.prefix) :] for prompt in self.prompts]


def draw(shape: Shape, tokenizer: Any, seed: int = 0) -> Questions:
    """The same for the same arguments, in every process. Lengths may miss the shape's by a token or two, where a cut joins tokens anew."""
    fields, answer = _fields(shape.answer[0], tokenizer)
    task = _task(shape.prefix, fields, tokenizer)
    prompt = Prompt(task, tokenizer)
    closing = len(prompt.ids("a")[0]) - len(prompt.prefix) - 1
    generator = np.random.default_rng(seed)
    lengths = generator.integers(shape.article[0], shape.article[1] + 1, shape.micro * shape.accumulate)
    texts = _texts(tokenizer, [max(1, int(length) - closing) for length in lengths], generator)
    examples = [Example(f"row-{i}", {"text": text}, text, line=i + 1) for i, text in enumerate(texts)]
    prompts = [prompt.ids(example.text)[0] for example in examples]
    return Questions(task, prompt.prefix, examples, prompts, answer, max(map(len, prompts)) + 4 * answer)


def _fields(wanted: int, tokenizer: Any) -> tuple[dict[str, FieldSpec], int]:
    """With as few words as make the answer `wanted` tokens long, and its length."""
    longest = max(len(name.split()) for name in NAMES)
    for words in range(len(NAMES), longest * len(NAMES) + 1):
        fields = _called([words // len(NAMES) + (i < words % len(NAMES)) for i in range(len(NAMES))])
        plan = AnswerPlan(fields, tokenizer)
        length = len(plan.target({name: _middle(spec) for name, spec in fields.items()}).tokens) - (plan.end is not None)
        if length >= wanted:
            break
    return fields, length


def _called(words: Sequence[int]) -> dict[str, FieldSpec]:
    specs = [FieldSpec(kind="score", weight=0.125)] * 8 + [FieldSpec(kind="choice", choices=CHOICES), FieldSpec(kind="flag")]
    return {"_".join(name.split()[:count]): spec for name, count, spec in zip(NAMES, words, specs, strict=True)}


def _middle(spec: FieldSpec) -> Any:
    values = closed_values(spec)
    assert values is not None
    return values[len(values) // 2]


def _task(prefix: int, fields: dict[str, FieldSpec], tokenizer: Any) -> TaskSpec:
    """With instructions that make the prompts' prefix `prefix` tokens long, as nearly as tokens allow."""
    rubric = " ".join(_rubric(fields, prefix))
    offsets = tokenizer(rubric, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    keep = prefix
    for _ in range(TRIED):
        task = TaskSpec(instructions=rubric[: offsets[max(0, keep - 1)][1]], input="{text}", fields=fields)
        missing = prefix - len(Prompt(task, tokenizer).prefix)
        if missing == 0 or keep + missing < 1:
            break
        keep += missing
    return task


def _rubric(fields: Mapping[str, FieldSpec], tokens: int) -> Iterator[str]:
    """Sentences, more than so many tokens of them."""
    for round_ in range(2 + tokens // 100):
        for name in fields:
            yield f"Judge {name.replace('_', ' ')}, from what the text says alone: case {round_} is one in which it says little."


def _texts(tokenizer: Any, lengths: Sequence[int], generator: np.random.Generator) -> Iterator[str]:
    """No tweet stands in two of them, as long as there are enough."""
    with (QUICKSTART / "crisis_t26.csv").open(encoding="utf-8", newline="") as file:
        tweets = [row["text"] for row in csv.DictReader(file)]
    whole = " ".join(tweets[i] for i in generator.permutation(len(tweets)))
    offsets = tokenizer(whole, add_special_tokens=False, return_offsets_mapping=True, verbose=False)["offset_mapping"]
    at = 0
    for length in lengths:
        at = at if at + length <= len(offsets) else 0
        yield whole[offsets[at][0] : offsets[at + length - 1][1]].strip()
        at += length


def schema(questions: Questions) -> str:
    """The task's answers as a JSON schema, as people write one."""
    kinds: dict[str, dict[str, Any]] = {}
    for name, spec in questions.task.fields.items():
        values = closed_values(spec)
        assert values is not None
        kinds[name] = {"type": "boolean"} if spec.kind == "flag" else {"enum": [json.loads(json_text(spec, value)) for value in values]}
    return json.dumps({"type": "object", "properties": kinds, "required": list(kinds), "additionalProperties": False})


def valid(text: str, fields: Mapping[str, FieldSpec]) -> bool:
    """Whether an answer is JSON with every field, in order, each with a value that the task allows."""
    try:
        answer = json.loads(text)
    except ValueError:
        return False
    if not isinstance(answer, dict) or list(answer) != list(fields):
        return False
    return all(
        any(type(value) is type(legal) and value == legal for legal in closed_values(fields[name]) or ()) for name, value in answer.items()
    )
