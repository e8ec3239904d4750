"""A job that is killed at any write goes on: nothing lost, nothing doubled, the file valid at the end. As lines and as Parquet."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from mlx_distill import files
from mlx_distill.inference import journal
from mlx_distill.observe.progress import Progress
from mlx_distill.workflows import Setting, infer, staff
from tests.cli.conftest import Place
from tests.cli.test_infer import answers
from tests.students import read_lines, write_lines

ROWS = 9


class Killed(BaseException):
    """Nothing in the package catches it."""


class Writes:
    """Every change of a file is counted; at the `at`th the process is as good as dead: a line is torn, and nothing more is ever written."""

    def __init__(self, at: int | None):
        self._at, self.count, self.dead = at, 0, False

    def __call__(self, do: Callable[..., Any], *, torn: bool = False) -> Callable[..., Any]:
        def instead(*arguments: Any, **named: Any) -> Any:
            if self.dead:
                raise Killed
            self.count += 1
            if self.count == self._at:
                self.dead = True
                if torn:
                    files.append_line(arguments[0], arguments[1][: len(arguments[1]) // 2])
                raise Killed
            return do(*arguments, **named)

        return instead


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bad row among good ones."""
    rows: list[dict[str, Any]] = [{"id": f"r{i}", "text": f"The river at post {i}. " * (1 + i % 3)} for i in range(ROWS)]
    return write_lines(tmp_path_factory.mktemp("texts") / "in.jsonl", [*rows[:4], {"id": "bad"}, *rows[4:]])


@pytest.fixture
def work(finished: Place, texts: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    """infer, with the student opened once: what is killed is the writing."""
    opened = lasting(staff.open_chosen)
    monkeypatch.setattr(staff, "open_chosen", opened)
    monkeypatch.setattr(journal, "SYNC_SECONDS", 3600.0)  # the thread's own time would not be the same twice

    def work(output: Path, *, resume: bool = True) -> dict[str, Any]:
        return infer(Setting(Progress(quiet=True), cache), finished.run, texts, output, resume=resume)

    return work


def lasting(open_chosen: Callable[..., Any]) -> Callable[..., Any]:
    @cache
    def once() -> list[Any]:
        return []

    def instead(*arguments: Any, **named: Any) -> Any:
        if not once():
            once().append(open_chosen(*arguments, **named))
        for student in once()[0]:
            student.engine.forget()
        return once()[0]

    return instead


def counted(work: Callable[..., Any], output: Path, at: int | None) -> Writes:
    writes = Writes(at)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(journal, "append_line", writes(files.append_line, torn=True))
        patch.setattr(os, "fsync", writes(os.fsync))
        for name in ("unlink", "replace", "rename"):
            patch.setattr(Path, name, writes(getattr(Path, name)))
        try:
            work(output)
        except Killed:
            assert writes.dead
    return writes


def left_behind(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_killed_at_any_write_and_once_more_soon_after(work: Callable[..., dict[str, Any]], tmp_path: Path, suffix: str) -> None:
    whole = tmp_path / "whole" / f"out.{suffix}"
    total = counted(work, whole, None).count
    assert total > ROWS + 6, "every write is seen"
    for at in range(1, total + 1):
        output = tmp_path / f"killed-{at}" / f"out.{suffix}"
        counted(work, output, at)
        counted(work, output, 4)
        work(output)
        assert answers(output) == answers(whole), f"killed at write {at} of {total}"
        rejects = read_lines(output.with_name(output.name + ".rejects.jsonl"))
        assert [(line["id"], line["line"]) for line in rejects] == [("bad", 5)], f"killed at write {at} of {total}"
        assert left_behind(output.parent) == left_behind(whole.parent), f"killed at write {at} of {total}"
        again = work(output)
        assert (again["done"], again["skipped"]) == (0, ROWS + 1)
        shutil.rmtree(output.parent)


def test_a_job_that_is_killed_by_the_system_goes_on(
    work: Callable[..., dict[str, Any]], finished: Place, texts: Path, tmp_path: Path
) -> None:
    """By SIGKILL in a process of its own, right behind a result: what was written is there, though nothing was closed."""
    code = """
import os, signal, sys
from mlx_distill.cli import main
from mlx_distill.inference import journal
append, left = journal.append_line, [5]
def killing(file, line):
    append(file, line)
    left[0] -= 1
    if not left[0]:
        os.kill(os.getpid(), signal.SIGKILL)
journal.append_line = killing
main.main()
"""
    output = tmp_path / "out.jsonl"
    done = subprocess.run([sys.executable, "-c", code, "infer", finished.run, texts, output], capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert len(read_lines(output)) + len(read_lines(tmp_path / "out.jsonl.rejects.jsonl")) == 5
    assert work(output)["skipped"] == 5
    work(tmp_path / "whole.jsonl")
    assert answers(output) == answers(tmp_path / "whole.jsonl")
