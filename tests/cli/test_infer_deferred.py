"""infer --deferred and --then: what a student is not sure enough of goes to the judge, or to a larger student first."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest
import yaml

from mlx_distill.task.confidence import FILE, Confidence, Threshold
from mlx_distill.training.run import Run
from mlx_distill.workflows import inferring
from tests.cli.conftest import Place
from tests.students import Called, call, class_of, read_lines, write_lines

ROWS = 20


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    rows = [{"id": f"t{i}", "text": f"The river at post {i}. " * (1 + i % 5), "village": f"v{i}"} for i in range(ROWS)]
    return write_lines(tmp_path / "new.jsonl", rows)


def threshold(run: Path, value: float | None) -> None:
    """As an evaluation would have found it, of a recipe that asks for it."""
    lock = yaml.safe_load((run / "recipe.lock.yaml").read_text("utf-8"))
    lock["recipe"]["targets"]["defer"] = {"of": "answer", "within": 1.0, "max_error": 0.05, "level": 0.9}
    (run / "recipe.lock.yaml").write_text(yaml.safe_dump(lock, sort_keys=False), encoding="utf-8")
    found = Threshold(of="answer", within=1.0, max_error=0.05, level=0.9, value=value)
    Confidence(threshold=found, adapter_sha256=Run(run).adapter_hash()).write(run / "adapter")


@pytest.fixture
def small(done: Place, texts: Path, tmp_path: Path) -> Path:
    """A run that defers half of the texts."""
    call("infer", done.run, texts, tmp_path / "plain.jsonl")
    sure = sorted(line["confidence"]["high"] for line in read_lines(tmp_path / "plain.jsonl"))
    threshold(done.run, (sure[ROWS // 2 - 1] + sure[ROWS // 2]) / 2)
    return done.run


@pytest.fixture(scope="module")
def trained(finished: Place, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("large") / "run"
    made = call("train", finished.recipe, "--out", folder, "--set", "name=large", "--set", "train.epochs=3", "--json")
    assert made.code == 0, made.err
    return folder


@pytest.fixture
def large(trained: Path) -> Iterator[Path]:
    lock = (trained / "recipe.lock.yaml").read_bytes()
    yield trained
    (trained / "recipe.lock.yaml").write_bytes(lock)
    (trained / "adapter" / FILE).unlink(missing_ok=True)


def ids(path: Path, **has: object) -> set[str]:
    return {line["id"] for line in read_lines(path) if has.items() <= line.items()}


def test_the_rows_that_are_not_sure_enough_go_to_the_judge(small: Path, texts: Path, tmp_path: Path) -> None:
    called = call("infer", small, texts, tmp_path / "out.jsonl", "--deferred", tmp_path / "judge.jsonl", "--json")
    assert called.code == 0, called.err
    assert (called.document["done"], called.document["deferred"]) == (ROWS, ROWS // 2)
    assert ids(tmp_path / "judge.jsonl") == ids(tmp_path / "out.jsonl", defer=True) != ids(tmp_path / "out.jsonl")
    handed = read_lines(tmp_path / "judge.jsonl")[0]
    assert handed.keys() == {"id", "text", "village", "student"}
    assert handed["student"].keys() == {"answer", "confidence", "sure"}
    again = call("infer", small, texts, tmp_path / "out.jsonl", "--deferred", tmp_path / "judge.jsonl", "--resume", "--json")
    assert (again.document["done"], again.document["skipped"]) == (0, ROWS)


def test_no_honest_threshold_defers_every_row(done: Place, texts: Path, tmp_path: Path) -> None:
    threshold(done.run, None)
    assert call("infer", done.run, texts, tmp_path / "out.jsonl").code == 0
    assert len(ids(tmp_path / "out.jsonl", defer=True)) == ROWS


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_a_cascade_asks_the_second_student_what_the_first_defers(
    small: Path, large: Path, texts: Path, tmp_path: Path, suffix: str
) -> None:
    threshold(large, None)
    output = tmp_path / f"out.{suffix}"
    called = call("infer", small, "--then", large, texts, output, "--deferred", tmp_path / "judge.jsonl", "--json")
    assert called.code == 0, called.err
    assert [called.document[name] for name in ("rows", "done", "deferred", "rejected", "skipped")] == [ROWS, ROWS, ROWS // 2, 0, 0]
    lines = read_lines(output) if suffix == "jsonl" else pyarrow.parquet.read_table(output).to_pylist()
    by = {line["id"]: line["by"] for line in lines}
    assert sorted(by) == sorted(f"t{i}" for i in range(ROWS))
    assert {name for name, who in by.items() if who == "large"} == ids(tmp_path / "judge.jsonl")
    assert {line["id"] for line in lines if line.get("defer")} == ids(tmp_path / "judge.jsonl"), "nobody was sure of them"
    assert not list(tmp_path.glob("*.deferred.jsonl")), "what waited is answered"


def test_a_cascade_that_was_broken_off_goes_on_where_it_was(
    small: Path, large: Path, texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = tmp_path / "whole.jsonl"
    call("infer", small, "--then", large, texts, whole)
    output, command = tmp_path / "out.jsonl", ("infer", small, "--then", large, texts, tmp_path / "out.jsonl")
    session = class_of("Session")
    for left in range(1, 6):  # another Ctrl-C a forward later, until nothing is left to do
        with monkeypatch.context() as patch:
            _interrupt_after(patch, session, left)
            called: Called = call(*command, "--resume")
        if called.code == 0:
            break
        assert called.code == 130, called.err
    assert call(*command, "--resume", "--json").code == 0
    found, wanted = ({line["id"]: (line["answer"], line["by"]) for line in read_lines(path)} for path in (output, whole))
    assert found == wanted and len(read_lines(output)) == ROWS


def _interrupt_after(patch: pytest.MonkeyPatch, session: type, forwards: int) -> None:
    left, extend = [forwards], session.extend  # type: ignore[attr-defined]

    def interrupted(*given: object, **named: object) -> object:
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return extend(*given, **named)

    patch.setattr(session, "extend", interrupted)


@pytest.mark.parametrize("option", ["--deferred", "--then"])
def test_a_student_without_a_threshold_is_told_how_to_get_one(done: Place, large: Path, texts: Path, tmp_path: Path, option: str) -> None:
    (done.run / "adapter" / FILE).unlink(missing_ok=True)
    called = call("infer", done.run, option, large if option == "--then" else tmp_path / "judge.jsonl", texts, tmp_path / "out.jsonl")
    assert called.code == 2 and "has no threshold to defer by" in called.err and "targets.defer" in called.err


def test_students_that_do_not_answer_alike_make_no_cascade(small: Path, large: Path, texts: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(large, other)
    lock = other / "recipe.lock.yaml"
    lock.write_text(lock.read_text("utf-8").replace("type: flag", "type: score"), encoding="utf-8")
    called = call("infer", small, "--then", other, texts, tmp_path / "out.jsonl")
    assert called.code == 2 and "does not answer as floods does: high differ" in called.err
    called = call("infer", small, "--then", small, texts, tmp_path / "out.jsonl")
    assert called.code == 2 and "both students of the cascade are called floods" in called.err


def test_several_samples_defer_nothing_and_are_refused_where_rows_are_to_go_on(small: Path, texts: Path, tmp_path: Path) -> None:
    asked = ("--samples", 3, "--temperature", 0.7)
    assert "leave --samples out" in call("infer", small, texts, tmp_path / "a.jsonl", "--deferred", tmp_path / "j.jsonl", *asked).err
    assert call("infer", small, texts, tmp_path / "b.jsonl", *asked).code == 0
    assert not ids(tmp_path / "b.jsonl", defer=True)


def test_a_calibration_of_other_weights_is_not_used_and_that_is_said(small: Path, texts: Path, tmp_path: Path) -> None:
    path = small / "adapter" / FILE
    path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), "adapter_sha256": "0" * 64}), encoding="utf-8")
    called = call("infer", small, texts, tmp_path / "out.jsonl")
    assert called.code == 0 and "is of other weights, and is not used: mlx-distill evaluate" in called.err
    assert not ids(tmp_path / "out.jsonl", defer=True)


def test_a_promise_that_the_recipe_no_longer_asks_for_is_none(small: Path, texts: Path, tmp_path: Path) -> None:
    lock = small / "recipe.lock.yaml"
    lock.write_text(lock.read_text("utf-8").replace("max_error: 0.05", "max_error: 0.01"), encoding="utf-8")
    called = call("infer", small, texts, tmp_path / "out.jsonl")
    assert called.code == 0 and "has another promise than the recipe's targets.defer, and is not used" in called.err
    assert not ids(tmp_path / "out.jsonl", defer=True)


def test_a_file_that_is_not_of_the_job_is_never_removed(small: Path, texts: Path, tmp_path: Path) -> None:
    """A job that answered nothing is begun anew; whatever else lies where its deferred rows are to go is another's."""
    write_lines(tmp_path / "bad.jsonl", [{"id": "a"}])
    assert call("infer", small, tmp_path / "bad.jsonl", tmp_path / "out.jsonl").code == 0
    mine = write_lines(tmp_path / "mine.jsonl", [{"id": "precious"}])
    called = call("infer", small, texts, tmp_path / "out.jsonl", "--deferred", mine)
    assert called.code == 2 and "there are results already" in called.err
    assert read_lines(mine) == [{"id": "precious"}]


def test_deferred_rows_that_are_gone_are_missed(small: Path, texts: Path, tmp_path: Path) -> None:
    command = ("infer", small, texts, tmp_path / "out.jsonl", "--deferred", tmp_path / "judge.jsonl", "--resume")
    assert call(*command, "--json").document["deferred"] == ROWS // 2
    assert call(*command, "--json").document["deferred"] == ROWS // 2, "of a finished job too"
    other = call("infer", small, texts, tmp_path / "out.jsonl", "--deferred", tmp_path / "other.jsonl", "--resume")
    assert other.code == 2 and "--deferred: judge.jsonl -> other.jsonl" in other.err
    (tmp_path / "judge.jsonl").unlink()
    gone = call(*command)
    assert gone.code == 2 and "10 rows that had been deferred are not in it" in gone.err


def test_a_cascade_that_defers_everything_at_first_is_not_begun_anew(
    small: Path, large: Path, texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    threshold(small, None)
    output = tmp_path / "out.jsonl"
    with monkeypatch.context() as patch:
        patch.setattr(inferring, "_as_it_stood", _breaking_off(inferring._as_it_stood, 2))
        assert call("infer", small, "--then", large, texts, output).code == 130
    assert len(read_lines(tmp_path / "out.jsonl.deferred.jsonl")) == ROWS and not output.exists()
    assert call("infer", small, "--then", large, texts, output).code == 2, "it is gone on with by --resume alone"
    done = call("infer", small, "--then", large, texts, output, "--resume", "--json").document
    assert [done[name] for name in ("rows", "done", "skipped", "deferred")] == [ROWS, ROWS, 0, 0]
    assert done["students"] == ["floods", "large"] and {line["by"] for line in read_lines(output)} == {"large"}


def _breaking_off(asked: Callable[..., Any], at: int) -> Callable[..., Any]:
    """Ctrl-C when it is asked for the `at`-th time."""
    left = [at]

    def broken(*given: Any) -> Any:
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt
        return asked(*given)

    return broken


def test_what_a_cascade_cost_is_both_students_cost(small: Path, large: Path, texts: Path, tmp_path: Path) -> None:
    threshold(large, None)
    alone = call("infer", small, texts, tmp_path / "alone.jsonl", "--json").document
    both = call("infer", small, "--then", large, texts, tmp_path / "out.jsonl", "--deferred", tmp_path / "j.jsonl", "--json").document
    assert both["tokens"]["prefill"] > 1.2 * alone["tokens"]["prefill"] and both["rows_per_hour"] is not None
    apart = read_lines(tmp_path / "j.jsonl")
    assert len(apart) == ROWS // 2 and all(line["student"].keys() >= {"sure", "by"} and "student_" not in line for line in apart)
    assert {line["student"]["by"] for line in apart} == {"large"}


def test_rows_that_the_second_student_rejects_are_named_where_they_stood(small: Path, large: Path, tmp_path: Path) -> None:
    threshold(small, None)
    (tmp_path / "in").mkdir()
    rows = [{"id": f"t{i}", "text": f"The river at post {i}."} for i in range(6)]
    write_lines(tmp_path / "in" / "first.jsonl", rows[:3])
    write_lines(tmp_path / "in" / "second.jsonl", rows[3:])
    lock = large / "recipe.lock.yaml"
    lock.write_text(lock.read_text("utf-8").replace("max_tokens: 256", "max_tokens: 16"), encoding="utf-8")
    called = call("infer", small, "--then", large, tmp_path / "in", tmp_path / "out.jsonl", "--json")
    assert called.document["rejected"] == 6
    rejects = {line["id"]: (line["file"], line["line"]) for line in read_lines(tmp_path / "out.jsonl.rejects.jsonl")}
    assert rejects == {f"t{i}": ("first.jsonl" if i < 3 else "second.jsonl", 1 + i % 3) for i in range(6)}


def test_a_job_is_not_gone_on_with_under_another_threshold(small: Path, texts: Path, tmp_path: Path) -> None:
    call("infer", small, texts, tmp_path / "out.jsonl")
    threshold(small, 0.999)
    called = call("infer", small, texts, tmp_path / "out.jsonl", "--resume")
    assert called.code == 2 and "calibration_sha256" in called.err
