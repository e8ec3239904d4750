"""Two runs side by side, from the command line: what they answered, what they cost, and what cannot be compared."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file

from tests.cli.conftest import Place
from tests.students import call, read_lines, write_lines


@pytest.fixture
def other(finished: Place, tmp_path: Path) -> Path:
    """A second run, whose answers are wrong in every second test row: as if another student had been evaluated."""
    folder = Path(shutil.copytree(finished.run, tmp_path / "other"))
    lines = read_lines(folder / "predictions.jsonl")
    for i, line in enumerate(lines):
        line["answer"] = {"high": line["reference"]["high"] ^ bool(i % 2)}
    write_lines(folder / "predictions.jsonl", lines)
    return folder


def error(*words: object) -> dict[str, Any]:
    called = call("compare", *words, "--json")
    assert called.code == 2
    found: dict[str, Any] = called.document["error"]
    return found


def test_two_runs_are_compared_on_their_test_rows(finished: Place, other: Path) -> None:
    called = call("compare", finished.run, other, "--json")
    assert called.code == 0, called.err
    document = called.document
    lines = [[line for line in read_lines(run / "predictions.jsonl") if line["split"] == "test"] for run in (finished.run, other)]
    right = [sum(line["answer"] == line["reference"] for line in own) / len(own) for own in lines]
    assert document["rows"] == len(lines[0])
    entry = document["metrics"]["accuracy"]
    assert [entry["figures"][name]["value"] for name in ("run", "other")] == pytest.approx(right)
    assert entry["pairs"][0]["value"] == pytest.approx(right[0] - right[1])
    assert 0 < entry["pairs"][0]["p"] <= entry["pairs"][0]["p_adjusted"] <= 1
    assert document["summary"][0].startswith("By accuracy ")
    wrong_in_one = {a["id"] for a, b in zip(*lines, strict=True) if (a["answer"] == a["reference"]) != (b["answer"] == b["reference"])}
    assert {row["id"] for row in document["differ"]} == wrong_in_one


def test_what_each_costs_is_read_from_events_lock_and_adapter(finished: Place, other: Path) -> None:
    document = call("compare", finished.run, other, "--json").document
    cost = document["runs"][0]["cost"]
    events = read_lines(finished.run / "events.jsonl")
    assert cost["train_seconds"] == [event for event in events if event["name"] == "trained"][-1]["seconds"]
    adapter = finished.run / "adapter" / "adapter_model.safetensors"
    assert cost["adapter_bytes"] == adapter.stat().st_size
    assert cost["adapter_parameters"] == sum(tensor.size for tensor in load_file(adapter).values())
    assert cost["parameters"] > cost["adapter_parameters"]
    assert cost["base_bytes"] == pytest.approx(cost["parameters"] * 4, rel=0.1), "float32"


def test_a_person_gets_a_table_a_page_or_markdown(finished: Place, other: Path, tmp_path: Path) -> None:
    plain = call("compare", finished.run, other, "--html", tmp_path / "page.html")
    assert plain.code == 0
    assert "accuracy" in plain.out and "p (Holm)" in plain.out
    html = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert html.startswith("<!doctype html>") and "Where they differ most" in html
    marked = call("compare", finished.run, other, "--format", "md")
    assert "| accuracy |" in marked.out and "| --- |" in marked.out


def test_a_folder_without_a_lock_is_read_by_its_report(finished: Place, other: Path) -> None:
    (other / "recipe.lock.yaml").unlink()
    document = call("compare", finished.run, other, "--json").document
    assert document["metrics"]["accuracy"]["figures"]["other"]["n"] == document["rows"]
    assert document["runs"][1]["cost"]["parameters"] is None


def test_answers_to_other_rows_are_named_by_their_file(finished: Place, other: Path) -> None:
    shutil.copy(other / "predictions.jsonl", other / "predictions.new.jsonl")
    shutil.copy(other / "report.json", other / "report.new.json")
    document = call("compare", finished.run, other / "predictions.new.jsonl", "--json").document
    assert [run["name"] for run in document["runs"]] == ["run", "predictions.new"]


def test_runs_of_one_name_are_called_by_their_paths(finished: Place, other: Path, tmp_path: Path) -> None:
    twin = Path(shutil.copytree(other, tmp_path / "elsewhere" / "run"))
    names = [run["name"] for run in call("compare", finished.run, twin, "--json").document["runs"]]
    assert names == [str(finished.run), str(twin)]


def test_one_run_is_no_comparison_nor_is_the_same_one_twice(finished: Place) -> None:
    assert "takes two runs or more" in error(finished.run)["message"]
    assert "is named twice" in error(finished.run, finished.run)["message"]


def test_a_run_that_was_not_evaluated_says_how(finished: Place, other: Path, tmp_path: Path) -> None:
    (other / "predictions.jsonl").unlink()
    assert error(finished.run, other)["message"] == "this run has not been evaluated"
    assert "mlx-distill evaluate RUN" in error(finished.run, other)["hint"]
    assert error(finished.run, tmp_path / "nowhere")["message"] == "there is no such folder"
    assert error(finished.run, tmp_path)["message"] == "there are no answers here"


def test_a_label_that_changed_between_them_is_refused_with_its_row(finished: Place, other: Path) -> None:
    lines = read_lines(other / "predictions.jsonl")
    changed = next(line for line in lines if line["split"] == "test")
    changed["reference"]["high"] = not changed["reference"]["high"]
    write_lines(other / "predictions.jsonl", lines)
    found = error(finished.run, other)
    assert changed["id"] in found["message"] and found["file"] == str(other / "predictions.jsonl")


def test_a_damaged_report_is_said_with_its_file(finished: Place, other: Path) -> None:
    (other / "report.json").write_text("{", encoding="utf-8")
    assert error(finished.run, other)["file"] == str(other / "report.json")
    (other / "report.json").write_text(json.dumps([1]), encoding="utf-8")
    assert error(finished.run, other)["message"] == "is no report"
