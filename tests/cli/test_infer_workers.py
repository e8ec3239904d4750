"""infer --workers: what several processes answer is what one does, wherever they are stopped; how many there are changes no result."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mlx_distill.backends import present
from mlx_distill.inference.journal import Journal
from mlx_distill.observe.progress import Progress
from mlx_distill.workflows import Setting
from mlx_distill.workflows.staff import Opens, workers_of
from mlx_distill.workflows.students import Asking
from tests.cli.conftest import Place
from tests.cli.test_infer import answers, second, texts  # noqa: F401  (fixtures)
from tests.processes import children
from tests.students import Called, call, read_lines, write_lines

ROWS = 60


@pytest.fixture(autouse=True)
def nobody_is_left() -> Iterator[None]:
    before = children()
    yield
    assert children() <= before


@pytest.fixture
def many(tmp_path: Path) -> Path:
    """Bad rows among good ones."""
    rows: list[dict[str, Any]] = [{"id": f"r{i}", "text": f"The river at post {i}. " * (1 + i % 5)} for i in range(ROWS)]
    return write_lines(tmp_path / "many.jsonl", [*rows[:20], {"id": "bad"}, *rows[20:], {"id": "r7", "text": "Again."}])


def at_write(patch: pytest.MonkeyPatch, number: int, what: Any) -> None:
    """Before so many lines have been written, `what` is called."""
    write, left = Journal.write, [number]

    def writing(self: Journal, line: Any) -> None:
        left[0] -= 1
        if not left[0]:
            what()
        write(self, line)

    patch.setattr(Journal, "write", writing)


def same(one: Path, other: Path) -> bool:
    files = [Path(f"{it}.rejects.jsonl") for it in (one, other)]
    rejects = [sorted((line["id"], line["line"], line["reason"]) for line in read_lines(file)) if file.exists() else [] for file in files]
    return answers(one) == answers(other) and rejects[0] == rejects[1]


def test_two_workers_draw_the_samples_of_two_students_as_one_process_does(
    finished: Place,
    second: Path,  # noqa: F811
    many: Path,
    tmp_path: Path,
) -> None:
    def answer(workers: int) -> Called:
        options = ("--samples", 3, "--temperature", 0.8, "--seed", 5, "--distributions", "--json", "--workers", workers)
        return call("infer", finished.run, second, many, tmp_path / f"by-{workers}.jsonl", *options)

    one, two = answer(1).document, answer(2).document
    assert same(tmp_path / "by-1.jsonl", tmp_path / "by-2.jsonl")
    by_one, by_two = ({(it["task"], it["id"]): it for it in read_lines(tmp_path / f"by-{n}.jsonl")} for n in (1, 2))
    for key, line in by_one.items():
        assert by_two[key]["confidence"] == pytest.approx(line["confidence"], abs=1e-3)
        assert by_two[key]["distributions"].keys() == line["distributions"].keys()
    for name in ("decoded", "forced"):
        assert one["tokens"][name] == two["tokens"][name], "what each worker counted is added up"
    assert (two["workers"], two["done"], two["rejected"]) == (2, 2 * ROWS, 4) and "workers" not in one
    assert two["peak_memory_bytes"] > 2 * 2**20


def test_workers_that_are_killed_in_the_middle_lose_no_row_and_double_none(
    finished: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"id": f"r{i}", "text": f"The river at post {i}. " * (1 + i % 5)} for i in range(400)]
    many = write_lines(tmp_path / "many.jsonl", rows)
    assert call("infer", finished.run, many, tmp_path / "whole.jsonl").code == 0
    before = children()
    at_write(monkeypatch, 6, lambda: [os.kill(child, signal.SIGKILL) for child in children() - before])
    killed = call("infer", finished.run, many, tmp_path / "out.jsonl", "--workers", 2)
    assert killed.code == 0 and "was lost: killed by SIGKILL" in killed.err
    assert same(tmp_path / "out.jsonl", tmp_path / "whole.jsonl")


@pytest.mark.parametrize(("what", "first", "then"), [(signal.SIGINT, 2, 1), (signal.SIGTERM, 1, 2)])
def test_a_job_that_was_stopped_goes_on_with_another_number_of_workers(
    finished: Place, many: Path, tmp_path: Path, what: signal.Signals, first: int, then: int
) -> None:
    assert call("infer", finished.run, many, tmp_path / "whole.jsonl").code == 0
    with pytest.MonkeyPatch.context() as patch:
        at_write(patch, 12, lambda: os.kill(os.getpid(), what))
        stopped = call("infer", finished.run, many, tmp_path / "out.jsonl", "--workers", first, "--json")
    assert (stopped.code, stopped.document["error"]["kind"]) == (130, "Interrupted")
    kept = (tmp_path / "out.jsonl").read_bytes()
    assert 0 < kept.count(b"\n") < ROWS and kept.endswith(b"\n")
    resumed = call("infer", finished.run, many, tmp_path / "out.jsonl", "--workers", then, "--resume", "--json")
    assert (resumed.code, resumed.document.get("done")) == (0, ROWS - kept.count(b"\n")), resumed.document
    assert (tmp_path / "out.jsonl").read_bytes().startswith(kept)
    assert same(tmp_path / "out.jsonl", tmp_path / "whole.jsonl")


def test_what_cannot_be_opened_is_said_as_by_one_process(finished: Place, many: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(finished.run, tmp_path / "run"))
    weights = run / "adapter" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-40])
    alone, both = (call("infer", run, many, tmp_path / f"by-{n}.jsonl", "--workers", n, "--json") for n in (1, 2))
    assert (both.code, both.document) == (alone.code, alone.document) and both.code == 2


def test_a_worker_has_its_share_of_the_memory_and_the_notes_of_its_student(
    finished: Place, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = Setting(Progress(quiet=True), cache, "auto").choose()
    opens, limits = type(backend).open, []

    def opened(self: Any, base: Path, *, memory_limit: int | None, **named: Any) -> Any:
        limits.append(memory_limit)
        student = opens(self, base, **named)
        monkeypatch.setattr(student, "notes", lambda: ["a kernel is not used"])
        return student

    monkeypatch.setattr(type(backend), "open", opened)
    worker = Opens([finished.run], cache, "auto", Asking(), whole=False, sharing=3)()
    assert limits == [backend.machine().memory // 3]
    assert worker.notes() == ["a kernel is not used"]


@pytest.mark.parametrize("workers", ["0", "-1", "two", "1.5", "", "100000"])
def test_a_number_of_workers_that_cannot_be_is_refused(finished: Place, many: Path, tmp_path: Path, workers: str) -> None:
    refused = call("infer", finished.run, many, tmp_path / "out.jsonl", "--workers", workers)
    assert refused.code == 2 and "--workers" in refused.err and workers in refused.err
    assert [path.name for path in tmp_path.iterdir()] == ["many.jsonl"]


@pytest.mark.parametrize(
    ("backend", "environment", "expected"), [("torch", {}, 2), ("torch", {"CUDA_VISIBLE_DEVICES": "3"}, 1), ("mlx", {}, 1)]
)
def test_there_is_a_worker_for_each_gpu_that_the_backend_computes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backend: str, environment: dict[str, str], expected: int
) -> None:
    """Of a machine of two, as its driver would count them."""
    monkeypatch.setattr(present, "cuda_devices", lambda: 2)
    monkeypatch.setattr(present, "cuda_of_torch", lambda: "12.8")
    setting = Setting(Progress(quiet=True), tmp_path, backend, environment)
    assert workers_of(setting, None) == expected
    assert workers_of(setting, 5) == 5
