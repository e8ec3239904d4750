"""A sweep: every combination checked before the first is trained, each trained once, the best by validation, the test read for it alone."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mlx_distill import files
from mlx_distill.inference.engine import Engine
from mlx_distill.workflows import sweeping, trials
from tests.cli.test_interrupts import STUDENT, adapter, raised_at
from tests.students import call, read_lines, recipe, water, write_lines

OVER = ("--over", "lora.rank=2,4", "--over", "train.learning_rate=1e-2")
RUNS = ["rank=2,learning_rate=0.01", "rank=4,learning_rate=0.01"]


@pytest.fixture(scope="module")
def floods(tmp_path_factory: pytest.TempPathFactory, checkpoint: Path) -> Path:
    """A recipe that is soon trained and soon judged."""
    folder = tmp_path_factory.mktemp("floods")
    write_lines(folder / "rows.jsonl", water(30))
    sections = {"train": {"epochs": 1, "checkpoint_every": 2}, "evaluate": {"bootstrap": 100, "baselines": False}}
    return recipe(folder / "recipe.yaml", base={"model": str(checkpoint)}, targets={"accuracy": 0.0}, **sections)


@pytest.fixture(scope="module")
def swept(floods: Path) -> tuple[Path, dict[str, Any]]:
    """Not to be changed: an undisturbed sweep, and what it said."""
    called = call("sweep", floods, *OVER, "--out", floods.parent / "swept", "--json")
    assert called.code == 0, called.err
    return floods.parent / "swept", called.document


def clockless(document: dict[str, Any]) -> dict[str, Any]:
    """A sweep's document without seconds and places."""
    text = json.dumps(document).replace(document["sweep"], "SWEEP")
    found: dict[str, Any] = json.loads(text)
    for run in found["runs"]:
        run.pop("seconds")
    return found


def record(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "sweep.json").read_text(encoding="utf-8"))
    return found


def test_every_combination_has_a_run_and_the_best_is_judged_on_the_test_rows(swept: tuple[Path, dict[str, Any]]) -> None:
    folder, document = swept
    assert sorted(path.name for path in folder.iterdir()) == [*RUNS, "sweep.html", "sweep.json"]
    assert document == record(folder)
    assert (document["metric"], document["better"], document["rows"], document["failed"]) == ("accuracy", "higher", 6, 0)
    best = document["best"]
    assert best == document["runs"][0]["name"]
    assert document["report"] == str(folder / best / "report.html")
    assert document["verdict"] == "met"
    assert document["test"]["metrics"]["accuracy"]["n"] == 6
    assert [entry["name"] for entry in document["tested"]] == [best]
    assert document["runs"][0]["settings"] == {"lora.rank": int(best[5]), "train.learning_rate": 0.01}


def test_the_test_rows_of_the_others_are_never_answered(swept: tuple[Path, dict[str, Any]]) -> None:
    folder, document = swept
    (loser,) = [run["name"] for run in document["runs"] if run["name"] != document["best"]]
    written = {path.name for path in (folder / loser).iterdir()}
    assert not {name for name in written if name.startswith(("predictions", "report"))}
    (validation,) = [name for name in written if name.startswith("validation-")]
    split = json.loads((folder / loser / "split.json").read_text(encoding="utf-8"))
    assert {line["id"] for line in read_lines(folder / loser / validation)} == set(split["valid"])


def test_figures_are_those_of_the_kept_adapter_on_the_validation_rows(swept: tuple[Path, dict[str, Any]]) -> None:
    folder, document = swept
    for run in document["runs"]:
        (path,) = (folder / run["name"]).glob("validation-*.jsonl")
        lines = read_lines(path)
        right = sum(line["answer"] == line["reference"] for line in lines)
        assert run["figure"]["value"] == pytest.approx(right / len(lines))
    best, other = document["runs"]
    assert other["behind"]["value"] == pytest.approx(other["figure"]["value"] - best["figure"]["value"])


def test_a_run_of_the_sweep_is_what_training_it_alone_gives(swept: tuple[Path, dict[str, Any]], floods: Path, tmp_path: Path) -> None:
    sets = ("--set", "lora.rank=4", "--set", "train.learning_rate=1e-2")
    assert call("train", floods, "--out", tmp_path / "alone", *sets).code == 0
    assert adapter(tmp_path / "alone") == adapter(swept[0] / RUNS[1])


def test_the_page_draws_every_run_without_a_network(swept: tuple[Path, dict[str, Any]]) -> None:
    html = (swept[0] / "sweep.html").read_text(encoding="utf-8")
    assert all(name in html.replace("<wbr>", "") for name in RUNS)
    assert "<svg" in html and "<script" not in html
    assert "src=" not in html and "<link" not in html


def test_resumed_when_finished_nothing_is_done_again(
    swept: tuple[Path, dict[str, Any]], floods: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, document = swept
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*.safetensors")}

    def fails(*_: object, **__: object) -> None:
        raise AssertionError("what is done is not to be done again")

    monkeypatch.setattr(STUDENT, "update", fails)
    monkeypatch.setattr(Engine, "answers", fails)
    again = call("sweep", floods, *OVER, "--out", folder, "--resume", "--json")
    assert (again.code, again.document) == (0, document)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*.safetensors")} == before


def test_another_value_is_added_to_a_sweep_that_is_finished(swept: tuple[Path, dict[str, Any]], floods: Path, tmp_path: Path) -> None:
    """And where the winner changes, that the test rows were read before is said."""
    folder = Path(shutil.copytree(swept[0], tmp_path / "more"))
    kept = record(folder)
    kept["tested"] = [{"name": "an earlier one", "adapter_sha256": "0"}]
    (folder / "sweep.json").write_text(json.dumps(kept), encoding="utf-8")
    over = ("--over", "lora.rank=2,4,8", "--over", "train.learning_rate=1e-2")
    more = call("sweep", floods, *over, "--out", folder, "--resume", "--json")
    assert more.code == 0
    assert len(more.document["runs"]) == 3
    assert more.document["summary"][-1].startswith("The test rows have been read for 2 runs of this sweep (an earlier one, ")


# a stop, and what is left of it


class Killed(BaseException):
    """Nothing in the package catches it."""


def killing(patch: pytest.MonkeyPatch, where: Any, name: str, number: int) -> None:
    """The process is as good as dead when something is called for the `number`-th time."""
    original: Callable[..., Any] = getattr(where, name)
    left = [number]

    def instead(*arguments: Any, **named: Any) -> Any:
        left[0] -= 1
        if left[0] <= 0:
            raise Killed
        return original(*arguments, **named)

    patch.setattr(where, name, instead)


@pytest.mark.parametrize(
    ("where", "name", "number"),
    [
        (STUDENT, "update", 4),  # in the first run, after a checkpoint
        (trials, "write_rows", 1),  # answers are there, and not yet on the disk
        (sweeping, "write_json", 2),  # the first run is done, and not yet recorded
        (sweeping, "write_json", 4),  # the winner is known, and its test rows are not read yet
        (sweeping, "write_text", 1),  # all is done but the page
    ],
    ids=lambda value: value.__name__ if hasattr(value, "__name__") else str(value),
)
def test_killed_anywhere_it_goes_on_to_the_same_end(
    swept: tuple[Path, dict[str, Any]], floods: Path, tmp_path: Path, where: Any, name: str, number: int
) -> None:
    folder = tmp_path / "killed"
    with pytest.MonkeyPatch.context() as patch:
        killing(patch, where, name, number)
        with pytest.raises(Killed):
            call("sweep", floods, *OVER, "--out", folder)
    resumed = call("sweep", floods, *OVER, "--out", folder, "--resume", "--json")
    assert resumed.code == 0, resumed.err
    assert clockless(resumed.document) == clockless(swept[1])
    assert [adapter(folder / run) for run in RUNS] == [adapter(swept[0] / run) for run in RUNS]


def test_ctrl_c_saves_the_run_and_names_the_command_that_goes_on(swept: tuple[Path, dict[str, Any]], floods: Path, tmp_path: Path) -> None:
    folder = tmp_path / "stopped"
    with pytest.MonkeyPatch.context() as patch:
        raised_at(patch, STUDENT, "update", 8, signal.SIGINT)  # step 3 of the second run
        stopped = call("sweep", floods, *OVER, "--out", folder, "--json")
    assert stopped.code == 130
    error = stopped.document["error"]
    assert error["message"] == f"stopped in {RUNS[1]} after step 3; it is saved"
    assert error["hint"].startswith("this goes on: mlx-distill sweep ") and error["hint"].endswith(" --json --resume")
    assert [run["name"] for run in record(folder)["runs"] if run["figure"]] == [RUNS[0]]
    resumed = call("sweep", floods, *OVER, "--out", folder, "--resume", "--json")
    assert "--resume --resume" not in resumed.err
    assert clockless(resumed.document) == clockless(swept[1])


def test_ctrl_c_while_the_winner_is_judged_is_an_answer_too(floods: Path, tmp_path: Path) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sweeping, "evaluate", interrupted)
        stopped = call("sweep", floods, "--over", "lora.rank=2", "--out", tmp_path / "stopped")
    assert stopped.code == 130
    assert "--out" in stopped.err and stopped.err.rstrip().endswith("--resume)")
    assert "Traceback" not in stopped.err


def test_a_sweep_killed_by_the_system_goes_on(swept: tuple[Path, dict[str, Any]], floods: Path, tmp_path: Path) -> None:
    """By SIGKILL, in a process of its own, in the second run."""
    code = """
import os, signal
from mlx_distill.backends.mlx.blas import load_openblas
from mlx_distill.cli.main import main
load_openblas()
from tests.students import class_of
Student, left = class_of("Student"), [8]
update = Student.update
def killing(*arguments, **named):
    left[0] -= 1
    if not left[0]:
        os.kill(os.getpid(), signal.SIGKILL)
    return update(*arguments, **named)
Student.update = killing
main()
"""
    folder = tmp_path / "killed"
    done = subprocess.run([sys.executable, "-c", code, "sweep", floods, *OVER, "--out", folder], capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    resumed = call("sweep", floods, *OVER, "--out", folder, "--resume", "--json")
    assert resumed.code == 0
    assert clockless(resumed.document) == clockless(swept[1])
    assert [adapter(folder / run) for run in RUNS] == [adapter(swept[0] / run) for run in RUNS]
    assert not list(folder.rglob(".mlx-distill.*")), "nothing of a killed write is left"


# failures and metrics


def test_a_run_that_diverges_is_recorded_and_the_others_go_on(floods: Path, tmp_path: Path) -> None:
    over = ("--over", "train.learning_rate=1e30,1e-2", "--metric", "valid_loss")
    called = call("sweep", floods, *over, "--out", tmp_path / "swept", "--json")
    assert called.code == 2
    document = called.document
    assert (document["best"], document["failed"]) == ("learning_rate=0.01", 1)
    failed = document["runs"][-1]
    assert (failed["name"], failed["error"]["kind"]) == ("learning_rate=1e+30", "DataError")
    assert "not finite" in failed["error"]["message"]
    assert document["runs"][0]["figure"]["value"] == document["runs"][0]["valid_loss"]
    assert any("learning_rate=1e+30 failed: " in sentence for sentence in document["summary"])
    assert "failed" in call("sweep", floods, *over, "--out", tmp_path / "swept", "--resume").out


def test_where_every_run_fails_there_is_no_winner_and_no_test_row_is_read(floods: Path, tmp_path: Path) -> None:
    called = call("sweep", floods, "--over", "train.learning_rate=1e30", "--out", tmp_path / "swept", "--json")
    assert (called.code, called.document["best"], called.document["tested"]) == (2, None, [])
    assert called.document["summary"][0].startswith("None of 1 runs came to an end: ")


def test_a_target_that_the_winner_misses_is_exit_3(floods: Path, tmp_path: Path) -> None:
    sets = ("--set", "targets.accuracy=1", "--set", "train.learning_rate=1e-9")
    called = call("sweep", floods, "--over", "lora.rank=2", *sets, "--out", tmp_path / "swept", "--json")
    assert (called.code, called.document["verdict"]) == (3, "missed")


# what is wrong is said before anything is trained


def refused(floods: Path, tmp_path: Path, *words: object) -> dict[str, Any]:
    called = call("sweep", floods, "--out", tmp_path / "swept", *words, "--json")
    assert called.code == 2
    assert not (tmp_path / "swept").exists() or not list((tmp_path / "swept").iterdir())
    error: dict[str, Any] = called.document["error"]
    return error


def test_every_combination_is_checked_before_the_first_is_trained(floods: Path, tmp_path: Path) -> None:
    message = refused(floods, tmp_path, "--over", "lora.rank=2,0", "--over", "train.learning_rate=1e-2,-1")["message"]
    assert message.startswith("2 problems"), message
    assert "lora.rank" in message and "train.learning_rate" in message


@pytest.mark.parametrize(
    ("over", "said"),
    [
        ("lora.targets=[q_proj],[w_proj]", "this base has no projection 'w_proj'"),
        ("lora.rnk=2", "rnk"),
        ("data.split.seed=0,1", "the runs would be judged on different rows"),
        ("targets.accuracy=0.5", "the runs would learn the same"),
        ("lora.rank=2,,4", "a value is empty"),
        ("task.fields.high=flag,{type: choice, choices: ['true', 'false']}", "have different fields, so no metric compares them"),
        ("data.take.rows=1000", "data.take.rows is 1,000, and 18 rows train"),
    ],
)
def test_what_makes_no_sweep_is_refused(floods: Path, tmp_path: Path, over: str, said: str) -> None:
    assert said in refused(floods, tmp_path, "--over", over)["message"]


def test_a_metric_that_there_is_not_is_refused_with_the_nearest(floods: Path, tmp_path: Path) -> None:
    error = refused(floods, tmp_path, "--over", "lora.rank=2", "--metric", "acuracy")
    assert error["message"] == "this task has no metric 'acuracy' to choose by"
    assert "accuracy" in error["hint"]


def test_without_validation_rows_there_is_nothing_to_choose_by(floods: Path, tmp_path: Path) -> None:
    sets = ("--set", "data.split.valid=0", "--set", "data.split.train=0.8")
    assert "there are no validation rows to choose by" in refused(floods, tmp_path, "--over", "lora.rank=2", *sets)["message"]


def test_a_folder_that_was_begun_or_holds_something_else_is_not_filled(
    floods: Path, swept: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    again = call("sweep", floods, *OVER, "--out", swept[0], "--json")
    assert (again.code, again.document["error"]["message"]) == (2, "it was begun already")
    (tmp_path / "notes.txt").write_text("mine", encoding="utf-8")
    other = call("sweep", floods, *OVER, "--out", tmp_path, "--resume", "--json")
    assert other.document["error"]["message"] == "this folder holds something else (notes.txt)"


def test_another_recipe_does_not_go_on_with_a_sweep(swept: tuple[Path, dict[str, Any]], floods: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(swept[0], tmp_path / "copy"))
    called = call("sweep", floods, *OVER, "--out", folder, "--resume", "--set", "train.batch_size=2", "--json")
    assert called.code == 2
    assert "the run was begun with another recipe" in called.document["error"]["message"]


def test_two_sweeps_do_not_share_a_folder(floods: Path, swept: tuple[Path, dict[str, Any]]) -> None:
    with files.exclusive(swept[0]):
        called = call("sweep", floods, *OVER, "--out", swept[0], "--resume", "--json")
    assert "is in use" in called.document["error"]["message"]
