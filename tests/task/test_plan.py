"""Which fields are answered without texts."""

from __future__ import annotations

import pytest

from mlx_distill.errors import RecipeError
from mlx_distill.recipe.schema import FieldSpec
from mlx_distill.task.answer import AnswerPlan
from mlx_distill.task.plan import plan, without_texts
from mlx_distill.task.slots import SlotPlan
from tests.small_tokenizers import tokenizer

SCORE, FLAG, TEXT, LIST = (FieldSpec(kind=kind) for kind in ("score", "flag", "text", "list"))
LAST = {"s": SCORE, "f": FLAG, "why": TEXT, "tags": LIST}
BETWEEN = {"s": SCORE, "why": TEXT, "f": FLAG, "tags": LIST}


def test_an_answer_is_written_or_read() -> None:
    assert isinstance(plan("json", LAST, tokenizer("letters")), AnswerPlan)
    assert isinstance(plan("slots", LAST, tokenizer("letters")), SlotPlan)


@pytest.mark.parametrize("answer", ["json", "slots"])
def test_texts_behind_all_values_can_be_left_out(answer: str) -> None:
    assert without_texts(answer, LAST) == ("s", "f")
    assert without_texts(answer, {"s": SCORE, "f": FLAG}) == ("s", "f"), "where there are none, nothing changes"


def test_a_text_before_a_value_can_be_left_out_of_slots_alone() -> None:
    """In json the flag was learned behind the text: without it the student would read what it never saw."""
    assert without_texts("slots", BETWEEN) == ("s", "f")
    with pytest.raises(RecipeError, match="why cannot be left out: f was learned behind it") as caught:
        without_texts("json", BETWEEN)
    assert "answer: slots" in str(caught.value.hint)


@pytest.mark.parametrize("answer", ["json", "slots"])
def test_a_task_of_texts_alone_has_nothing_left(answer: str) -> None:
    with pytest.raises(RecipeError, match="no field to answer"):
        without_texts(answer, {"why": TEXT, "tags": LIST})
