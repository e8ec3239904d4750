"""A learning curve: nested rows, the same judges, the test rows untouched; resumed after a stop; wrong sizes refused at once."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from mlx_distill.workflows import learning_curve as workflow
from tests.cli.test_interrupts import STUDENT, raised_at
from tests.cli.test_sweep import Killed, killing
from tests.students import call, read_lines, recipe, water, write_lines

SIZES = ("--sizes", "18,4,9")
NAMES = ["labels=4,seed=0", "labels=9,seed=0", "labels=18,seed=0"]


@pytest.fixture(scope="module")
def floods(tmp_path_factory: pytest.TempPathFactory, checkpoint: Path) -> Path:
    folder = tmp_path_factory.mktemp("floods")
    write_lines(folder / "rows.jsonl", water(30))
    sections = {"train": {"epochs": 1, "checkpoint_every": 2}, "evaluate": {"bootstrap": 100, "baselines": False}}
    return recipe(folder / "recipe.yaml", base={"model": str(checkpoint)}, **sections)


@pytest.fixture(scope="module")
def measured(floods: Path) -> tuple[Path, dict[str, Any]]:
    """Not to be changed: an undisturbed curve, and what it said."""
    called = call("learning-curve", floods, *SIZES, "--out", floods.parent / "curve", "--json")
    assert called.code == 0, called.err
    return floods.parent / "curve", called.document


def split(folder: Path, name: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = json.loads((folder / name / "split.json").read_text(encoding="utf-8"))
    return found


def clockless(document: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(json.dumps(document).replace(document["learning_curve"], "CURVE"))
    for run in found["runs"]:
        run.pop("seconds")
    return found


def test_each_size_has_a_run_whose_rows_are_among_those_of_the_next(measured: tuple[Path, dict[str, Any]]) -> None:
    folder, document = measured
    assert [run["name"] for run in document["runs"]] == NAMES
    rows = [set(split(folder, name)["train"]) for name in NAMES]
    assert [len(ids) for ids in rows] == [4, 9, 18]
    assert rows[0] < rows[1] < rows[2]


def test_all_are_judged_on_the_same_validation_rows_and_no_test_row_is_answered(measured: tuple[Path, dict[str, Any]]) -> None:
    folder, document = measured
    assert len({json.dumps([split(folder, name)[part] for part in ("valid", "test")]) for name in NAMES}) == 1
    for name in NAMES:
        (answers,) = (folder / name).glob("validation-*.jsonl")
        assert {line["id"] for line in read_lines(answers)} == set(split(folder, name)["valid"])
        assert not (folder / name / "predictions.jsonl").exists()
    assert document["rows"] == 6


def test_it_says_what_more_labels_would_bring_in_words_numbers_and_a_plot(measured: tuple[Path, dict[str, Any]]) -> None:
    folder, document = measured
    assert [entry["labels"] for entry in document["extrapolated"]] == [36, 72]
    assert "labels (36)" in document["words"][0]
    assert document == json.loads((folder / "learning-curve.json").read_text(encoding="utf-8"))
    html = (folder / "learning-curve.html").read_text(encoding="utf-8")
    assert "<svg" in html and document["words"][0] in html


def test_a_run_of_all_rows_is_what_training_without_a_curve_gives(
    measured: tuple[Path, dict[str, Any]], floods: Path, tmp_path: Path
) -> None:
    assert call("train", floods, "--out", tmp_path / "run").code == 0
    weights = [run / "adapter" / "adapter_model.safetensors" for run in (tmp_path / "run", measured[0] / NAMES[2])]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def test_seeds_draw_other_rows_and_tell_the_luck(floods: Path, tmp_path: Path) -> None:
    called = call("learning-curve", floods, "--sizes", "4,6,9", "--seeds", "2", "--metric", "valid_loss", "--out", tmp_path / "c", "--json")
    assert called.code == 0
    document = called.document
    assert [sorted(point["seeds"]) for point in document["points"]] == [["0", "1"]] * 3
    assert document["noise"]["told_by"] == "seeds"
    assert set(split(tmp_path / "c", "labels=9,seed=0")["train"]) != set(split(tmp_path / "c", "labels=9,seed=1")["train"])
    losses = {run["name"]: run["valid_loss"] for run in document["runs"]}
    point = document["points"][0]
    assert point["seeds"] == {"0": losses["labels=4,seed=0"], "1": losses["labels=4,seed=1"]}
    assert point["figure"]["value"] == pytest.approx(sum(point["seeds"].values()) / 2)


@pytest.mark.parametrize(("name", "number"), [("write_json", 3), ("write_text", 1)])
def test_killed_between_its_runs_or_before_its_page_it_goes_on(
    measured: tuple[Path, dict[str, Any]], floods: Path, tmp_path: Path, name: str, number: int
) -> None:
    folder = tmp_path / "curve"
    with pytest.MonkeyPatch.context() as patch:
        killing(patch, workflow, name, number)
        with pytest.raises(Killed):
            call("learning-curve", floods, *SIZES, "--out", folder)
    resumed = call("learning-curve", floods, *SIZES, "--out", folder, "--resume", "--json")
    assert resumed.code == 0, resumed.err
    assert clockless(resumed.document) == clockless(measured[1])


def test_ctrl_c_names_the_command_that_goes_on(measured: tuple[Path, dict[str, Any]], floods: Path, tmp_path: Path) -> None:
    folder = tmp_path / "curve"
    with pytest.MonkeyPatch.context() as patch:
        raised_at(patch, STUDENT, "update", 2, signal.SIGTERM)
        stopped = call("learning-curve", floods, *SIZES, "--out", folder, "--json")
    assert stopped.code == 130
    assert stopped.document["error"]["hint"].startswith("this goes on: mlx-distill learning-curve ")
    resumed = call("learning-curve", floods, *SIZES, "--out", folder, "--resume", "--json")
    assert clockless(resumed.document) == clockless(measured[1])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--sizes", "4,9"), "--sizes names 2: a curve takes 3 sizes or more"),
        (("--sizes", "4,9,9"), "--sizes has 9 twice"),
        (("--sizes", "0,4,9"), "--sizes has 0: at least one row is needed to learn from"),
        (("--sizes", "4,9,few"), "'4,9,few' is no list of numbers such as 250,500,1000"),
        (("--sizes", "4,9,19"), "data.take.rows is 19, and 18 rows train"),
        (("--sizes", "4,9,18", "--metric", "mae.high"), "this task has no metric 'mae.high' to choose by"),
    ],
)
def test_what_makes_no_curve_is_refused_before_anything_is_trained(
    floods: Path, tmp_path: Path, words: tuple[str, ...], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise AssertionError("nothing is to be trained")

    monkeypatch.setattr(STUDENT, "update", fails)
    called = call("learning-curve", floods, *words, "--out", tmp_path / "curve", "--json")
    assert called.code == 2
    assert said in called.document["error"]["message"]
