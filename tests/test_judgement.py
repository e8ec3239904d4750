"""What `run` finds out about a student beside agreement, and that `infer` then does just what the report said it would."""

from __future__ import annotations

import csv
import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mlx_distill import workflows
from mlx_distill.observe.progress import Progress
from mlx_distill.task.confidence import FILE, Confidence
from mlx_distill.training.run import Run as RunFolder
from mlx_distill.workflows import Document, Setting
from mlx_distill.workflows.reported import reported
from tests.checkpoints import make_checkpoint
from tests.students import call, read_lines, recipe, water, write_lines

MMLU = [["maths", f"What is {i} + 1?", str(i + 1), str(i), str(i + 2), "9", "A", "ok"] for i in range(6)]
PARTS = (
    "tiers", "ceiling", "production", "calibration", "deferral", "conformal", "robustness", "fairness", "forgetting", "tokenizer",
)  # fmt: skip
SECRET = "the harbour master's house"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("checkpoint") / "tiny")


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Setting:
    return Setting(progress=Progress(quiet=True), cache=tmp_path_factory.mktemp("cache"))


def rows() -> list[dict[str, Any]]:
    """Scores and a flag; a second judge of the flag, who differs now and then."""
    found = []
    for i, row in enumerate(water(120)):
        score = 2 + 5 * row["high"] + i % 3
        found.append({**row, "text": f"{row['text']} Near {SECRET}.", "risk": score, "other": str(row["high"] ^ (i % 10 == 0)).lower()})
    return found


def sections(checkpoint: Path) -> dict[str, Any]:
    return {
        "base": {"model": str(checkpoint)},
        "task": {
            "fields": {
                "high": {"type": "flag", "raters": ["other"]},
                "risk": {"type": "score", "weight": 1.0, "estimate": "mean"},
            },
            "tiers": {"act": 6, "watch": 0},
        },
        "data": {"split": {"train": 0.4, "valid": 0.2, "calibrate": 0.2, "test": 0.2}},
        "answer": "slots",
        "evaluate": {
            "bootstrap": 100,
            "slices": ["tier", "length", "'low' in text"],
            "coverage": 0.8,
            "again": {"kind": "jsonl", "path": "again.jsonl"},
        },
        "robustness": {"suites": ["case", "nonsense"], "rows": 5, "max_flip_rate": 1.0},
        "fairness": {"scenarios": {"place": {"row": {"text": "Water in {place}."}, "variants": {"place": ["a village", "the town"]}}}},
        "forgetting": {"benchmarks": {"mmlu": {"kind": "mmlu", "path": "mmlu.csv", "floor": 0.0}}, "max_drop": 1.0},
        "report": {"texts": False},
        "targets": {"defer": {"max_error": 0.5, "level": 0.6, "of": "high"}, "valid_json": 1.0},
    }


@pytest.fixture(scope="module")
def judged(setting: Setting, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Document]:
    """Not to be changed: a run with everything that a recipe can ask for, and its document."""
    folder = tmp_path_factory.mktemp("judged")
    write_lines(folder / "rows.jsonl", rows())
    write_lines(
        folder / "again.jsonl",
        [
            *({"id": row["id"], "high": row["high"], "risk": row["risk"] + i % 2} for i, row in enumerate(rows())),
            {"id": rows()[0]["id"], "high": True, "risk": 0},
            {"id": "of no row", "high": SECRET},
        ],
    )
    with (folder / "mmlu.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([["subject", "question", "A", "B", "C", "D", "answer", "error_type"], *MMLU])
    path = recipe(folder / "recipe.yaml", **sections(checkpoint))
    assert workflows.check(setting, [path], []) == {"problems": []}
    return folder, workflows.run(setting, path, folder / "run", [])


@pytest.fixture(scope="module")
def lines(judged: tuple[Path, Document]) -> list[dict[str, Any]]:
    return read_lines(judged[0] / "run" / "predictions.jsonl")


def test_every_part_that_was_asked_for_is_in_the_report(judged: tuple[Path, Document]) -> None:
    document = judged[1]
    for part in (
        "tiers",
        "ceiling",
        "production",
        "calibration",
        "deferral",
        "conformal",
        "robustness",
        "fairness",
        "forgetting",
        "tokenizer",
    ):
        assert document[part], part
    assert document["slices"].keys() == {"tier", "length", "'low' in text"}
    assert document["baselines"].keys() == {"majority", "tfidf", "untrained"}
    assert json.loads((judged[0] / "run" / "report.json").read_text("utf-8")) == json.loads(json.dumps(document))


def test_rows_that_promise_served_for_nothing_else(judged: tuple[Path, Document], lines: list[dict[str, Any]]) -> None:
    split = RunFolder(judged[0] / "run").split()
    by = {name: {line["id"] for line in lines if line["split"] == name} for name in ("valid", "calibrate", "test")}
    assert by == {name: set(split[name]) for name in by} and not set(split["train"]) & by["calibrate"]
    assert judged[1]["deferral"]["found"]["split"] == "calibrate" and judged[1]["deferral"]["found"]["n"] == len(by["calibrate"])
    assert judged[1]["calibration"]["split"] == "valid"


def test_infer_is_as_sure_as_the_report_says_and_defers_the_same_rows(
    judged: tuple[Path, Document], lines: list[dict[str, Any]], setting: Setting, tmp_path: Path
) -> None:
    texts = {row["id"]: row["text"] for row in rows()}
    source = write_lines(tmp_path / "new.jsonl", [{"id": line["id"], "text": texts[line["id"]]} for line in lines])
    done = workflows.infer(setting, judged[0] / "run", source, tmp_path / "out.jsonl", resume=False)
    found = {line["id"]: line for line in read_lines(tmp_path / "out.jsonl")}
    assert done["deferred"] == sum(bool(line.get("defer")) for line in lines)
    for line in lines:
        own = found[line["id"]]
        assert own["answer"] == line["answer"] and own.get("defer", False) == line.get("defer", False)
        assert own["confidence"] == pytest.approx(line["confidence"], abs=1e-3)
        assert own["sets"] == line["sets"]


def test_what_was_found_out_lies_beside_the_weights_that_it_is_about(judged: tuple[Path, Document]) -> None:
    run = RunFolder(judged[0] / "run")
    found = Confidence.read(run.adapter)
    assert found is not None and found.adapter_sha256 == run.adapter_hash()
    assert found.coverage == 0.8 and found.sets.keys() == {"high", "risk"}
    assert found.threshold is not None and (found.threshold.of, found.threshold.max_error) == ("high", 0.5)


def test_other_rows_are_judged_by_what_was_found_out_before(judged: tuple[Path, Document], setting: Setting, tmp_path: Path) -> None:
    run = judged[0] / "run"
    before = (run / "adapter" / FILE).read_bytes()
    other = write_lines(tmp_path / "newly.jsonl", [{**row, "id": f"n{i}"} for i, row in enumerate(rows()[:30])])
    document = workflows.evaluate(setting, run, data=other)
    assert (run / "adapter" / FILE).read_bytes() == before
    assert document["deferral"]["threshold"] == judged[1]["deferral"]["threshold"] and document["rows"] == 30
    assert all("calibrated" in line["probabilities"]["high"] for line in read_lines(run / "predictions.newly.jsonl"))


def test_the_nats_of_fields_are_those_of_the_whole_answer(lines: list[dict[str, Any]], judged: tuple[Path, Document]) -> None:
    test = [line for line in lines if line["split"] == "test"]
    for line in test:
        assert sum(nats for nats, _ in line["nll_fields"].values()) == pytest.approx(line["nll"], rel=1e-5)
    high = [line["nll_fields"]["high"] for line in test]
    assert judged[1]["metrics"]["nll.high"]["value"] == pytest.approx(sum(nats for nats, _ in high) / sum(tokens for _, tokens in high))


def test_raters_and_the_judge_asked_again_make_the_ceiling(judged: tuple[Path, Document]) -> None:
    ceiling = judged[1]["ceiling"]
    split = set(RunFolder(judged[0] / "run").split()["test"])
    offs = [i % 2 for i, row in enumerate(rows()) if row["id"] in split]
    assert ceiling["again"]["metrics"]["mae.risk"]["judge"]["value"] == pytest.approx(sum(offs) / len(offs))
    assert ceiling["raters"].keys() == {"high"}


def test_what_cannot_be_read_or_stands_there_twice_is_said_and_not_quoted(judged: tuple[Path, Document]) -> None:
    assert judged[1]["notes"][:2] == [
        "1 second answer has the id of one before: of each row the first counts.",
        "1 of the second answers in high cannot be read.",
    ]


def test_a_report_is_done_already_where_it_is_of_this_adapter_recipe_and_version(judged: tuple[Path, Document], tmp_path: Path) -> None:
    run = RunFolder(shutil.copytree(judged[0] / "run", tmp_path / "run"))
    recipe, _ = run.open()
    document = json.loads((run.path / "report.json").read_text("utf-8"))
    assert reported(run, recipe) == document
    assert reported(run, dataclasses.replace(recipe, name="another")) is None
    for changed in ({**document, "version": document["version"] - 1}, {**document, "lineage": {}}, [document], None):
        (run.path / "report.json").write_text(json.dumps(changed))
        assert reported(run, recipe) is None
    (run.path / "report.json").unlink()
    assert reported(run, recipe) is None


def test_private_texts_stay_at_home(judged: tuple[Path, Document], setting: Setting, tmp_path: Path) -> None:
    run = judged[0] / "run"
    for name in ("report.json", "report.html"):
        assert SECRET not in (run / name).read_text("utf-8") and "harbour" not in (run / name).read_text("utf-8")
    assert SECRET in (judged[0] / "rows.jsonl").read_text("utf-8")
    call("bundle", run, tmp_path / "small.bundle")
    assert b"harbour" not in (tmp_path / "small.bundle").read_bytes()


def test_a_suite_that_is_failed_counts_as_a_missed_target(
    judged: tuple[Path, Document], setting: Setting, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from mlx_distill.workflows import judgement

    assert judged[1]["verdict"] == "met"

    def failed(*given: object, **named: object) -> dict[str, Any]:
        found: dict[str, Any] = {**robustness(*given, **named), "verdict": "missed"}
        return found

    robustness: Callable[..., dict[str, Any]] = judgement.robustness
    monkeypatch.setattr(judgement, "robustness", failed)
    other = write_lines(tmp_path / "again.jsonl", [{**row, "id": f"n{i}"} for i, row in enumerate(rows()[:20])])
    assert workflows.evaluate(setting, judged[0] / "run", data=other)["verdict"] == "missed"
