"""What one backend saved another opens: the same answers, and the same bytes when it is saved again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mlx_distill.backends.base import LoraShape
from tests.conformance.contestants import CLOSE, PAIRS, gap, log_probabilities, open_student, prepared, random_adapter, some_groups
from tests.conftest import MakeBase
from tests.rows import random_ids, shape_of

KINDS: dict[str, LoraShape | None] = {
    "lora": shape_of(), "dora": shape_of(dora=True), "rslora of the last layer": replace(shape_of(), rslora=True, layers=1), "whole": None,
}  # fmt: skip


@pytest.mark.parametrize(("first", "second"), PAIRS)
@pytest.mark.parametrize("kind", KINDS)
def test_what_one_learned_another_answers_and_saves_again_byte_for_byte(
    base: MakeBase, tmp_path: Path, first: str, second: str, kind: str
) -> None:
    shape, folder = KINDS[kind], base(bits=None if kind == "whole" else 4, num_hidden_layers=2)
    weights = None if shape is None else random_adapter(folder, shape)
    student = prepared(first, folder, shape, weights=weights)
    bare = open_student(second, folder)
    student.update(some_groups()[:1], learning_rate=1e-2, clip_norm=1.0, step=0)
    student.save_adapter(tmp_path / "one")
    other = open_student(second, folder, adapter=tmp_path / "one")
    text = random_ids(np.random.default_rng(1), 5), random_ids(np.random.default_rng(2), 9)
    learned = log_probabilities(student, *text)
    assert gap(log_probabilities(other, *text), learned) <= CLOSE
    assert gap(log_probabilities(bare, *text), learned) > 100 * CLOSE, "it learned something"
    other.save_adapter(tmp_path / "other")
    files = {side: {path.name: path.read_bytes() for path in (tmp_path / side).iterdir()} for side in ("one", "other")}
    assert files["one"] == files["other"] and len(files["one"]) == 2
