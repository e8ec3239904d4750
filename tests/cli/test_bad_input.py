"""Bad input of every kind: a clear error with file, line and way out, exit code 2, no traceback, and nothing harmed."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cli.conftest import Place
from tests.students import Called, call, read_lines, recipe, water, write_lines


def refused(called: Called, *said: str, file: Path | None = None, line: int | None = None) -> None:
    """A document with the error, where it is, and what to do."""
    assert called.code == 2, called
    error = called.document["error"]
    text = f"{error['message']} ({error['hint']})"
    for words in said:
        assert words in text
    if file is not None:
        assert str(file) in f"{error['file']} {text}"
    if line is not None:
        assert error["line"] == line or f":{line}:" in text
    if not error["line"]:
        assert error["hint"] or "there is no" in text, "a way out"
    assert "Traceback" not in called.err


def lines(number: int = 40) -> list[str]:
    return [f'{{"id": "{row["id"]}", "text": "{row["text"]}", "high": {str(row["high"]).lower()}}}' for row in water(number)]


def changed(at: int, to: str) -> str:
    """Forty lines, one of them other."""
    return "\n".join([*lines()[: at - 1], to, *lines()[at:]]) + "\n"


ROWS: dict[str, tuple[str, int | None, str]] = {
    "an empty file": ("", None, "rows"),
    "white space alone": ("\n\n  \n", None, "rows"),
    "a line cut off": (changed(40, lines()[39][:25]), 40, "not JSON"),
    "another column": ('{"txt": "a", "high": true}\n' * 3, 1, "no column 'text'; there is txt, high"),
    "no labels": ('{"text": "a"}\n' * 3, None, "no row has a label for high"),
    "an illegal label": (changed(7, '{"id": "x", "text": "a", "high": "perhaps"}'), 7, "'perhaps' is no flag"),
    "an id twice": (changed(9, lines()[2]), 9, "the id 'w02' stands on line 3 already"),
    "a list": (changed(3, "[1, 2]"), 3, "not an object"),
    "not a number": (changed(3, '{"text": "a", "high": NaN}'), 3, "NaN is no JSON"),
    "too few": ("\n".join(lines(2)), None, "too few"),
}  # fmt: skip


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize("command", ["run", "train", "check"])
def test_rows_that_cannot_be_learned_from(fresh: Path, tmp_path: Path, name: str, command: str) -> None:
    content, line, said = ROWS[name]
    rows = tmp_path / "rows.jsonl"
    rows.write_text(content, encoding="utf-8")
    if command == "check":
        called = call("check", fresh, "--json")
        assert called.code == 2
        (problem,) = called.document["problems"]
        assert said in problem["message"]
        assert str(rows) in f"{problem['file']} {problem['message']}"
        assert line is None or problem["line"] == line
        return
    refused(call(command, fresh, "--out", tmp_path / "run", "--json"), said, file=rows, line=line)
    assert not (tmp_path / "run").exists()


def test_bytes_that_are_no_text(fresh: Path, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_bytes(changed(5, "{}").encode().replace(b"{}", b'{"text": "\xff\xfe"}'))
    refused(call("run", fresh, "--out", tmp_path / "run", "--json"), "not UTF-8", file=tmp_path / "rows.jsonl", line=5)


def test_a_score_out_of_range_in_a_csv(tmp_path: Path, checkpoint: Path) -> None:
    (tmp_path / "rows.csv").write_text("id,text,score\n" + "".join(f"{i},text {i},{i}\n" for i in range(8)), encoding="utf-8")
    path = recipe(
        tmp_path / "recipe.yaml",
        base={"model": str(checkpoint)},
        task={"input": "{text}", "fields": {"score": {"type": "score", "min": 0, "max": 5}}},
        data={"source": {"kind": "csv", "path": "rows.csv"}},
    )
    called = call("run", path, "--out", tmp_path / "run", "--json")
    refused(called, "score: 6 is outside 0 to 5", "rows.csv:9", "data.max_bad_share", file=tmp_path / "rows.csv", line=8)


def test_few_bad_rows_stop_nothing_and_are_counted(fresh: Path, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text(changed(7, "{oops"), encoding="utf-8")
    words = ["--set", "data.max_bad_share=0.05", "--set", "train.epochs=1"]
    called = call("train", fresh, "--out", tmp_path / "run", *words)
    assert called.code == 0
    assert "floods: 39 rows" in called.err and "1 bad" in called.err


def test_a_field_named_id_is_a_label_and_works(tmp_path: Path, checkpoint: Path) -> None:
    write_lines(tmp_path / "rows.jsonl", [{"id": row["high"], "text": row["text"]} for row in water()])
    path = recipe(
        tmp_path / "recipe.yaml",
        base={"model": str(checkpoint)},
        task={"input": "{text}", "fields": {"id": {"type": "flag"}}},
        train={"epochs": 1},
    )
    made = call("run", path, "--out", tmp_path / "run", "--json")
    assert made.code == 0, made
    assert call("infer", tmp_path / "run", tmp_path / "rows.jsonl", tmp_path / "out.jsonl").code == 0
    answers = read_lines(tmp_path / "out.jsonl") + read_lines(tmp_path / "out.jsonl.rejects.jsonl")
    assert len(answers) == 40
    assert {type(line["answer"]["id"]) for line in answers if "answer" in line} == {bool}


RECIPES: dict[str, tuple[str, int | None, str]] = {
    "that extends itself": ("extends: recipe.yaml\n", 1, "extends itself"),
    "that extends nothing": ("extends: base.yaml\n", 1, "base.yaml"),
    "that is empty": ("", None, "empty"),
    "that is no YAML": ("name: [\n", 2, ""),
    "that is a list": ("- a\n", 1, ""),
    "with a tab": ("name: a\n\ttask: {}\n", 2, ""),
    "with an unknown section": ("name: a\ntrian: {}\n", 2, "did you mean train"),
    "that is binary": ("\0\1\2", 1, ""),
}  # fmt: skip


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe(tmp_path: Path, name: str) -> None:
    content, line, said = RECIPES[name]
    path = tmp_path / "recipe.yaml"
    path.write_text(content, encoding="utf-8")
    refused(call("run", path, "--out", tmp_path / "run", "--json"), said, file=path, line=line)
    called = call("check", path)
    assert called.code == 2
    assert f"{path}:{line}:" in called.out if line else str(path) in called.out
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("what", ["nothing", "folder", "binary"])
def test_a_recipe_that_is_no_file(tmp_path: Path, what: str) -> None:
    path = tmp_path / "recipe.yaml"
    if what == "folder":
        path.mkdir()
    if what == "binary":
        path.write_bytes(bytes(range(128, 256)))
    refused(call("run", path, "--out", tmp_path / "run", "--json"), file=path)


@pytest.mark.parametrize("said", ["oops", "train.epochs", "train.epochs=three", "=3", "nope.nope=1"])
def test_a_setting_that_cannot_be(fresh: Path, tmp_path: Path, said: str) -> None:
    called = call("run", fresh, "--out", tmp_path / "run", "--set", said, "--json")
    assert called.code == 2
    assert said.partition("=")[0] in str(called.document["error"])


BASES: dict[str, tuple[Callable[[Path], object], str]] = {
    "that is no checkpoint": (lambda path: (path.mkdir(), (path / "notes.txt").touch()), "config.json"),
    "that is a file": (lambda path: path.write_text("x"), "a checkpoint is a folder"),
    "that is not there": (lambda path: None, "no folder"),
    "whose config is damaged": (lambda path: (path.mkdir(), (path / "config.json").write_text("{")), "JSON"),
    "of an unknown architecture": (lambda path: (path.mkdir(), (path / "config.json").write_text('{"model_type": "mamba"}')), "'mamba'"),
}  # fmt: skip


@pytest.mark.parametrize("name", BASES)
def test_a_base(fresh: Path, tmp_path: Path, name: str) -> None:
    make, said = BASES[name]
    folder = tmp_path / "model"
    make(folder)
    for words in (["run", fresh, "--out", tmp_path / "run", "--set", f"base.model={folder}"], ["convert", folder, tmp_path / "base"]):
        called = call(*words, "--json")
        assert called.code == 2
        error = called.document["error"]
        assert str(folder) in str(error)
        if not (words[0] == "convert" and name == "that is not there"):
            assert said in str(error)
    assert not (tmp_path / "run").exists()
    assert not (tmp_path / "base").exists()


def test_a_hub_id_that_is_not_in_the_cache_says_how_to_fetch_it(fresh: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    called = call("run", fresh, "--out", tmp_path / "run", "--set", "base.model=nobody/nothing-at-all", "--json")
    refused(called, "hf download nobody/nothing-at-all")


def test_an_output_that_is_a_file(fresh: Path, tmp_path: Path) -> None:
    (tmp_path / "run").write_text("mine", encoding="utf-8")
    for command in ("run", "train"):
        refused(call(command, fresh, "--out", tmp_path / "run", "--json"), "a run is a folder", file=tmp_path / "run")
        refused(call(command, fresh, "--out", tmp_path / "run" / "inner", "--json"), "a file stands", file=tmp_path / "run")
    assert (tmp_path / "run").read_text(encoding="utf-8") == "mine"


def mounted(folder: Path, options: str) -> Iterator[Path]:
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True, check=False).returncode:
        pytest.skip("a disk can be mounted by root alone")
    yield folder
    subprocess.run(["umount", folder], check=True)


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Path]:
    if os.geteuid():
        (tmp_path / "shut").mkdir(mode=0o500)
        yield tmp_path / "shut"
    else:
        yield from mounted(tmp_path / "shut", "ro")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    yield from mounted(tmp_path / "small", "size=256k")


def test_a_read_only_output(finished: Place, read_only: Path, checkpoint: Path) -> None:
    refused(call("run", finished.recipe, "--out", read_only / "run", "--json"), "cannot be written", file=read_only / "run")
    refused(call("train", finished.recipe, "--out", read_only / "run", "--json"), "cannot be written", file=read_only / "run")
    refused(call("convert", checkpoint, read_only / "base", "--json"), file=read_only / "base")
    texts = finished.folder / "rows.jsonl"
    refused(call("infer", finished.run, texts, read_only / "out.jsonl", "--json"), "cannot be written", file=read_only / "out.jsonl")


def test_a_read_only_cache(finished: Place, read_only: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLX_DISTILL_CACHE", str(read_only / "cache"))
    refused(call("run", finished.recipe, "--out", tmp_path / "run", "--json"), file=read_only / "cache")
    assert not (tmp_path / "run").exists()


def test_a_disk_that_fills_up_while_training(finished: Place, small_disk: Path) -> None:
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(150_000))
    refused(call("train", finished.recipe, "--out", small_disk / "run", "--json"), "the disk is full", file=small_disk / "run")
    ballast.unlink()
    made = call("train", finished.recipe, "--out", small_disk / "run", "--resume", "--set", "train.epochs=2", "--json")
    assert made.code in (0, 2), "either it fits now, or it says that it does not"
    assert "Traceback" not in made.err


def test_a_base_that_does_not_fit_the_disk(checkpoint: Path, small_disk: Path) -> None:
    refused(call("convert", checkpoint, small_disk / "base", "--json"), "of disk", file=small_disk / "base")
    assert list(small_disk.iterdir()) == []


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda run: (run / "recipe.lock.yaml").write_text("name: x\n"), "recipe.lock.yaml"),
        (lambda run: (run / "split.json").unlink(), "split.json"),
        (lambda run: (run / "adapter" / "adapter_model.safetensors").write_bytes(b"\0" * 20), "adapter"),
        (lambda run: (run / "adapter" / "adapter_config.json").write_text("{}"), "adapter"),
    ],
)
def test_a_damaged_run(done: Place, damage: Callable[[Path], object], said: str) -> None:
    damage(done.run)
    called = call("evaluate", done.run, "--json")
    assert called.code == 2, called
    assert said in str(called.document["error"])
    assert "Traceback" not in called.err


def test_damaged_checkpoints_are_named(done: Place) -> None:
    for folder in (done.run / "checkpoints").iterdir():
        (folder / "position.json").write_text("{", encoding="utf-8")
    refused(call("run", done.recipe, "--out", done.run, "--json"), "the checkpoint cannot be read", file=done.run / "checkpoints")


def test_texts_of_any_content_are_learned_and_answered(fresh: Path, tmp_path: Path) -> None:
    odd = ["a\0b", "🌊🌊", "النهر مرتفع جدا", "\ud83d", "<|im_end|>", "", "{", "x" * 1_000_000, "\r\n\r\n", "\u2028", "\x1b[31m"]
    rows = water() + [{"id": f"odd{i}", "text": text, "high": bool(i % 2)} for i, text in enumerate(odd)]
    (tmp_path / "rows.jsonl").write_text("".join(f"{__import__('json').dumps(row)}\n" for row in rows), encoding="utf-8")
    made = call("run", fresh, "--out", tmp_path / "run", "--set", "train.epochs=1", "--json")
    assert made.code == 0, made
    assert call("infer", tmp_path / "run", tmp_path / "rows.jsonl", tmp_path / "out.jsonl").code == 0
    empty = {f"odd{i}" for i, text in enumerate(odd) if not text.strip()}
    assert {line["id"] for line in read_lines(tmp_path / "out.jsonl")} == {row["id"] for row in rows} - empty
    assert {line["id"] for line in read_lines(tmp_path / "out.jsonl.rejects.jsonl")} == empty, "there is nothing to read in them"
    html = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "\0" not in html
