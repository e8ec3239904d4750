"""The Python door: records in, answers and bad rows out, however long the stream and whatever is in it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mlx_distill.backends.choose import choose
from mlx_distill.inference.engine import WINDOW, Engine
from mlx_distill.recipe.load import load
from mlx_distill.records import BadRow, Prediction
from mlx_distill.task.prompt import load_tokenizer
from mlx_distill.workflows.students import Student
from tests.students import recipe, tiny_base


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Student:
    folder: Path = tmp_path_factory.mktemp("door")
    base, whole = tiny_base(folder), load(recipe(folder / "floods.yaml")).recipe
    assert whole is not None
    opened = choose("mlx").open(base)
    engine = Engine(opened, whole.task, load_tokenizer(base), answer="json", max_tokens=120)
    return Student("floods", whole, engine, opened, whole.task.fields)


def test_of_an_endless_stream_of_bad_records_each_comes_out_soon(student: Student) -> None:
    pulled = itertools.count()
    found = student.answers({"id": next(pulled)} for _ in itertools.repeat(None))
    for number in range(1, 3 * WINDOW):
        bad = next(found)
        assert isinstance(bad, BadRow) and bad.line == number
    assert next(pulled) <= 4 * WINDOW, "no more than a window waits"


def test_bad_records_do_not_wait_for_the_stream_s_end(student: Student) -> None:
    def records() -> Iterator[dict[str, Any]]:
        yield {"id": "good", "text": "The river rose."}
        for _ in range(2 * WINDOW):
            yield {"id": "bad"}
        raise AssertionError("the end is not asked for")

    first = list(itertools.islice(student.answers(records()), WINDOW))
    assert sum(isinstance(row, Prediction) for row in first) == 1


@pytest.mark.parametrize(("record", "kind"), [("The river rose.", "a str"), (7, "an int"), (None, "None"), (["text"], "a list")])
def test_a_record_that_is_no_mapping_is_a_bad_row_and_the_others_are_answered(student: Student, record: object, kind: str) -> None:
    rows: list[Any] = [{"id": "a", "text": "wet"}, record, {"id": "b", "text": "dry"}]
    found = {row.id: row for row in student.answers(rows)}
    assert isinstance(found["a"], Prediction) and isinstance(found["b"], Prediction)
    assert found[None] == BadRow(f'record 2 is {kind}, not a mapping of columns: {{"text": ...}}', 2)
