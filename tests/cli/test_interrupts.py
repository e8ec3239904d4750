"""Ctrl-C and SIGTERM at any moment: exit 130, what was done is saved, and going on ends in the bytes of an undisturbed run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mlx_distill.inference import engine
from mlx_distill.inference.journal import Journal
from tests.cli.conftest import Place
from tests.students import call, class_of, read_lines, write_lines

STUDENT, SESSION, BACKEND = map(class_of, ("Student", "Session", "Backend"))

STOPS = """
import os, signal, sys
from mlx_distill.backends.mlx.blas import load_openblas
from mlx_distill.cli.main import main

load_openblas()  # as tests/conftest.py does: the first BLAS in the process wins, PyTorch's own too, and another gives other bits
from tests.students import class_of

Student = class_of("Student")
update, left = Student.update, [int(sys.argv.pop(1))]

def interrupted(*arguments, **named):
    left[0] -= 1
    if not left[0]:
        os.kill(os.getpid(), signal.SIGINT)
    return update(*arguments, **named)

Student.update = interrupted
main()
"""

EARLY = """
import os, signal, sys
from mlx_distill.cli.main import main

class Finder:
    number = getattr(signal, sys.argv.pop(1))

    def find_spec(self, name, *_):
        if name == "click":
            os.kill(os.getpid(), self.number)

sys.meta_path.insert(0, Finder())
main()
"""


def raised_at(patch: pytest.MonkeyPatch, where: type, name: str, number: int, what: int) -> None:
    """Send this process a signal when a method is called for the `number`-th time."""
    original: Callable[..., Any] = getattr(where, name)
    left = [number]

    def method(*arguments: Any, **named: Any) -> Any:
        left[0] -= 1
        if not left[0]:
            os.kill(os.getpid(), what)
        return original(*arguments, **named)

    patch.setattr(where, name, method)


def adapter(run: Path) -> bytes:
    return (run / "adapter" / "adapter_model.safetensors").read_bytes()


def test_ctrl_c_in_a_real_training_saves_it_and_resume_ends_in_the_same_bytes(finished: Place, tmp_path: Path) -> None:
    command = [sys.executable, "-c", STOPS, "5", "train", finished.recipe, "--out", tmp_path / "run"]
    stopped = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (stopped.returncode, stopped.stdout) == (130, "")
    assert "stopped after step 5; it is saved (--resume goes on)" in stopped.stderr
    assert "Traceback" not in stopped.stderr
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["step-000005"]
    resumed = call("train", finished.recipe, "--out", tmp_path / "run", "--resume")
    assert resumed.code == 0
    assert "going on at step 5 of 12" in resumed.err
    assert adapter(tmp_path / "run") == adapter(finished.run)


@pytest.mark.parametrize(("step", "what"), [(1, signal.SIGTERM), (8, signal.SIGINT), (12, signal.SIGTERM)])
def test_a_stop_at_any_step_gives_one_document_and_loses_nothing(finished: Place, tmp_path: Path, what: int, step: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        raised_at(patch, STUDENT, "update", step, what)
        stopped = call("train", finished.recipe, "--out", tmp_path / "run", "--json")
    if step == 12:
        assert (stopped.code, stopped.document["stopped"]) == (0, "done"), "it came too late"
    else:
        assert stopped.code == 130
        assert (stopped.document["stopped"], stopped.document["steps"]) == ("interrupted", step)
        assert stopped.document["error"]["kind"] == "Interrupted"
    assert call("train", finished.recipe, "--out", tmp_path / "run", "--resume").code == 0
    assert adapter(tmp_path / "run") == adapter(finished.run)


def test_a_second_ctrl_c_breaks_off_at_once_and_the_run_is_still_good(finished: Place, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        raised_at(patch, STUDENT, "update", 8, signal.SIGINT)
        raised_at(patch, STUDENT, "save_state", 2, signal.SIGINT)  # while the first is being saved
        stopped = call("train", finished.recipe, "--out", tmp_path / "run")
    assert stopped.code == 130
    assert "Traceback" not in stopped.err
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["step-000006"]
    assert call("train", finished.recipe, "--out", tmp_path / "run", "--resume").code == 0
    assert adapter(tmp_path / "run") == adapter(finished.run)


def test_a_stop_in_the_last_step_of_the_training_stops_what_would_follow(finished: Place, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        raised_at(patch, STUDENT, "update", 12, signal.SIGTERM)
        stopped = call("run", finished.recipe, "--out", tmp_path / "run", "--json")
    assert (stopped.code, stopped.document["error"]["kind"]) == (130, "Interrupted")
    assert adapter(tmp_path / "run") == adapter(finished.run)
    assert not (tmp_path / "run" / "predictions.jsonl").exists()
    assert call("run", finished.recipe, "--out", tmp_path / "run").code == 0


@pytest.mark.parametrize(("what", "more"), [("SIGINT", []), ("SIGTERM", ["--json"])])
def test_a_stop_while_the_commands_are_imported_is_an_answer_too(tmp_path: Path, what: str, more: list[str]) -> None:
    command = [sys.executable, "-c", EARLY, what, "train", tmp_path / "recipe.yaml", "--out", tmp_path / "run", *more]
    stopped = subprocess.run(command, capture_output=True, text=True, check=False)
    assert stopped.returncode == 130
    if more:
        error = json.loads(stopped.stdout)["error"]
        assert (error["kind"], set(error)) == ("Interrupted", {"kind", "message", "hint", "file", "line"})
        assert stopped.stderr == ""
    else:
        assert (stopped.stdout, stopped.stderr) == ("", "error: interrupted before anything was begun\n")


def test_what_is_imported_before_signals_are_answered_takes_no_time() -> None:
    """Python's own traceback is the answer until then: nothing but what Python starts with, and `signal`."""
    code = "import sys, signal, __future__; known = set(sys.modules); import mlx_distill.cli.main; print(*sorted(set(sys.modules) - known))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert loaded == ["mlx_distill", "mlx_distill.cli", "mlx_distill.cli.main"]


def test_run_goes_on_by_itself_where_it_was_stopped(finished: Place, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        raised_at(patch, STUDENT, "update", 7, signal.SIGINT)
        stopped = call("run", finished.recipe, "--out", tmp_path / "run", "--json")
    assert (stopped.code, stopped.document["error"]["hint"]) == (130, "the same command goes on")
    with pytest.MonkeyPatch.context() as patch:
        raised_at(patch, SESSION, "admit", 1, signal.SIGINT)  # in the evaluation
        again = call("run", finished.recipe, "--out", tmp_path / "run", "--json")
    assert (again.code, again.document["error"]["kind"]) == (130, "Interrupted")
    assert not (tmp_path / "run" / "report.json").exists()
    last = call("run", finished.recipe, "--out", tmp_path / "run", "--json")
    assert last.code == 0
    assert last.document["metrics"] == finished.made.document["metrics"]


def test_evaluate_works_with_the_best_adapter_so_far(finished: Place, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        raised_at(patch, STUDENT, "update", 3, signal.SIGINT)
        call("train", finished.recipe, "--out", tmp_path / "run")
    early = call("evaluate", tmp_path / "run", "--json")
    assert early.code == 2, "nothing has been validated yet"
    assert early.document["error"]["message"] == "nothing has been learned here yet"
    with pytest.MonkeyPatch.context() as patch:
        raised_at(patch, STUDENT, "update", 8 - 3, signal.SIGINT)
        call("train", finished.recipe, "--out", tmp_path / "run", "--resume")
    judged = call("evaluate", tmp_path / "run", "--json")
    assert judged.code == 0
    assert judged.document["lineage"]["adapter_sha256"]
    write_lines(tmp_path / "new.jsonl", [{"text": "The river rose."}])
    assert call("infer", tmp_path / "run", tmp_path / "new.jsonl", tmp_path / "out.jsonl").code == 0


@pytest.mark.parametrize("what", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_job_keeps_its_answers_and_goes_on(finished: Place, tmp_path: Path, what: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "WINDOW", 8)
    texts = write_lines(tmp_path / "new.jsonl", [{"id": i, "text": f"The river at post {i}. " * (1 + i % 5)} for i in range(30)])
    assert call("infer", finished.run, texts, tmp_path / "whole.jsonl").code == 0
    with pytest.MonkeyPatch.context() as patch:
        raised_at(patch, Journal, "write", 16, what)
        stopped = call("infer", finished.run, texts, tmp_path / "out.jsonl", "--json")
    assert (stopped.code, stopped.document["error"]["kind"]) == (130, "Interrupted")
    assert "--resume" in stopped.document["error"]["hint"]
    kept = (tmp_path / "out.jsonl").read_bytes()
    assert kept.count(b"\n") in (15, 16) and kept.endswith(b"\n")
    resumed = call("infer", finished.run, texts, tmp_path / "out.jsonl", "--resume", "--json")
    assert (resumed.document["done"], resumed.document["skipped"]) == (30 - kept.count(b"\n"), kept.count(b"\n"))
    assert (tmp_path / "out.jsonl").read_bytes().startswith(kept)
    found, whole = ({line["id"]: line["answer"] for line in read_lines(tmp_path / name)} for name in ("out.jsonl", "whole.jsonl"))
    assert found == whole and len(read_lines(tmp_path / "out.jsonl")) == 30


def test_a_stop_while_converting_leaves_no_base_behind(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raised_at(monkeypatch, BACKEND, "quantize", 1, signal.SIGINT)
    stopped = call("convert", checkpoint, tmp_path / "base", "--json")
    assert stopped.code == 130
    assert list(tmp_path.iterdir()) == []


def test_the_events_tell_of_stop_and_resume(finished: Place, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        raised_at(patch, STUDENT, "update", 2, signal.SIGINT)
        call("train", finished.recipe, "--out", tmp_path / "run")
    call("train", finished.recipe, "--out", tmp_path / "run", "--resume")
    events = [json.loads(line) for line in (tmp_path / "run" / "events.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [event["step"] for event in events if event["name"] in ("interrupted", "resumed")] == [2, 2]
    assert [event["step"] for event in events if event["name"] == "step"] == list(range(1, 13))
