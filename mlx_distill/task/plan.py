"""Which plan a recipe's `answer` means: how a row is taught, and how it is answered, with its texts or without."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mlx_distill.errors import RecipeError
from mlx_distill.recipe.schema import FieldSpec
from mlx_distill.task.answer import AnswerPlan
from mlx_distill.task.fields import OPEN
from mlx_distill.task.slots import SlotPlan


def plan(answer: str, fields: Mapping[str, FieldSpec], tokenizer: Any) -> AnswerPlan | SlotPlan:
    """`answer` is json or slots. Raises CheckpointError where the tokenizer does not serve."""
    return SlotPlan(fields, tokenizer) if answer == "slots" else AnswerPlan(fields, tokenizer)


def without_texts(answer: str, fields: Mapping[str, FieldSpec]) -> tuple[str, ...]:
    """Names of the fields that are answered where texts and lists are left out, in order; of a task without any, all.

    In slots every value is read before a text is written. In json a field was learned behind all that stand before it, so only what
    stands behind the last value can be left out; the pieces of the answer stay those of the whole task. Raises RecipeError.
    """
    closed = tuple(name for name, spec in fields.items() if spec.kind not in OPEN)
    if not closed:
        raise RecipeError("without texts and lists this task has no field to answer", hint="leave --no-text out")
    before = [name for name in list(fields)[: list(fields).index(closed[-1])] if fields[name].kind in OPEN]
    if answer == "json" and before:
        raise RecipeError(
            f"{before[0]} cannot be left out: {closed[-1]} was learned behind it",
            hint="leave --no-text out; or train with texts and lists as the last fields, or with answer: slots",
        )
    return closed
