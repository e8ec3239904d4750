"""The main job end to end, in steps and at once, again and again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from tests.cli.conftest import Place
from tests.students import call, read_lines, recipe, water, write_lines

CONVERTED = {"out", "family", "parameters", "bits_per_weight", "bytes", "seconds", "peak_memory_bytes"}
TRAINED = {
    "run", "steps", "epochs", "train_loss", "valid_loss", "perplexity", "tokens", "tokens_per_second", "peak_memory_bytes", "stopped",
}  # fmt: skip
JUDGED = {"run", "report", "metrics", "targets", "verdict"}


def adapter(run: Path) -> bytes:
    return (run / "adapter" / "adapter_model.safetensors").read_bytes()


def test_one_command_from_labelled_texts_to_a_report(finished: Place) -> None:
    made = finished.made
    assert (made.code, made.err) == (0, ""), "with --json, nothing is said beside the document"
    assert made.document.keys() >= JUDGED
    assert made.document["verdict"] == "met"
    assert made.document["targets"] == {"accuracy": {"value": made.document["metrics"]["accuracy"]["value"], "target": 0.0, "met": True}}
    for figure in made.document["metrics"].values():
        assert figure.keys() == {"value", "low", "high", "n"}
    assert json.loads((finished.run / "report.json").read_text(encoding="utf-8")) == made.document
    assert Path(made.document["report"]).read_text(encoding="utf-8").startswith("<!")
    there = {path.name for path in finished.run.iterdir()}
    assert there == {
        "recipe.lock.yaml", "split.json", "adapter", "checkpoints", "events.jsonl", "predictions.jsonl", "report.json", "report.html",
    }  # fmt: skip


def test_predictions_are_of_valid_and_test_and_of_nothing_that_was_learned(finished: Place) -> None:
    split = json.loads((finished.run / "split.json").read_text(encoding="utf-8"))
    lines = read_lines(finished.run / "predictions.jsonl")
    assert sorted(line["id"] for line in lines) == sorted(split["valid"] + split["test"])
    assert sorted(line["id"] for line in lines if line["split"] == "test") == sorted(split["test"])
    for line in lines:
        assert sum(line["probabilities"]["high"]["raw"]) == pytest.approx(1, abs=1e-5)


def test_run_again_says_what_is_done_and_does_nothing(finished: Place) -> None:
    before = {path: path.stat().st_mtime_ns for path in finished.run.rglob("*") if path.is_file()}
    again = call("run", finished.recipe, "--out", finished.run)
    assert (again.code, again.out) == (0, "")
    assert "train: done already" in again.err
    assert "evaluate: done already" in again.err
    assert "mlx-distill infer" in again.err, "what to type next"
    assert call("run", finished.recipe, "--out", finished.run, "--json").document == finished.made.document
    assert {path: path.stat().st_mtime_ns for path in finished.run.rglob("*") if path.is_file()} == before


def test_the_steps_one_by_one_give_the_same_adapter_and_figures(finished: Place, tmp_path: Path) -> None:
    trained = call("train", finished.recipe, "--out", tmp_path / "run", "--json")
    assert (trained.code, trained.err) == (0, "")
    assert trained.document.keys() >= TRAINED
    assert trained.document["stopped"] == "done"
    assert adapter(tmp_path / "run") == adapter(finished.run), "same recipe, same seed: byte for byte"
    judged = call("evaluate", tmp_path / "run", "--json")
    assert judged.code == 0
    assert judged.document.keys() >= JUDGED
    assert judged.document["metrics"] == finished.made.document["metrics"]


def test_another_seed_is_another_adapter(finished: Place, tmp_path: Path) -> None:
    call("train", finished.recipe, "--out", tmp_path / "run", "--set", "train.seed=1", "--set", "train.epochs=1")
    assert adapter(tmp_path / "run") != adapter(finished.run)


def test_train_does_not_go_on_unasked(finished: Place) -> None:
    called = call("train", finished.recipe, "--out", finished.run, "--json")
    assert called.code == 2
    error = called.document["error"]
    assert (error["kind"], error["file"], error["message"]) == ("OutputError", str(finished.run), "there is a run already")
    assert "--resume" in error["hint"]


def test_resume_of_finished_training_is_done_at_once(finished: Place) -> None:
    again = call("train", finished.recipe, "--out", finished.run, "--resume", "--json")
    assert again.code == 0
    assert again.document["stopped"] == "done"


def test_resume_on_nothing_begins(fresh: Path, tmp_path: Path) -> None:
    called = call("train", fresh, "--out", tmp_path / "run", "--resume", "--set", "train.epochs=1")
    assert called.code == 0
    assert f"next: mlx-distill evaluate {tmp_path / 'run'}" in called.out


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("train.learning_rate=0.5", "train.learning_rate: 0.01 -> 0.5"),
        ("lora.rank=8", "lora.rank: 4 -> 8"),
        ("task.instructions=other", "task.instructions: How high is the water? -> other"),
    ],
)
def test_a_changed_recipe_is_refused_by_name(finished: Place, change: str, said: str) -> None:
    for command in (["run"], ["train", "--resume"]):
        called = call(*command, finished.recipe, "--out", finished.run, "--set", change)
        assert called.code == 2
        assert said in called.err
        assert "begin a new run" in called.err


def test_another_limit_is_another_run(finished: Place) -> None:
    called = call("run", finished.recipe, "--out", finished.run, "--limit", 20)
    assert called.code == 2
    assert "begun without --limit, and this is with --limit 20" in called.err


def test_changed_rows_are_refused(done: Place) -> None:
    write_lines(done.folder / "rows.jsonl", water(41))
    for command in (["run", done.recipe, "--out", done.run], ["evaluate", done.run]):
        called = call(*command)
        assert called.code == 2
        assert "the data changed since the run was begun" in called.err


def test_more_epochs_go_on_from_what_was_learned(done: Place) -> None:
    before = yaml.safe_load((done.run / "recipe.lock.yaml").read_text(encoding="utf-8"))
    called = call("train", done.recipe, "--out", done.run, "--resume", "--set", "train.epochs=3", "--json")
    assert called.code == 0
    assert called.document["epochs"] == 3
    after = yaml.safe_load((done.run / "recipe.lock.yaml").read_text(encoding="utf-8"))
    assert (after["recipe"]["train"]["epochs"], after["locked"]) == (3, before["locked"])
    again = call("run", done.recipe, "--out", done.run, "--set", "train.epochs=3")
    assert again.code == 0
    assert "train: done already" in again.err


def test_other_targets_are_judged_anew_and_missed_targets_are_exit_3(done: Place) -> None:
    for command in ("run", "evaluate"):
        words = [done.recipe, "--out", done.run, "--set", "targets.nll=0"] if command == "run" else [done.run]
        called = call(command, *words, "--json")
        assert called.code == 3
        assert called.document["verdict"] == "missed"
        assert called.document["targets"]["nll"]["met"] is False


def test_a_folder_that_holds_something_else_is_left_alone(fresh: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1.txt").write_text("years of work", encoding="utf-8")
    for command in ("run", "train"):
        called = call(command, fresh, "--out", tmp_path / "thesis")
        assert called.code == 2
        assert "this folder holds something else (chapter1.txt)" in called.err
    assert [path.name for path in (tmp_path / "thesis").iterdir()] == ["chapter1.txt"]


def test_limit_does_it_all_on_so_many_rows(fresh: Path, tmp_path: Path) -> None:
    called = call("run", fresh, "--out", tmp_path / "run", "--limit", 20, "--set", "train.epochs=1", "--json")
    assert called.code == 0
    split = json.loads((tmp_path / "run" / "split.json").read_text(encoding="utf-8"))
    assert sum(map(len, split.values())) == 20
    again = call("run", fresh, "--out", tmp_path / "run", "--limit", 20, "--set", "train.epochs=1")
    assert again.code == 0


def test_before_it_starts_it_says_what_it_will_do(fresh: Path, tmp_path: Path) -> None:
    called = call("train", fresh, "--out", tmp_path / "run", "--set", "train.epochs=1")
    for words in (
        "floods: 40 rows (24 train, 8 valid, 8 test), 0 bad",
        "1 epoch, 6 steps of 4 x 1 rows",
        "at the peak, of ",
        "from step 0",
    ):
        assert words in called.err, called.err


def test_convert_gives_a_base_that_a_recipe_can_name(fresh: Path, checkpoint: Path, tmp_path: Path) -> None:
    called = call("convert", checkpoint, tmp_path / "base", "--bits", "4", "--group-size", "32", "--json")
    assert (called.code, called.err) == (0, "")
    assert called.document.keys() >= CONVERTED
    assert called.document["bits_per_weight"] < 8
    twice = call("convert", checkpoint, tmp_path / "base")
    assert twice.code == 2
    assert str(tmp_path / "base") in twice.err


def test_slots_run_end_to_end(fresh: Path, tmp_path: Path) -> None:
    called = call("run", fresh, "--out", tmp_path / "run", "--set", "answer=slots", "--set", "train.epochs=1", "--json")
    assert called.code == 0, called
    write_lines(tmp_path / "new.jsonl", [{"text": "The river is low."}])
    assert call("infer", tmp_path / "run", tmp_path / "new.jsonl", tmp_path / "out.jsonl").code == 0
    assert read_lines(tmp_path / "out.jsonl")[0]["answer"].keys() == {"high"}


# evaluate


def test_evaluate_on_other_rows_leaves_the_run_s_own_report_alone(done: Place) -> None:
    before = (done.run / "report.json").read_bytes()
    write_lines(done.folder / "newly.jsonl", [{**row, "id": f"n{row['id']}"} for row in water(12)])
    called = call("evaluate", done.run, "--data", done.folder / "newly.jsonl", "--json")
    assert called.code == 0
    assert called.document["report"] == str(done.run / "report.newly.html")
    assert called.document["metrics"]["accuracy.high"]["n"] == 12
    assert (done.run / "report.json").read_bytes() == before
    assert len(read_lines(done.run / "predictions.newly.jsonl")) == 12
    assert called.document["notes"] == []


def test_evaluate_says_where_rows_were_learned(done: Place) -> None:
    called = call("evaluate", done.run, "--data", done.folder / "rows.jsonl", "--json")
    assert "24 of these rows have the id of a row that the student learned from" in called.document["notes"][0]
    assert "rows of which 24 have the id of one that it learned from" in called.document["summary"][1]


def test_evaluate_reads_a_csv_with_the_delimiter_that_is_named(done: Place) -> None:
    path = done.folder / "labels.csv"
    path.write_text("text;high\nThe river rose.;yes\nIt is low.;no\n", encoding="utf-8")
    plain = call("evaluate", done.run, "--data", path)
    assert plain.code == 2
    assert "delimiter" in plain.err
    assert call("evaluate", done.run, "--data", path, "--delimiter", ";").code == 0


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"text": "unlabelled"}\n', "no row has a label for high"),
        ("", "empty"),
        ('{"text": "a", "high": "perhaps"}\n', "'perhaps' is no flag"),
        ('{"txt": "a", "high": true}\n', "no column 'text'"),
    ],
)
def test_labels_that_cannot_be_judged_by_are_refused(done: Place, content: str, said: str) -> None:
    path = done.folder / "labels.jsonl"
    path.write_text(content, encoding="utf-8")
    called = call("evaluate", done.run, "--data", path)
    assert called.code == 2
    assert said in called.err
    assert str(path) in called.err


def test_a_run_is_needed(tmp_path: Path, fresh: Path) -> None:
    (tmp_path / "empty").mkdir()
    write_lines(tmp_path / "t.jsonl", [{"text": "x"}])
    for place, said in ((tmp_path / "none", "no such folder"), (tmp_path / "empty", "no run here"), (fresh, "this is a file")):
        for words in (["evaluate", place], ["infer", place, tmp_path / "t.jsonl", tmp_path / "o.jsonl"]):
            called = call(*words)
            assert called.code == 2
            assert said in called.err or (words[0] == "infer" and place == fresh and "no bundle" in called.err)
            assert "mlx-distill run RECIPE" in called.err
    assert not (tmp_path / "o.jsonl").exists()


def test_a_base_that_changed_since_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.checkpoints import make_checkpoint

    make_checkpoint(tmp_path / "checkpoint")
    write_lines(tmp_path / "rows.jsonl", water(20))
    path = recipe(tmp_path / "recipe.yaml", train={"epochs": 1})
    assert call("train", path, "--out", tmp_path / "run").code == 0
    make_checkpoint(tmp_path / "checkpoint", seed=7)
    assert call("evaluate", tmp_path / "run").code == 0, "the cache has the very base"
    monkeypatch.setenv("MLX_DISTILL_CACHE", str(tmp_path / "lost"))
    called = call("evaluate", tmp_path / "run")
    assert called.code == 2
    assert "no longer the checkpoint that the run was trained on" in called.err
