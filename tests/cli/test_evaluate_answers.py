"""`evaluate --predictions`: answers made elsewhere are judged by a recipe's task, without any model."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlx_distill.evaluation.metrics.ece import ece
from tests.cli.conftest import Place
from tests.students import call, write_lines

SCORES = Path(__file__).parent.parent / "data" / "oracle_scores"
MAP = "id=article_id,reference=oracle_{field},answer=student_{field}"
RECIPE = """\
task:
  input: "{text}"
  fields:
    kind: {type: choice, choices: [fire, flood], aliases: {flood: [Flut]}}
    risk: {type: score, weight: 1}
  tiers: {high: 5, low: 0}
"""


@pytest.fixture
def here(tmp_path: Path) -> Path:
    (tmp_path / "task.yaml").write_text(RECIPE)
    lines = [
        {
            "id": f"r{i}",
            "reference": {"kind": "fire" if i % 2 else "flood", "risk": i % 10},
            "answer": {"kind": "FLUT", "risk": (i + 1) % 10},
        }
        for i in range(40)
    ]
    write_lines(tmp_path / "answers.jsonl", lines)
    return tmp_path


def judged(folder: Path, *more: object, file: str = "answers.jsonl") -> Any:
    return call("evaluate", "--predictions", folder / file, "--task", folder / "task.yaml", *more)


def texts(*files: Path) -> str:
    return "".join(file.read_text(encoding="utf-8") for file in files)


# the published figures


@pytest.mark.parametrize(
    ("name", "published", "rows", "code"),
    [("uplifting_v4", 0.968, 671, 3), ("investment_risk_v5", 0.484, 1021, 0), ("sustainability_technology_v2", 0.691, 1000, 0)],
)
def test_students_of_others_come_out_with_their_published_errors(tmp_path: Path, name: str, published: float, rows: int, code: int) -> None:
    table = SCORES / f"student_vs_oracle_{name}.csv"
    done = call(
        "evaluate", "--predictions", table, "--task", SCORES / f"{name}.yaml", "--columns", MAP, "--out", tmp_path / "out",
        "--set", "evaluate.bootstrap=100", "--json",
    )  # fmt: skip
    figure = done.document["metrics"]["dimension_mae"]
    assert (figure["n"], done.code) == (rows, code)
    # 0.69053: published rounded up
    assert figure["value"] == pytest.approx(published, abs=6e-4)
    records = list(csv.DictReader(table.open()))
    names = [column.removeprefix("oracle_") for column in records[0] if column.startswith("oracle_")]
    for field in names:
        gaps = [abs(float(row[f"oracle_{field}"]) - float(row[f"student_{field}"])) for row in records]
        assert done.document["metrics"][f"mae.{field}"]["value"] == pytest.approx(np.mean(gaps))


def test_overall_and_tier_are_the_rubrics_on_both_sides(tmp_path: Path) -> None:
    weights = {
        "agency": 0.14, "progress": 0.19, "collective_benefit": 0.38, "connection": 0.10, "innovation": 0.08, "justice": 0.04,
        "resilience": 0.02, "wonder": 0.05,
    }  # fmt: skip
    table = SCORES / "student_vs_oracle_uplifting_v4.csv"
    overalls = [
        [round(sum(w * float(row[f"{side}_{name}"]) for name, w in weights.items()), 2) for side in ("oracle", "student")]
        for row in csv.DictReader(table.open())
    ]
    done = call(
        "evaluate", "--predictions", table, "--task", SCORES / "uplifting_v4.yaml", "--columns", MAP, "--out", tmp_path / "out",
        "--set", "evaluate.bootstrap=100", "--json",
    )  # fmt: skip
    assert done.document["metrics"]["overall_mae"]["value"] == pytest.approx(np.mean([abs(a - b) for a, b in overalls]), abs=1e-3)
    tiers = [[(overall >= 7) + (overall >= 4) + (overall >= 0) for overall in pair] for pair in overalls]
    assert done.document["metrics"]["tier_agreement"]["value"] == pytest.approx(np.mean([a == b for a, b in tiers]), abs=2e-3)
    assert done.document["targets"]["tier_agreement"]["met"] is False
    below = [float(row["student_justice"]) for row in csv.DictReader(table.open()) if float(row["student_justice"]) < 0]
    told = f"{len(below)} scores lie outside the limits of justice, the furthest at {min(below):g}; they are taken as they stand."
    assert told in done.document["notes"]
    assert {entry["value"] for entry in done.document["slices"]["tier"]} == {"impact", "connection", "not_uplifting"}
    assert {entry["value"][:2] for entry in done.document["slices"]["quartile(overall)"]} == {"Q1", "Q2", "Q3", "Q4"}


# files


def test_the_report_lies_beside_the_answers_which_stay_as_they_were(here: Path) -> None:
    before = (here / "answers.jsonl").read_bytes()
    done = judged(here)
    assert done.code == 0
    assert sorted(path.name for path in here.iterdir()) == ["answers.jsonl", "answers.report", "task.yaml"]
    assert sorted(path.name for path in (here / "answers.report").iterdir()) == ["predictions.jsonl", "report.html", "report.json"]
    assert (here / "answers.jsonl").read_bytes() == before
    assert f"next: open {here / 'answers.report' / 'report.html'}" in done.out
    document = json.loads((here / "answers.report" / "report.json").read_text())
    assert document["metrics"]["accuracy.kind"]["value"] == 0.5
    assert document["lineage"]["answers"] == str(here / "answers.jsonl") and len(document["lineage"]["answers_sha256"]) == 64
    assert document["name"] == "task"


def test_missed_targets_end_with_three_and_met_ones_with_zero(here: Path) -> None:
    assert judged(here, "--set", "targets.accuracy=0.5").code == 0
    missed = judged(here, "--set", "targets.accuracy=0.6", "--json")
    assert (missed.code, missed.document["verdict"]) == (3, "missed")


def test_out_names_the_place(here: Path) -> None:
    assert judged(here, "--out", here / "deep" / "place", "--json").document["report"] == str(here / "deep" / "place" / "report.html")
    assert not (here / "answers.report").exists()


def test_a_table_may_be_csv_with_a_delimiter_or_parquet(here: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    rows = [{"key": f"r{i}", "gold_kind": "fire", "gold_risk": 3, "said_kind": "fire" if i else "x", "said_risk": 3.5} for i in range(10)]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), here / "t.parquet")
    (here / "t.csv").write_text("\n".join(";".join(map(str, values)) for values in [rows[0].keys(), *(row.values() for row in rows)]))
    how = ("--columns", "id=key,reference=gold_{field},answer=said_{field}", "--json")
    found = [
        judged(here, *how, file="t.parquet").document,
        judged(here, *how, "--delimiter", ";", "--out", here / "o", file="t.csv").document,
    ]
    for document in found:
        assert document["metrics"]["accuracy.kind"]["value"] == 0.9
        assert document["metrics"]["mae.risk"]["value"] == 0.5
        (note,) = document["notes"]
        assert note.startswith("1 value of kind cannot be read: no answer to that field; the first: 'x' is none of its choices")


def test_a_field_without_a_column_is_not_judged_and_one_that_objects_lack_is_wrong(here: Path) -> None:
    (here / "task.yaml").write_text(RECIPE.replace(", weight: 1", "").replace("  tiers: {high: 5, low: 0}\n", ""))
    (here / "t.csv").write_text("id,gold_kind,gold_risk,said_kind\n1,fire,3,fire\n")
    document = judged(here, "--columns", "reference=gold_{field},answer=said_{field}", "--json", file="t.csv").document
    assert "accuracy.kind" in document["metrics"] and "exact.risk" not in document["metrics"]
    assert document["notes"] == ["Not judged, for no row has an answer to it: risk."]
    write_lines(here / "lines.jsonl", [{"id": "1", "reference": {"kind": "fire", "risk": 3}, "answer": {"kind": "fire"}}])
    document = judged(here, "--json", file="lines.jsonl").document
    assert document["metrics"]["exact.risk"]["value"] == 0


# labels of the recipe's data


def test_result_lines_of_infer_take_their_labels_texts_and_columns_from_the_data_by_id(here: Path) -> None:
    rows = [
        {"id": i, "text": f"Text {i}", "kind": "fire", "risk": 7, "language": "el" if i % 3 else "nl", "second": "fire"} for i in range(30)
    ]
    write_lines(here / "labels.jsonl", rows)
    recipe = RECIPE.replace("aliases:", "raters: [second], aliases:") + (
        "data: {source: {kind: jsonl, path: labels.jsonl}, split: {train: 0.9}}\n"
        "base: {model: ./nowhere}\nevaluate: {slices: [language, length, \"'9' in text\"]}\n"
    )
    (here / "task.yaml").write_text(recipe)
    lines = [{"id": i, "answer": {"kind": "fire" if i < 6 else "flood", "risk": 6}, "confidence": {"kind": 0.75}} for i in range(12)]
    write_lines(here / "out.jsonl", [*lines, {"id": 99, "answer": {"kind": "fire", "risk": 1}}])
    document = judged(here, "--json", file="out.jsonl").document
    assert (document["rows"], document["metrics"]["accuracy.kind"]["value"]) == (12, 0.5)
    assert document["metrics"]["ece.kind"]["value"] == pytest.approx(0.25)
    assert {entry["value"]: entry["n"] for entry in document["slices"]["language"]} == {"nl": 4, "el": 8}
    assert {entry["value"]: entry["n"] for entry in document["slices"]["'9' in text"]} == {"yes": 1, "no": 11}
    assert document["ceiling"]["raters"]["kind"]["others"]["accuracy.kind"]["share"]["value"] == 0.5
    assert document["notes"] == ["1 row without any label left out, the first: 99."]
    assert len(document["lineage"]["data_sha256"]) == 64
    assert any(entry["text"].startswith("Text ") for entry in document["disagreements"])


def test_without_labels_anywhere_the_way_out_is_named(here: Path) -> None:
    write_lines(here / "out.jsonl", [{"id": "1", "answer": {"kind": "fire"}}])
    refused = judged(here, file="out.jsonl")
    assert (refused.code, "the recipe has no data to take them from" in refused.err) == (2, True)
    assert "--columns 'reference=oracle_{field}'" in refused.err
    write_lines(here / "labels.jsonl", [{"id": "other", "text": "x", "kind": "fire", "risk": 1}])
    (here / "task.yaml").write_text(RECIPE + "data: {source: {kind: jsonl, path: labels.jsonl}}\n")
    refused = judged(here, file="out.jsonl")
    assert (refused.code, "the first id here is '1'" in refused.err) == (2, True)


def test_the_judge_asked_again_is_the_ceiling(here: Path) -> None:
    second = [{"id": f"r{i}", "kind": "fire" if i % 2 and i > 9 else "flood", "risk": "?"} for i in range(40)]
    write_lines(here / "second.jsonl", second)
    (here / "task.yaml").write_text(RECIPE + "evaluate: {again: {kind: jsonl, path: second.jsonl}}\n")
    document = judged(here, "--json").document
    sides = document["ceiling"]["again"]["metrics"]["accuracy.kind"]
    assert [sides[side]["value"] for side in ("judge", "student")] == [0.875, 0.5]
    assert document["notes"] == ["40 of the second answers in risk cannot be read; the first: '?' is no number."]
    assert "asked again about 40 rows" in texts(here / "answers.report" / "report.html")


# the run's own lines


def test_a_runs_own_predictions_come_out_as_in_its_own_report(finished: Place, tmp_path: Path) -> None:
    own = json.loads((finished.run / "report.json").read_text())
    lines = finished.run / "predictions.jsonl"
    done = call("evaluate", "--predictions", lines, "--task", finished.run / "recipe.lock.yaml", "--out", tmp_path / "o", "--json")
    assert done.code == 0, done.err
    shared = {"accuracy", "exact_match", "valid_json", "macro_f1.high", "ece.high", "accuracy.high", "nll"} & own["metrics"].keys()
    assert len(shared) > 3 and done.document["rows"] == own["rows"]
    for name in shared:
        assert done.document["metrics"][name]["value"] == pytest.approx(own["metrics"][name]["value"], abs=1e-5), name


# deferral


def test_a_threshold_is_found_on_the_calibrate_rows_of_the_file(here: Path) -> None:
    random = np.random.default_rng(0)
    lines = []
    for i in range(900):
        sure = float(random.uniform(0.5, 1))
        said = "fire" if random.random() < 0.5 else "flood"
        right = random.random() < sure
        truth = said if right else ("flood" if said == "fire" else "fire")
        shares = [sure, 1 - sure] if said == "fire" else [1 - sure, sure]
        split = ("valid", "calibrate", "test")[i % 3]
        line = {"id": str(i), "split": split, "reference": {"kind": truth}, "answer": {"kind": said}, "confidence": {"kind": sure}}
        lines.append({**line, "probabilities": {"kind": {"raw": shares}}})
    write_lines(here / "answers.jsonl", lines)
    deferring = ("--set", "targets.defer={max_error: 0.2, of: kind}")
    document = judged(here, *deferring, "--json").document
    assert document["rows"] == 300
    assert document["deferral"]["max_error"] == 0.2
    assert 0 < document["deferral"]["threshold"] < 1
    assert 0 < document["deferral"]["test"]["kept"] < 300
    assert document["calibration"]["fields"].keys() == {"kind"}
    write_lines(here / "answers.jsonl", [line for line in lines if line["split"] == "test"])
    document = judged(here, *deferring, "--json").document
    assert document["notes"][-1].startswith("There is no threshold: found on rows of the split `calibrate`")


# privacy, Markdown, refusals


def test_no_text_leaves_where_the_recipe_says_so(here: Path) -> None:
    write_lines(here / "labels.jsonl", [{"id": f"r{i}", "text": "a secret"} for i in range(40)])
    write_lines(
        here / "answers.jsonl",
        [{"id": f"r{i}", "text": "a secret", "reference": {"kind": "fire"}, "answer": {"kind": "flood"}} for i in range(40)],
    )
    judged(here)
    files = [here / "answers.report" / name for name in ("report.html", "report.json")]
    assert "a secret" in texts(*files)
    judged(here, "--set", "report.texts=false")
    assert "a secret" not in texts(*files)


def test_nothing_that_a_row_brought_is_quoted_where_the_recipe_says_so(here: Path) -> None:
    name = "Patient John Smith"
    lines = [{"id": f"r{i}", "reference": {"kind": "fire", "risk": 3}, "answer": {"kind": "fire", "risk": 3}} for i in range(200)]
    lines[0] |= {"answer": {"kind": name, "risk": name}, "second": name}
    lines[1] |= {"reference": {"kind": name}}
    write_lines(here / "answers.jsonl", lines)
    write_lines(here / "second.jsonl", [{"id": "r4", "kind": name, "risk": name}])
    write_lines(here / "data.jsonl", [{"id": "x", "kind": name}])
    more = "evaluate: {again: {kind: jsonl, path: second.jsonl}, slices: [tier]}\ndata: {source: {kind: jsonl, path: data.jsonl}}\n"
    (here / "task.yaml").write_text(RECIPE.replace("aliases:", "raters: [second], aliases:") + more)
    files = [here / "answers.report" / name for name in ("report.html", "report.json")]
    how = ("--set", "data.max_bad_share=0.5")
    told = judged(here, *how, "--set", "report.texts=true", "--format", "md")
    assert told.code == 0, told.err
    assert name in texts(*files)
    kept = judged(here, *how, "--set", "report.texts=false", "--format", "md")
    assert kept.code == 0
    assert name not in texts(*files) + kept.out
    assert "1 value of kind cannot be read: no answer to that field." in json.loads(files[1].read_text())["notes"]


def test_markdown_goes_to_standard_output_alone(here: Path) -> None:
    done = judged(here, "--format", "md", "--set", "targets.accuracy=0.6")
    assert done.code == 3
    assert done.out.startswith("## task: ✗") and "| kind |" in done.out
    assert done.err == "" and "next: open" not in done.out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "name a RUN; or answers made elsewhere, --predictions FILE --task RECIPE"),
        (("run", "--predictions", "x.csv", "--task", "t.yaml"), "leave --predictions out"),
        (("--predictions", "x.csv"), "needs the task that was answered: --task RECIPE"),
        (("run", "--task", "t.yaml"), "--task belongs to --predictions"),
        (("run", "--columns", "id=x"), "--columns belongs to --predictions"),
        (("run", "--out", "x"), "--out belongs to --predictions"),
        (("run", "--set", "a=b"), "--set belongs to --predictions"),
        (("--predictions", "x", "--task", "t", "--data", "y"), "--data belongs to a RUN: the labels are in FILE or in the recipe's data"),
        (("--predictions", "x", "--task", "t", "--backend", "torch"), "--backend belongs to a RUN: no model is asked"),
        (("--predictions", "x", "--task", "t", "--format", "md", "--json"), "--format md and --json would both print"),
    ],
)
def test_options_that_do_not_belong_together_are_refused_with_the_way_out(arguments: tuple[str, ...], said: str) -> None:
    refused = call("evaluate", *arguments)
    assert refused.code == 2
    assert said in " ".join((refused.err + refused.out).split())


@pytest.mark.parametrize(
    ("file", "more", "said"),
    [
        ("nowhere.jsonl", (), "there is no such file"),
        ("", (), "this is a folder, and answers stand in a file"),
        ("answers.jsonl", ("--columns", "answer=x_{field}"), "there is no column 'x_kind' or 'x_risk' for the answer"),
        ("answers.jsonl", ("--columns", "answer=x_{name}"), "cannot be the column of the answer"),
        ("answers.jsonl", ("--set", "evaluate.slices=[language]"), "there is a slice by 'language', and there is no such column"),
        ("answers.jsonl", ("--set", "targets.acuracy=1"), "did you mean accuracy?"),
        ("task.yaml", (), "no kind of source reads task.yaml"),
    ],
)
def test_what_cannot_be_judged_is_refused_and_leaves_nothing(here: Path, file: str, more: tuple[str, ...], said: str) -> None:
    refused = judged(here, *more, file=file)
    assert refused.code == 2
    assert said in refused.err
    assert sorted(path.name for path in here.iterdir()) == ["answers.jsonl", "task.yaml"]


def test_standard_input_a_run_and_the_answers_themselves_are_no_place_for_it(here: Path, finished: Place) -> None:
    assert "not from standard input" in call("evaluate", "--predictions", "-", "--task", here / "task.yaml").err
    assert "this is a run" in judged(here, "--out", finished.run).err
    (here / "report.json").write_bytes((here / "answers.jsonl").read_bytes())
    refused = call("evaluate", "--predictions", here / "report.json", "--task", here / "task.yaml", "--out", here)
    assert "would overwrite the answers" in refused.err
    (here / "taken").write_text("")
    assert "a file stands where" in judged(here, "--out", here / "taken").err


def test_too_many_bad_labels_stop_it_with_their_lines(here: Path) -> None:
    write_lines(here / "answers.jsonl", [{"id": str(i), "reference": {"risk": 11}, "answer": {"risk": 1}} for i in range(3)])
    refused = judged(here)
    assert refused.code == 2 and "risk: 11 is outside 0 to 10 (3 rows: lines 1, 2, 3)" in refused.err


# promises


def sure(folder: Path, splits: dict[str, int]) -> Path:
    """Answers that are right as often as they say, with confidences that say too much."""
    random = np.random.default_rng(5)
    lines = []
    for split, number in splits.items():
        for i in range(number):
            p = float(random.uniform(0.5, 1))
            answer, right = ("fire", "flood")[i % 2], bool(random.random() < p)
            other = ("flood", "fire")[i % 2]
            said = p**2 / (p**2 + (1 - p) ** 2)
            spread = [said, 1 - said] if answer == "fire" else [1 - said, said]
            line = {"id": f"{split}{i}", "split": split, "reference": {"kind": answer if right else other}, "answer": {"kind": answer}}
            lines.append({**line, "confidence": {"kind": said}, "probabilities": {"kind": spread}})
    (folder / "task.yaml").write_text(
        'task: {input: "{text}", fields: {kind: {type: choice, choices: [fire, flood]}}}\n'
        "evaluate: {coverage: 0.9, bootstrap: 100}\ntargets: {defer: {max_error: 0.2, level: 0.9}}\n"
        "data: {split: {train: 0.4, valid: 0.2, calibrate: 0.2, test: 0.2}}\n"
    )
    return write_lines(folder / "sure.jsonl", lines)


def test_what_is_written_is_what_was_judged(tmp_path: Path) -> None:
    """The report can be recomputed from the predictions beside it: calibrated, with thresholds and sets."""
    sure(tmp_path, {"valid": 300, "calibrate": 300, "test": 300})
    done = judged(tmp_path, "--json", file="sure.jsonl").document
    lines = [json.loads(line) for line in (tmp_path / "sure.report" / "predictions.jsonl").read_text("utf-8").splitlines()]
    test = [line for line in lines if line["split"] == "test"]
    assert len(lines) == 900 and all("calibrated" in line["probabilities"]["kind"] and line["sets"] for line in test)
    confidence = [line["confidence"]["kind"] for line in test]
    right = [line["reference"] == line["answer"] for line in test]
    assert done["metrics"]["ece.kind"]["value"] == pytest.approx(ece(confidence, right))
    assert done["deferral"]["test"]["kept"] == sum(not line.get("defer", False) for line in test)


def test_a_promise_is_not_tested_on_the_rows_that_it_was_found_on(tmp_path: Path) -> None:
    sure(tmp_path, {"valid": 300, "calibrate": 300})
    done = judged(tmp_path, "--json", file="sure.jsonl").document
    assert done["rows"] == 0 and any("what was promised is not tested" in note for note in done["notes"])
    file = sure(tmp_path, {"calibrate": 200, "test": 200})
    file.write_text(file.read_text("utf-8").replace('"test7"', '"calibrate7"'), encoding="utf-8")
    refused = judged(tmp_path, file="sure.jsonl")
    assert refused.code == 2 and "the row 'calibrate7' is of the split calibrate and of test" in refused.err


def test_rows_without_a_label_are_left_out_and_counted(here: Path) -> None:
    with (here / "answers.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"id": "x", "reference": null, "answer": {"kind": "fire", "risk": 1}}\n')
    done = judged(here, "--json")
    assert done.code == 0 and done.document["rows"] == 40
    assert "1 row without any label left out, the first: x." in done.document["notes"]
    assert "note: 1 row without any label left out" in judged(here).err


def test_confidences_in_percent_are_said_to_be_none(tmp_path: Path) -> None:
    file = sure(tmp_path, {"test": 50})
    lines = [json.loads(line) for line in file.read_text("utf-8").splitlines()]
    for line in lines:
        line["confidence"]["kind"] *= 100
        line["probabilities"]["kind"] = [0.9, 0.9]
    write_lines(file, lines)
    notes = " ".join(judged(tmp_path, "--json", file="sure.jsonl").document["notes"])
    assert "Of kind, 50 confidences are no probabilities from 0 to 1 (the first: " in notes and "Are they percent?" in notes
    assert "Of kind, 50 distributions do not sum to 1, and are left out." in notes


def test_an_overall_without_one_of_its_scores_is_refused(tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    rows = list(csv.DictReader((SCORES / "student_vs_oracle_uplifting_v4.csv").open()))[:20]
    with table.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, [name for name in rows[0] if name != "student_wonder"], extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    done = call("evaluate", "--predictions", table, "--task", SCORES / "uplifting_v4.yaml", "--columns", MAP, "--out", tmp_path / "out")
    assert done.code == 2 and "no row has an answer to wonder" in done.err and "table.csv" in done.err


def test_answers_outside_the_limits_are_compared_as_they_were_judged(tmp_path: Path) -> None:
    table = SCORES / "student_vs_oracle_uplifting_v4.csv"
    for name in ("one", "other"):
        call(
            "evaluate", "--predictions", table, "--task", SCORES / "uplifting_v4.yaml", "--columns", MAP, "--out", tmp_path / name,
            "--set", "evaluate.bootstrap=100",
        )  # fmt: skip
    done = call("compare", tmp_path / "one", tmp_path / "other", "--json")
    assert done.code == 0, done.err
