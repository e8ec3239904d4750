"""The workflows behind the commands, over data that others wrote: formats, languages and kinds of task that no fixture was made for."""

from __future__ import annotations

import csv
import io
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mlx_distill import workflows
from mlx_distill.backends.base import LoraShape
from mlx_distill.data.batches import groups
from mlx_distill.errors import CheckpointError, DataError, OutputError, RecipeError
from mlx_distill.evaluation.metrics.ece import ece
from mlx_distill.observe.progress import Progress
from mlx_distill.recipe.check import require
from mlx_distill.training.run import Run as RunFolder
from mlx_distill.workflows import Document, Setting
from mlx_distill.workflows.bases import base_of
from mlx_distill.workflows.examination import Examination
from mlx_distill.workflows.preparation import Prepared
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


# what the training loop is handed: answers, and general data


def told(run: Path, name: str) -> list[dict[str, Any]]:
    return [event for event in read_lines(run / "events.jsonl") if event["name"] == name]


FIELDS = {"high": {"type": "flag"}, "post": {"type": "score", "min": 0, "max": 9}}


def posts() -> list[dict[str, Any]]:
    return [{**row, "post": i % 10} for i, row in enumerate(water())]


@pytest.mark.parametrize(("answer", "keep"), [("slots", "macro_f1.high"), ("json", "mae.post")])
def test_the_adapter_is_kept_by_the_answers_that_it_gives_afterwards(run: Run, tmp_path: Path, answer: str, keep: str) -> None:
    write_lines(tmp_path / "rows.jsonl", posts())
    train = {"epochs": 2, "batch_size": 4, "accumulate": 1, "learning_rate": 0.03, "max_tokens": 256, "validate_every": 3, "keep": keep}
    student, _ = run(task={"fields": FIELDS}, answer=answer, train=train)
    validated = told(student, "validated")
    figures = [event["metrics"][keep] for event in validated]
    kept = max(figures) if keep == "macro_f1.high" else min(figures)
    best = [event for event in validated if event["best"]][-1]
    assert best["metrics"][keep] == kept and figures.index(kept) == validated.index(best), "the first of the best"
    assert told(student, "trained")[-1]["kept"] == {"name": keep, "value": kept, "step": best["step"]}
    valid = [line for line in read_lines(student / "predictions.jsonl") if line["split"] == "valid"]
    again = [line["answer"]["high"] == line["reference"]["high"] for line in valid]
    assert sum(again) / len(again) == best["metrics"]["accuracy.high"], "the engine, opened anew on the kept adapter"
    errors = [abs(line["answer"]["post"] - line["reference"]["post"]) for line in valid]
    assert sum(errors) / len(errors) == pytest.approx(best["metrics"]["mae.post"])
    sure = ece([line["confidence"]["high"] for line in valid], again)
    assert sure == pytest.approx(best["metrics"]["ece.high"], abs=1e-6), "and as sure of them"


def test_slots_answer_values_and_write_texts_behind_them(run: Run, tmp_path: Path) -> None:
    """The text agrees with the flag that was read. A label that is too long ends with a whole word; what is learned from it does too."""
    why = {True: "it rose over the bridge", False: "it fell"}
    write_lines(tmp_path / "rows.jsonl", [{**row, "why": why[row["high"]]} for row in posts()])
    fields = {"why": {"type": "text", "max_chars": 20}, **FIELDS, "post": {**FIELDS["post"], "estimate": "mean"}}
    train = {"epochs": 10, "batch_size": 4, "accumulate": 1, "learning_rate": 0.02, "max_tokens": 256}
    student, document = run(task={"fields": fields}, answer="slots", train=train)
    lines = read_lines(student / "predictions.jsonl")
    assert {line["answer"]["why"] for line in lines if line["answer"]["high"]} == {"it rose over the…"}
    assert {line["answer"]["why"] for line in lines if not line["answer"]["high"]} == {"it fell"}
    assert all(list(line["answer"]) == list(fields) for line in lines), "in the order of the recipe"
    for line in lines:
        raw = line["probabilities"]["post"]["raw"]
        assert line["answer"]["post"] == pytest.approx(sum(i * p for i, p in enumerate(raw)), abs=0.006), "the expectation, to two decimals"
        assert line["confidence"]["post"] == pytest.approx(raw[math.floor(line["answer"]["post"] + 0.5)], abs=1e-6)
    assert document["metrics"]["valid_json"]["value"] == 1.0 and {"mae.post", "ece.post"} <= set(document["metrics"])


def test_an_examination_is_of_the_student_as_it_is_now(setting: Setting, checkpoint: Path, tmp_path: Path) -> None:
    write_lines(tmp_path / "rows.jsonl", posts())
    path = recipe(tmp_path / "r.yaml", base={"model": str(checkpoint)}, task={"fields": FIELDS}, answer="slots", train={"keep": "accuracy"})
    wanted, backend = require(setting.load(path, [])), setting.choose()
    base, _ = base_of(setting, wanted, backend)
    prepared = Prepared.of(wanted)
    prepared.read(base)
    student = backend.open(base)
    student.prepare(LoraShape(4, 16, 0.0, ("q_proj", "v_proj")), optimizer="adamw", weight_decay=0.0, initial=None, seed=0)
    exam = Examination(wanted, prepared, student)
    before = exam.metrics()
    batch = groups([prepared.lessons["train"].rows], prepared.prompt.prefix)
    for step in range(4):
        student.update(batch, learning_rate=0.05, clip_norm=None, step=step)
    now = Examination(wanted, prepared, student).metrics()
    assert exam.metrics() == now != before
    assert exam.samples() == exam.samples() and not exam.lower_is_better


def test_a_metric_that_no_validation_row_counts_for_is_refused_before_anything_is_trained(
    setting: Setting, checkpoint: Path, tmp_path: Path
) -> None:
    write_lines(tmp_path / "rows.jsonl", [{**row, "post": None if i else 3} for i, row in enumerate(water())])
    split = {"train": 0.6, "valid": 0.2, "test": 0.2, "seed": 1}
    path = recipe(
        tmp_path / "r.yaml", base={"model": str(checkpoint)}, task={"fields": FIELDS}, data={"split": split}, train={"keep": "mae.post"}
    )
    with pytest.raises(DataError, match=r"no validation row has what mae\.post is measured on"):
        workflows.train(setting, path, tmp_path / "run", [], resume=False)
    assert not list((tmp_path / "run").glob("checkpoints/*"))


def test_sample_answers_stand_beside_the_reference(checkpoint: Path, tmp_path: Path) -> None:
    write_lines(tmp_path / "rows.jsonl", [{**row, "post": None} if row["id"] == "w03" else row for row in posts()])
    stream = io.StringIO()
    setting = Setting(progress=Progress(stream=stream), cache=tmp_path / "cache")
    path = recipe(tmp_path / "r.yaml", base={"model": str(checkpoint)}, task={"fields": FIELDS}, train={"sample_every": 5})
    workflows.train(setting, path, tmp_path / "run", [], resume=False)
    samples = told(tmp_path / "run", "samples")
    assert [event["step"] for event in samples] == [5, 10]
    ids = {tuple(row["id"] for row in event["rows"]) for event in samples}
    valid = json.loads((tmp_path / "run" / "split.json").read_text())["valid"]
    assert len(ids) == 1 and len(set(*ids)) == 3 and set(*ids) <= set(valid), "the same three validation rows"
    references = {row["id"]: row for row in posts()}
    said = stream.getvalue()
    for event in samples:
        assert said.count(f"step {event['step']}: what the student answers now") == 1
        for row in event["rows"]:
            assert row["reference"] == {name: references[row["id"]][name] for name in row["reference"]}
            assert row["answer"].keys() == FIELDS.keys()
            assert f"  row {row['id']}  {references[row['id']]['text']}\n" in said


def general() -> list[dict[str, Any]]:
    return [{"instruction": f"Say {i}.", "input": "", "output": f"It is {i}, the number after {i - 1}."} for i in range(7)]


@pytest.fixture
def replaying(setting: Setting, checkpoint: Path, tmp_path: Path) -> Path:
    """A recipe with general data."""
    write_lines(tmp_path / "rows.jsonl", water())
    write_lines(tmp_path / "general.jsonl", general())
    data = {"replay": {"source": {"kind": "jsonl", "path": "general.jsonl"}, "share": 0.3}}
    return recipe(
        tmp_path / "recipe.yaml", base={"model": str(checkpoint)}, data=data, train={"epochs": 3, "checkpoint_every": 2}, answer="slots"
    )


def test_general_data_is_learned_beside_the_task_s_and_a_resume_goes_on_with_it(setting: Setting, replaying: Path, tmp_path: Path) -> None:
    assert workflows.check(setting, [replaying], []) == {"problems": []}
    whole = workflows.train(setting, replaying, tmp_path / "whole", [], resume=False)
    steps = told(tmp_path / "whole", "step")
    task = 3 * len(json.loads((tmp_path / "whole" / "split.json").read_text())["train"])
    assert steps[-1]["rows"] == task + round(task * 0.3 / 0.7) and all("replay_loss" in step for step in steps)
    assert steps[-1]["replay_loss"] < steps[0]["replay_loss"], "it is learned"
    computed, padded = (sum(step[name] for step in steps) for name in ("computed", "padded"))
    assert whole["padded_share"] == told(tmp_path / "whole", "trained")[-1]["padded_share"] == (padded / computed if computed else None)
    parts = Path(shutil.copytree(tmp_path / "whole", tmp_path / "parts"))
    last = sorted((parts / "checkpoints").iterdir())[-1]
    shutil.rmtree(last)
    again = workflows.train(setting, replaying, parts, [], resume=True)
    assert (again["steps"], again["tokens"]) == (whole["steps"], whole["tokens"])
    for file in ("adapter_model.safetensors", "optimizer.safetensors"):
        assert (last / file).read_bytes() == (tmp_path / "whole" / "checkpoints" / last.name / file).read_bytes()


def test_other_general_data_is_refused_on_a_resume(setting: Setting, replaying: Path, tmp_path: Path) -> None:
    workflows.train(setting, replaying, tmp_path / "run", ["train.epochs=1"], resume=False)
    lock = RunFolder(tmp_path / "run").open()[1]
    assert lock["data"]["replay"]["rows"] == 7 and len(lock["data"]["replay"]["sha256"]) == 64
    write_lines(tmp_path / "general.jsonl", [*general()[:-1], {**general()[-1], "output": "another"}])
    with pytest.raises(DataError, match=r"the general data of data\.replay changed"):
        workflows.train(setting, replaying, tmp_path / "run", ["train.epochs=1"], resume=True)
    with pytest.raises(RecipeError, match=r"data\.replay"):
        workflows.train(setting, replaying, tmp_path / "run", ["data.replay.share=0.4"], resume=True)


@pytest.mark.parametrize(
    ("lines", "line", "said"),
    [
        (['{"instruction": "a", "output": "b"}'], 1, "no column 'input'"),
        (['{"instruction": "a", "input": "", "output": "b"}', "{"], 2, "not JSON"),
        (['{"instruction": "a", "input": "", "output": "b"}', '{"instruction": "a", "input": "", "output": null}'], 2, "output is empty"),
    ],
)
def test_what_is_wrong_with_general_data_is_checked_by_file_and_line(
    setting: Setting, replaying: Path, tmp_path: Path, lines: list[str], line: int, said: str
) -> None:
    (tmp_path / "general.jsonl").write_text("\n".join(lines) + "\n")
    (problem,) = workflows.check(setting, [replaying], [])["problems"]
    assert (problem["file"], problem["line"], problem["path"]) == (str(tmp_path / "general.jsonl"), line, "data.replay.source")
    assert said in problem["message"]


def test_rare_labels_that_count_more_are_another_training(setting: Setting, replaying: Path, tmp_path: Path) -> None:
    adapters = set()
    for kind in ("none", "inverse"):
        sets = [f"data.balance.kind={kind}", "data.replay=null", "train.epochs=1"]
        workflows.train(setting, replaying, tmp_path / kind, sets, resume=False)
        adapters.add((tmp_path / kind / "adapter" / "adapter_model.safetensors").read_bytes())
    assert len(adapters) == 2
