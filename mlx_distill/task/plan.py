"""Which plan a recipe's `answer` means: how a row is taught, and how it is answered."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mlx_distill.recipe.schema import FieldSpec
from mlx_distill.task.answer import AnswerPlan
from mlx_distill.task.slots import SlotPlan


def plan(answer: str, fields: Mapping[str, FieldSpec], tokenizer: Any) -> AnswerPlan | SlotPlan:
    """`answer` is json or slots. Raises CheckpointError where the tokenizer does not serve."""
    return SlotPlan(fields, tokenizer) if answer == "slots" else AnswerPlan(fields, tokenizer)
