"""The workflows behind the commands, over data that others wrote: formats, languages and kinds of task that no fixture was made for."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mlx_distill import workflows
from mlx_distill.errors import CheckpointError, DataError, OutputError
from mlx_distill.observe.progress import Progress
from mlx_distill.workflows import Document, Setting
from tests.checkpoints import make_checkpoint
from tests.students import read_lines, recipe, water, write_lines

VOICES = Path(__file__).parent / "data" / "multilingual" / "rows.csv"
Run = Callable[..., tuple[Path, Document]]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("checkpoint") / "tiny")


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Setting:
    return Setting(progress=Progress(quiet=True), cache=tmp_path_factory.mktemp("cache"))


@pytest.fixture
def run(setting: Setting, checkpoint: Path, tmp_path: Path) -> Run:
    """Write a recipe and do the main job with it: the run's folder, and the document."""

    def go(**sections: Any) -> tuple[Path, Document]:
        path = recipe(tmp_path / "recipe.yaml", base={"model": str(checkpoint)}, **sections)
        assert workflows.check(setting, [path], []) == {"problems": []}
        return tmp_path / "run", workflows.run(setting, path, tmp_path / "run", [])

    return go


@pytest.fixture(scope="module")
def finished(setting: Setting, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Document]:
    """Not to be changed: the folder of recipe, rows and run, and the run's document."""
    folder = tmp_path_factory.mktemp("finished")
    write_lines(folder / "rows.jsonl", water())
    path = recipe(folder / "recipe.yaml", base={"model": str(checkpoint)})
    return folder, workflows.run(setting, path, folder / "run", [])


@pytest.fixture
def copy(finished: tuple[Path, Document], tmp_path: Path) -> Path:
    """A run to be changed."""
    return Path(shutil.copytree(finished[0] / "run", tmp_path / "copy"))


def infer(setting: Setting, student: Path, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    write_lines(student.parent / "texts.jsonl", rows)
    workflows.infer(setting, student, student.parent / "texts.jsonl", student.parent / "answers.jsonl", resume=False)
    return read_lines(student.parent / "answers.jsonl")


def test_a_score_from_0_to_5_out_of_a_csv(setting: Setting, run: Run, tmp_path: Path) -> None:
    rows = [f"{i};Bericht {i};Het water staat {'hoog' if i % 6 > 2 else 'laag'}, niveau {i % 6}.;{i % 6},\n" for i in range(60)]
    (tmp_path / "metingen.csv").write_text("nr;titel;tekst;cijfer\n" + "".join(row.replace(",\n", "\n") for row in rows), encoding="utf-8")
    fields = {"cijfer": {"type": "score", "min": 0, "max": 5}}
    student, document = run(
        task={"instructions": "Geef de waterstand een cijfer.", "input": "{titel}\n\n{tekst}", "fields": fields},
        data={"source": {"kind": "csv", "path": "metingen.csv", "delimiter": ";"}},
        targets={"dimension_mae": 5},
    )
    assert document["metrics"].keys() >= {"mae.cijfer", "dimension_mae", "exact_match", "valid_json", "ece.cijfer"}
    assert document["verdict"] == "met"
    (tmp_path / "nieuw.csv").write_text("titel;tekst\nVandaag;Het water staat hoog.\n", encoding="utf-8")
    workflows.infer(setting, student, tmp_path / "nieuw.csv", tmp_path / "uit.jsonl", resume=False)
    (line,) = read_lines(tmp_path / "uit.jsonl")
    assert line["answer"]["cijfer"] in range(6), "the delimiter is the recipe's own"


def test_a_flag_over_dutch_portuguese_and_spanish(setting: Setting, run: Run, tmp_path: Path) -> None:
    with VOICES.open(encoding="utf-8", newline="") as file:
        voices = [{**row, "praise": row["functionality"] == "ident_pos_nh"} for row in csv.DictReader(file)]
    write_lines(tmp_path / "rows.jsonl", [{**row, "id": row["case_id"]} for row in voices])
    student, document = run(
        task={"instructions": "Does the sentence praise people?", "fields": {"praise": {"type": "flag"}}},
        data={"split": {"train": 0.5, "valid": 0.2, "test": 0.3, "stratify_by": "lang"}},
        evaluate={"slices": ["lang"]},
    )
    assert {entry["value"] for entry in document["slices"]["lang"]} == {"nl", "pt", "es"}
    assert document["metrics"]["accuracy.praise"]["n"] == document["rows"]
    answers = infer(setting, student, [{"text": "Vrouwen zijn geweldig."}, {"text": "São ótimos."}, {"text": "¿Quién?"}])
    assert {type(line["answer"]["praise"]) for line in answers} == {bool}


def test_a_filter_with_weights_gates_and_tiers_and_nested_scores(setting: Setting, run: Run, tmp_path: Path) -> None:
    """As oracles write them: each dimension {score, reasoning}; the overall and the tier are the rubric's."""
    rows = [
        {
            "id": f"a{i}", "title": f"Plant {i}", "content": "Panels " * (i % 4 + 1), "language": "en",
            "solar_analysis": {"maturity": {"score": i % 11, "reasoning": "because"}, "impact": {"score": 5}, "stage": "pilot"},
        }
        for i in range(40)
    ]  # fmt: skip
    write_lines(tmp_path / "rows.jsonl", rows)
    fields = {
        "maturity": {"type": "score", "weight": 0.6, "from": "solar_analysis.maturity", "gate": {"below": 5, "cap": 4.9}},
        "impact": {"type": "score", "weight": 0.4, "from": "solar_analysis.impact"},
        "stage": {"type": "choice", "choices": ["pilot", "lab"], "from": "solar_analysis.stage"},
    }
    student, document = run(
        task={"input": "{title}\n\n{content}", "fields": fields, "tiers": {"high": 6.5, "low": 0}},
        data={"split": {"train": 0.6, "valid": 0.2, "test": 0.2, "stratify_by": "tier"}},
        targets={"score_mae": 10, "tier_agreement": 0},
    )
    assert document["targets"].keys() == {"score_mae", "tier_agreement"}
    (line,) = infer(setting, student, [{"title": "New", "content": "Panels"}])
    scores = line["answer"]
    overall = 0.6 * scores["maturity"] + 0.4 * scores["impact"]
    assert line["overall"] == pytest.approx(min(overall, 4.9) if scores["maturity"] < 5 else overall, abs=0.005)
    assert line["tier"] == ("high" if line["overall"] >= 6.5 else "low")
    for prediction in read_lines(student / "predictions.jsonl"):
        assert prediction["reference_overall"] is not None


def test_texts_and_lists_beside_closed_fields(setting: Setting, run: Run, tmp_path: Path) -> None:
    write_lines(tmp_path / "rows.jsonl", [{**row, "why": "omdat", "marks": ["hoog", "nat"]} for row in water()])
    fields = {"high": {"type": "flag"}, "why": {"type": "text", "max_chars": 12}, "marks": {"type": "list", "max_items": 2, "max_chars": 6}}
    student, document = run(task={"fields": fields})
    assert document["metrics"]["valid_json"]["value"] == 1
    for line in infer(setting, student, [{"text": "hoog"}, {"text": "laag " * 9}]):
        assert len(line["answer"]["why"]) <= 12 and len(line["answer"]["marks"]) <= 2


def test_rows_whose_labels_are_missing_teach_what_they_have(run: Run, tmp_path: Path) -> None:
    rows = [{**row, "kind": "a" if i % 2 else ("b" if i % 3 else "Not labeled")} for i, row in enumerate(water())]
    write_lines(tmp_path / "rows.jsonl", rows)
    fields = {"high": {"type": "flag"}, "kind": {"type": "choice", "choices": ["a", "b"]}}
    _, document = run(task={"fields": fields}, data={"missing": ["Not labeled"]})
    assert document["metrics"]["accuracy.high"]["n"] > document["metrics"]["accuracy.kind"]["n"]


def test_parquet_and_a_folder_of_files(setting: Setting, run: Run, tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    (tmp_path / "rows").mkdir()
    for part in range(2):
        table = pyarrow.Table.from_pylist(water()[part::2])
        pyarrow.parquet.write_table(table, tmp_path / "rows" / f"{part}.parquet")
    student, _ = run(data={"source": {"kind": "parquet", "path": "rows"}})
    done = workflows.infer(setting, student, tmp_path / "rows", tmp_path / "out.jsonl", resume=False)
    assert done["done"] == 40


def test_without_validation_rows_the_last_adapter_is_kept(run: Run, tmp_path: Path) -> None:
    write_lines(tmp_path / "rows.jsonl", water())
    student, document = run(data={"split": {"train": 0.8, "valid": 0, "test": 0.2}})
    assert (student / "adapter" / "adapter_model.safetensors").is_file()
    assert document["verdict"] == "none"


def test_the_main_job_needs_rows_to_judge_by(setting: Setting, checkpoint: Path, tmp_path: Path) -> None:
    write_lines(tmp_path / "rows.jsonl", water())
    split = {"train": 0.8, "valid": 0.2, "test": 0}
    path = recipe(tmp_path / "recipe.yaml", base={"model": str(checkpoint)}, data={"split": split})
    with pytest.raises(DataError, match=r"data\.split\.test is 0"):
        workflows.run(setting, path, tmp_path / "run", [])
    trained = workflows.train(setting, path, tmp_path / "run", [], resume=False)
    assert trained["stopped"] == "done"
    with pytest.raises(DataError, match="there is no test row to judge by"):
        workflows.evaluate(setting, tmp_path / "run")
    judged = workflows.evaluate(setting, tmp_path / "run", data=write_lines(tmp_path / "other.jsonl", water(8)))
    assert judged["metrics"]["accuracy.high"]["n"] == 8


def test_a_quantized_base_is_taught_too(setting: Setting, checkpoint: Path, tmp_path: Path) -> None:
    write_lines(tmp_path / "rows.jsonl", water())
    path = recipe(tmp_path / "recipe.yaml", base={"model": str(checkpoint), "bits": 4, "group_size": 32}, train={"epochs": 1})
    document = workflows.run(setting, path, tmp_path / "run", [])
    assert document["lineage"]["base"]["bits"] == 4


def test_a_lost_cache_is_made_again(finished: tuple[Path, Document], copy: Path, setting: Setting, tmp_path: Path) -> None:
    elsewhere = Setting(progress=setting.progress, cache=tmp_path / "another")
    again = workflows.evaluate(elsewhere, copy)
    assert again["metrics"] == finished[1]["metrics"]


def test_a_run_is_moved_and_still_answers(copy: Path, setting: Setting, tmp_path: Path) -> None:
    assert len(infer(setting, copy.rename(tmp_path / "moved"), [{"text": "hoog"}])) == 1


def test_an_adapter_of_another_base_is_refused(copy: Path, setting: Setting) -> None:
    lock = copy / "recipe.lock.yaml"
    lock.write_text(lock.read_text(encoding="utf-8").replace("key: ", "key: x"), encoding="utf-8")
    with pytest.raises(CheckpointError, match="no longer the checkpoint that the run was trained on"):
        infer(setting, copy, [{"text": "hoog"}])


def test_an_input_that_is_the_output_is_refused(copy: Path, setting: Setting, tmp_path: Path) -> None:
    texts = write_lines(tmp_path / "texts.jsonl", water())
    before = texts.read_bytes()
    with pytest.raises(OutputError, match="the same file"):
        workflows.infer(setting, copy, texts, texts, resume=True)
    assert texts.read_bytes() == before


def test_the_report_s_lineage_tells_what_it_was_made_of(finished: tuple[Path, Document]) -> None:
    folder, document = finished
    lineage = document["lineage"]
    for name in ("recipe_sha256", "adapter_sha256", "data_sha256"):
        assert len(lineage[name]) == 64
    assert lineage["base"]["family"] == "qwen2"
    assert json.loads((folder / "run" / "report.json").read_text(encoding="utf-8"))["lineage"] == lineage
