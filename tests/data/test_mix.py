"""Replay: general rows read, put into tokens behind what they share, and mixed into every step, the same ones each time it is asked."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_distill.data.mix import Batch, Mix
from mlx_distill.data.replay import Replay, common_prefix, load, tokenize
from mlx_distill.data.tokens import Lesson
from mlx_distill.errors import DataError
from mlx_distill.recipe.schema import ReplaySpec, SourceSpec
from mlx_distill.records import Ids, TokenRow
from tests.small_tokenizers import KINDS, chat_template, tokenizer

PREFIX = np.array([7, 8], np.int32)


def spec(path: Path, **settings: Any) -> ReplaySpec:
    return ReplaySpec(source=SourceSpec(kind="jsonl", path=str(path)), **settings)


def alpaca(*rows: tuple[str, str, str]) -> list[dict[str, Any]]:
    return [{"id": f"g{i}", "instruction": a, "input": b, "output": c} for i, (a, b, c) in enumerate(rows)]


@pytest.fixture
def general(tmp_path: Path) -> Path:
    return tmp_path / "general.jsonl"


def write(path: Path, rows: list[dict[str, Any]]) -> ReplaySpec:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return spec(path)


def replayed(path: Path, rows: list[dict[str, Any]], *, pieces: Any = None, taken: tuple[str, ...] = (), max_tokens: int = 200) -> Replay:
    own = write(path, rows)
    found = load(own, path, max_bad_share=0.0)
    return tokenize(found, own, pieces or tokenizer("letters"), max_tokens=max_tokens, seed=3, taken=taken)


def letters(ids: Ids) -> str:
    return "".join(chr(i) for i in ids)


# reading


def test_rows_are_read_by_their_templates(general: Path) -> None:
    own = write(general, alpaca(("Add.", "1 and 2", "3"), ("Greet.", "", " hello ")))
    found = load(own, general, max_bad_share=0.0)
    assert [(row.text, row.output) for row in found.rows] == [("Add.\n\n1 and 2", "3"), ("Greet.", "hello")], "an empty input leaves no gap"
    other = replace(own, input="{instruction}", output="{input}{output}")
    first = load(other, general, max_bad_share=0.0).rows[0]
    assert (first.text, first.output) == ("Add.", "1 and 23")


def test_what_cannot_be_used_is_named_with_its_line(general: Path) -> None:
    own = write(general, [*alpaca(("a", "", "b"), ("c", "", "  ")), {"instruction": "d", "input": ""}])
    with pytest.raises(DataError, match="2 of 3 rows are bad") as caught:
        load(own, general, max_bad_share=0.5)
    assert (caught.value.file, caught.value.line) == (str(general), 2)
    assert f"{general}:2: its output is empty" in caught.value.message and "no column 'output'" in caught.value.message
    found = load(own, general, max_bad_share=0.7)
    assert len(found.rows) == 1 and len(found.bad) == 2


def test_the_hash_is_that_of_what_is_learned(general: Path) -> None:
    hashes = set()
    for rows in (alpaca(("a", "", "b")), alpaca(("a", "", "c")), alpaca(("x", "", "b")), alpaca(("a", "", "b"), ("a", "", "b"))):
        hashes.add(load(write(general, rows), general, max_bad_share=0.0).sha256)
    own = write(general, [{**row, "other": 1} for row in alpaca(("a", "", "b"))])
    assert len(hashes) == 4 and load(own, general, max_bad_share=0.0).sha256 in hashes


# tokens


def test_a_row_by_hand(general: Path) -> None:
    """ "Say hi." and a blank line; "yes" and the end. The prompts share "S"; the first token, y, is read from the last of the prompt."""
    found = replayed(general, alpaca(("Say hi.", "", "yes"), ("Sum up", "a b", "no")))
    assert letters(found.prefix) == "S"
    row = found.rows[0]
    assert letters(row.tokens) == "ay hi.\n\nyes"
    assert letters(row.targets[:-1]) == "yes" and row.targets[-1] == tokenizer("letters").eos_token_id
    assert row.read_at.tolist() == [7, 8, 9, 10] and row.weight.tolist() == [1] * 4 and row.allowed is None
    assert letters(found.rows[1].tokens) == "um up\n\na b\n\nno"
    assert (row.tokens.dtype, row.read_at.dtype, row.targets.dtype, row.weight.dtype) == (np.int32, np.int32, np.int32, np.float32)


@pytest.mark.parametrize("kind", KINDS)
def test_prompts_and_outputs_are_what_the_tokenizer_s_chat_template_makes_of_them(kind: str, general: Path) -> None:
    pieces = tokenizer(kind, chat_template("qwen2.5"))
    rows = [("Translate: fire", "to Dutch", " vuur, brand\n<|im_end|>"), ("Say it.", "", "πυρκαγιά 10")]
    found = replayed(general, alpaca(*rows), pieces=pieces)
    for row, (instruction, data, output) in zip(found.rows, rows, strict=True):
        own = [*found.prefix, *row.tokens[: row.read_at[0] + 1]]
        message = {"role": "user", "content": f"{instruction}\n\n{data}".strip()}
        rendered = pieces.apply_chat_template([message], tokenize=False, add_generation_prompt=True)
        assert own == pieces(rendered, add_special_tokens=False)["input_ids"]
        assert pieces.decode(row.targets[:-1]).strip() == output.strip() and row.targets[-1] == pieces.eos_token_id
        assert pieces.convert_tokens_to_ids("<|im_end|>") not in row.targets[:-1], "a text cannot end the turn"


@settings(deadline=None, derandomize=True)
@given(st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=6), min_size=1, max_size=6))
def test_the_prefix_is_the_longest_that_leaves_every_prompt_a_token(prompts: list[list[int]]) -> None:
    rows = [np.array(prompt, np.int32) for prompt in prompts]
    prefix = common_prefix(rows).tolist()
    assert all(row[: len(prefix)].tolist() == prefix and len(prefix) < len(row) for row in rows)
    longer = len(prefix) + 1
    assert any(len(row) <= longer or row[:longer].tolist() != rows[0][:longer].tolist() for row in rows)


def test_a_row_that_is_too_long_is_left_out_by_id_and_none_at_all_is_refused(general: Path) -> None:
    rows = alpaca(("a", "", "b" * 50), ("a", "", "b"))
    found = replayed(general, rows, max_tokens=20)
    assert [row.id for row in found.rows] == ["replay:g1"]
    assert [(bad.id, bad.line) for bad in found.rejected] == [("g0", 1)] and "need 54 tokens" in found.rejected[0].reason
    with pytest.raises(DataError, match="no general row is left") as caught:
        replayed(general, rows[:1], max_tokens=20)
    assert "max_tokens" in str(caught.value.hint)


def test_no_id_is_ever_one_of_the_task_s(general: Path) -> None:
    rows = alpaca(("a", "", "b"), ("c", "", "d"))
    assert [row.id for row in replayed(general, rows, taken=("g0", "g1")).rows] == ["replay:g0", "replay:g1"]
    assert [row.id for row in replayed(general, rows, taken=("replay:g0#0", "+replay:x")).rows] == ["++replay:g0", "++replay:g1"]


# steps


def lesson(name: str, length: int, weight: float = 1.0) -> Lesson:
    tokens = np.arange(length, dtype=np.int32)
    row = TokenRow(name, tokens, np.array([length - 1], np.int32), np.array([0], np.int32), np.full(1, weight, np.float32))
    return Lesson(row, True, False, length + 2)


def general_rows(count: int, share: float, seed: int = 0) -> Replay:
    rows = []
    for i in range(count):
        size = 2 + i % 5
        ones = np.ones(size, np.float32)
        rows.append(TokenRow(f"replay:{i}", np.zeros(size, np.int32), np.arange(size, dtype=np.int32), np.zeros(size, np.int32), ones))
    return Replay(rows, np.array([9], np.int32), [], share, seed)


def mix(rows: int, replay: Replay | None, *, batch_size: int = 4, accumulate: int = 2, seed: int = 0, weight: float = 1.0) -> Mix:
    task = [lesson(f"r{i}", 1 + i % 7, weight) for i in range(rows)]
    return Mix(task, PREFIX, batch_size=batch_size, accumulate=accumulate, seed=seed, replay=replay)


def parts(batch: Batch) -> tuple[int, int]:
    """(task's rows, general rows)"""
    return len(batch.rows) - len(batch.replayed), len(batch.replayed)


@settings(deadline=None, derandomize=True)
@given(st.integers(1, 60), st.integers(1, 30), st.floats(0.01, 0.9), st.integers(1, 5), st.integers(1, 3))
def test_every_step_has_its_share_and_the_run_has_exactly_its_own(
    rows: int, general: int, share: float, batch_size: int, accumulate: int
) -> None:
    made = mix(rows, general_rows(general, share), batch_size=batch_size, accumulate=accumulate)
    counts = [parts(made.batch(step)) for step in range(3 * made.per_epoch)]
    assert sum(own for own, _ in counts) == 3 * rows
    ratio = share / (1 - share)
    assert abs(sum(extra for _, extra in counts) - 3 * rows * ratio) <= 0.5 + 1e-6
    assert all(abs(extra - own * ratio) < 1 + 1e-6 for own, extra in counts)
    for step in range(3 * made.per_epoch):
        ids = [row.id for row in made.batch(step).rows]
        assert len(set(ids)) == len(ids), "losses are kept by id"


def test_sixteen_rows_and_four_are_a_share_of_a_fifth() -> None:
    made = mix(32, general_rows(50, 0.2), batch_size=4, accumulate=4)
    assert [parts(made.batch(step)) for step in range(2)] == [(16, 4), (16, 4)]
    behind, general = made.batch(0).groups
    assert behind.prefix.tolist() == [7, 8] and general.prefix.tolist() == [9]
    assert [len(micro) for micro in general.micro_batches] == [4]


def test_general_rows_come_in_micro_batches_of_the_recipe_s_size_like_lengths_together() -> None:
    general = mix(32, general_rows(50, 0.5), batch_size=4, accumulate=4).batch(1).groups[-1]
    assert [len(micro) for micro in general.micro_batches] == [4, 4, 4, 4]
    lengths = [len(row.tokens) for row in general.rows]
    assert lengths == sorted(lengths)


def test_all_general_rows_are_learned_before_any_is_learned_again_in_another_order() -> None:
    made = mix(24, general_rows(10, 0.5), batch_size=3, accumulate=1)
    order = [
        row.id.partition("#")[0]
        for step in range(2 * made.per_epoch)
        for row in made.batch(step).rows
        if row.id in made.batch(step).replayed
    ]
    assert len(order) == 48
    turns = [order[at : at + 10] for at in range(0, 40, 10)]
    assert all(count in (4, 5) for count in Counter(order).values())
    assert len({tuple(turn) for turn in turns}) == 4


def test_what_is_learned_follows_from_seed_and_step_alone() -> None:
    def ids(batch: Batch) -> list[list[list[str]]]:
        return [[[row.id for row in micro] for micro in group.micro_batches] for group in batch.groups]

    whole = mix(20, general_rows(7, 0.3))
    for step in (5, 0, 3, 8, 3):
        assert ids(mix(20, general_rows(7, 0.3)).batch(step)) == ids(whole.batch(step))
    other = mix(20, general_rows(7, 0.3, seed=1))
    assert [whole.batch(step).replayed for step in range(6)] != [other.batch(step).replayed for step in range(6)]


@pytest.mark.parametrize("weight", [1.0, 2.5])
def test_a_general_row_weighs_as_much_as_the_task_s_on_average_however_long_it_is(weight: float) -> None:
    made = mix(40, general_rows(10, 0.5), weight=weight)
    rows = [row for step in range(2 * made.per_epoch) for row in made.batch(step).rows if row.id in made.batch(step).replayed]
    assert len(rows) == 80, "each of the ten, eight times"
    assert sum(float(row.weight.sum()) for row in rows) == pytest.approx(80 * weight)
    assert len({round(float(row.weight[0]), 6) for row in rows}) == 1, "a token counts the same in all of them"


def test_without_replay_a_step_is_its_task_s_rows() -> None:
    made, plain = mix(20, None), mix(20, general_rows(9, 0.25))
    for step in range(made.per_epoch):
        batch = made.batch(step)
        assert batch.replayed == frozenset() and batch.learned == len(batch.rows)
        assert [row.id for row in batch.rows] == [row.id for row in plain.batch(step).rows if row.id not in plain.batch(step).replayed]
