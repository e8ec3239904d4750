"""`check` says everything that is wrong at once, and shows what the student will see."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.checkpoints import make_checkpoint
from tests.students import call, recipe, water, write_lines


def test_a_sound_recipe_is_nothing_wrong(fresh: Path) -> None:
    called = call("check", fresh)
    assert (called.code, called.out, called.err) == (0, f"{fresh}: nothing wrong\n", "")
    assert call("check", fresh, "--json").document == {"problems": []}


def test_the_tokenizers_library_does_not_ask_for_pytorch_which_nothing_needs(fresh: Path) -> None:
    without = "import sys; sys.modules['torch'] = None; from mlx_distill.cli.main import main; main()"
    command = [sys.executable, "-c", without, "check", str(fresh), "--json"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TRANSFORMERS_")}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_show_prints_rows_as_the_student_sees_them(fresh: Path) -> None:
    called = call("check", fresh, "--show", 3)
    assert called.code == 0
    blocks = called.out.split("--- row ")[1:]
    assert len(blocks) == 3
    for block in blocks:
        head, _, body = block.partition("\n")
        assert "tokens of shared prefix" in head and "learned" in head
        assert body.startswith("<|im_start|>system\nHow high is the water?<|im_end|>\n<|im_start|>user\nThe river ")
        assert '[learned: {"high":' in body
        assert body.index("assistant\n") < body.index("[learned:")


def test_show_counts_tokens_and_marks_what_was_trimmed(fresh: Path) -> None:
    write_lines(fresh.parent / "rows.jsonl", [{**row, "text": row["text"] + " and rose" * 300} for row in water()])
    called = call("check", fresh, "--show", 2, "--json")
    rows = called.document["rows"]
    assert [row.keys() for row in rows] == [{"id", "prompt", "learned", "tokens", "trimmed"}] * 2
    for row in rows:
        assert row["trimmed"] is True
        assert sum(row["tokens"].values()) <= 256 + 1
        assert " … " in row["prompt"]
    assert "its text lost the middle" in call("check", fresh, "--show", 1).out


def test_show_tells_what_the_codes_of_slots_mean(fresh: Path) -> None:
    called = call("check", fresh, "--show", 1, "--set", "answer=slots")
    assert called.code == 0
    assert "assistant\n[learned: A -> 0 (high: False)]" in called.out


def test_show_tells_the_texts_behind_the_codes(fresh: Path) -> None:
    write_lines(fresh.parent / "rows.jsonl", [{**row, "why": f"post {i}"} for i, row in enumerate(water())])
    text = "task.fields={why: text, high: flag}"
    called = call("check", fresh, "--show", 1, "--set", "answer=slots", "--set", text)
    assert called.code == 0, called.err
    assert '[learned: A -> 0 (high: False), {"why":"post 0"}' in called.out


def test_every_problem_at_once_with_file_and_line(tmp_path: Path, checkpoint: Path) -> None:
    write_lines(tmp_path / "rows.jsonl", [])
    path = recipe(
        tmp_path / "recipe.yaml",
        base={"model": str(checkpoint)},
        train={"epochs": 0, "learning_rat": 0.1},
        lora={"rank": "many"},
    )
    called = call("check", path, "--json")
    assert called.code == 2
    found = {problem["path"]: problem for problem in called.document["problems"]}
    assert set(found) == {"train.epochs", "train.learning_rat", "lora.rank"}
    for problem in found.values():
        assert problem.keys() == {"file", "line", "path", "message", "hint"}
        key = problem["path"].rpartition("train.")[2].rpartition("lora.")[2]
        assert key in path.read_text(encoding="utf-8").splitlines()[problem["line"] - 1]
    assert "learning_rate" in found["train.learning_rat"]["hint"]
    plain = call("check", path)
    assert plain.out.count(f"{path}:") == 3, "file:line: path: message (hint)"


def test_several_recipes_are_checked_in_one_go(fresh: Path, tmp_path: Path) -> None:
    called = call("check", fresh, tmp_path / "none.yaml", "--json")
    assert called.code == 2
    assert [problem["file"] for problem in called.document["problems"]] == [str(tmp_path / "none.yaml")]


@pytest.mark.parametrize(
    ("change", "path", "said"),
    [
        ("lora.targets=[q_prj]", "lora.targets", "no projection 'q_prj'"),
        ("lora.layers=last 99", "lora.layers", "this base has 2 layers; got 'last 99'"),
        ("evaluate.slices=[nope]", "data.source", "no such column"),
        ("data.split.group_by=nope", "data.source", "no such column"),
        ("train.max_tokens=16", "base.model", "no row is left to train on"),
        ("task.input='{nope}'", "data.source", "no column 'nope'"),
        ("data.split={train: 0.01, valid: 0.01, test: 0.98, group_by: high}", "data.source", "too few"),
    ],
)
def test_data_and_base_are_looked_at_as_well(fresh: Path, change: str, path: str, said: str) -> None:
    called = call("check", fresh, "--set", change, "--json")
    assert called.code == 2
    (problem,) = called.document["problems"]
    assert problem["path"] == path
    assert said in problem["message"]
    assert problem["hint"]


def test_rows_longer_than_the_base_answers_as_its_original_are_told_of(fresh: Path, tmp_path: Path) -> None:
    """Its rotary embedding would turn every position of a longer row otherwise."""
    scaling = {"rope_type": "dynamic", "factor": 2.0}
    source = make_checkpoint(tmp_path / "dynamic", "llama", rope_scaling=scaling, max_position_embeddings=200)
    (problem,) = call("check", fresh, "--json", "--set", f"base.model={source}").document["problems"]
    assert problem["path"] == "train.max_tokens"
    assert problem["message"] == "this base answers rows of up to 200 tokens as its original does; got 256"
    assert call("check", fresh, "--set", f"base.model={source}", "--set", "train.max_tokens=200").code == 0
