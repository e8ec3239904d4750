"""A job's output is the same bytes however often it was stopped; a bad row stops nothing; a full disk loses nothing."""

from __future__ import annotations

import errno
import os
import random
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from mlx_distill.backends.choose import choose
from mlx_distill.data.examples import Reader
from mlx_distill.data.read import by_name, read
from mlx_distill.errors import DoesNotFit, OutputError
from mlx_distill.files import exclusive
from mlx_distill.inference import job
from mlx_distill.inference.engine import Engine
from mlx_distill.inference.job import Done, refuse, rejects_of, run
from mlx_distill.observe.progress import Progress
from mlx_distill.recipe.schema import FieldSpec, TaskSpec
from mlx_distill.task.prompt import load_tokenizer
from tests.students import read_lines, tiny_base

TASK = TaskSpec(
    instructions="How high is the water?",
    input="{text}",
    fields={
        "score": FieldSpec(kind="score", weight=1.0),
        "flag": FieldSpec(kind="flag"),
        "kind": FieldSpec(kind="choice", choices=("a", "ab")),
    },
    tiers={"high": 5.0, "low": 0.0},
)
NUMBER = 30


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    base = tiny_base(tmp_path_factory.mktemp("job"))
    return Engine(choose("mlx").open(base), TASK, load_tokenizer(base), answer="json", max_tokens=120)


@pytest.fixture(autouse=True)
def small_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job, "WINDOW", 7)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Every seventh row is no JSON, every eleventh lacks the column; ids stand twice; lengths differ wildly."""
    lines = []
    for i in range(NUMBER):
        words = "the river rose " * (i * i % 23)
        lines.append(f'{{"id": "r{i % 27}", "text": "{words}{i}"}}')
        lines[-1] = lines[-1][:-3] if i % 7 == 3 else lines[-1].replace('"text"', '"txt"') if i % 11 == 5 else lines[-1]
    path = tmp_path / "in.jsonl"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def go(source: Path, output: Path, engine: Engine, *, resume: bool = False) -> Done:
    rows = Reader(TASK, None).examples(read(by_name(source), source))
    with Progress(quiet=True).step("infer") as bar:
        return run(rows, engine, output, bar, resume=resume)


@pytest.fixture
def undisturbed(source: Path, engine: Engine, tmp_path: Path) -> Path:
    go(source, tmp_path / "undisturbed.jsonl", engine)
    return tmp_path / "undisturbed.jsonl"


def test_results_come_in_the_order_of_the_input_and_rejects_with_line_and_reason(source: Path, undisturbed: Path) -> None:
    results, rejects = read_lines(undisturbed), read_lines(rejects_of(undisturbed))
    ids = [f"r{i}" for i in range(27) if i % 7 != 3 and i % 11 != 5]
    assert [line["id"] for line in results] == [*ids[:26], *(i for i in ("r27",) if i in ids)]
    assert [reject["line"] for reject in rejects] == [4, 6, 11, 17, 18, 25, 28, 29, 30]
    reasons = {reject["line"]: reject["reason"] for reject in rejects}
    assert reasons[4].startswith("not JSON")
    assert reasons[6] == "no column 'text'; there is id, txt"
    assert reasons[28] == "the id 'r0' stands on line 1 already"
    assert {reject["id"] for reject in rejects if reject["line"] in (6, 28)} == {"r5", "r0"}


def test_a_result_line_has_the_contract_s_keys(undisturbed: Path) -> None:
    for line in read_lines(undisturbed):
        assert list(line)[:5] == ["id", "answer", "confidence", "overall", "tier"]
        assert list(line["answer"]) == list(line["confidence"]) == list(TASK.fields)
        assert line["overall"] == line["answer"]["score"]
        assert line["tier"] == ("high" if line["overall"] >= 5 else "low")
        assert line.get("trimmed", True) is True, "only where it is true"
    assert sum(line.get("trimmed", False) for line in read_lines(undisturbed)) > 0


def positions(size: int, line_ends: list[int]) -> list[int]:
    """Where to cut: nothing, all, each side of some line ends, and anywhere."""
    near = [end + shift for end in line_ends[::8] for shift in (-1, 0, 1)]
    anywhere = random.Random(0).sample(range(size), 12)
    return sorted({0, 1, size - 1, size, *(cut for cut in near if cut <= size), *anywhere})


def test_a_job_cut_at_any_byte_goes_on_to_the_same_bytes(source: Path, undisturbed: Path, engine: Engine, tmp_path: Path) -> None:
    whole, rejects = undisturbed.read_bytes(), rejects_of(undisturbed).read_bytes()
    ends = [i + 1 for i, byte in enumerate(whole) if byte == ord("\n")]
    output = tmp_path / "cut.jsonl"
    for cut in positions(len(whole), ends):
        output.write_bytes(whole[:cut])
        rejects_of(output).write_bytes(rejects[: len(rejects) * cut // len(whole)])
        done = go(source, output, engine, resume=True)
        assert output.read_bytes() == whole, f"cut at {cut}"
        assert rejects_of(output).read_bytes() == rejects, f"cut at {cut}"
        assert (done.rows, done.done + done.rejected + done.skipped) == (NUMBER, NUMBER)
        assert done.done == whole[cut:].count(b"\n"), "no more and no less than was lost"


@pytest.mark.parametrize("lost", ["answers", "rejects"])
def test_either_file_alone_is_made_whole_again(source: Path, undisturbed: Path, engine: Engine, lost: str) -> None:
    path = undisturbed if lost == "answers" else rejects_of(undisturbed)
    before = path.read_bytes()
    path.unlink()
    go(source, undisturbed, engine, resume=True)
    assert path.read_bytes() == before


def test_finished_work_is_not_done_again(source: Path, undisturbed: Path, engine: Engine) -> None:
    before, counted = undisturbed.read_bytes(), engine.counts.prefill
    done = go(source, undisturbed, engine, resume=True)
    assert (done.done, done.rejected, done.skipped) == (0, 0, NUMBER)
    assert undisturbed.read_bytes() == before
    assert engine.counts.prefill == counted, "no token was forwarded"


def test_resume_on_nothing_begins(source: Path, undisturbed: Path, engine: Engine, tmp_path: Path) -> None:
    go(source, tmp_path / "new.jsonl", engine, resume=True)
    assert (tmp_path / "new.jsonl").read_bytes() == undisturbed.read_bytes()


def test_rows_that_were_added_since_are_answered(source: Path, undisturbed: Path, engine: Engine) -> None:
    before = undisturbed.read_bytes()
    with source.open("a", encoding="utf-8") as file:
        file.write('{"id": "new", "text": "a late one"}\n')
    assert go(source, undisturbed, engine, resume=True).done == 1
    assert undisturbed.read_bytes().startswith(before)
    assert read_lines(undisturbed)[-1]["id"] == "new"


def test_without_rejects_there_is_no_file_of_them(tmp_path: Path, engine: Engine) -> None:
    (tmp_path / "in.csv").write_text("text\nhello\nhello\n", encoding="utf-8")
    assert go(tmp_path / "in.csv", tmp_path / "out.jsonl", engine).done == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.csv", "out.jsonl"]
    ids = [line["id"] for line in read_lines(tmp_path / "out.jsonl")]
    assert ids[0][:-1] == ids[1][:-1] and ids[0] != ids[1], "the hash of the content, and which copy it is"


def test_texts_of_any_content_are_legal(tmp_path: Path, engine: Engine) -> None:
    (tmp_path / "in.jsonl").write_text(
        '{"id": "nul\\u0000", "text": "a\\u0000b"}\n{"id": "🌊", "text": "🌊🌊"}\n{"id": 7, "text": "النهر مرتفع"}\n'
        '{"id": "half", "text": "\\ud83d"}\n{"id": "\\ud800", "text": null}\n'
        f'{{"id": "long", "text": "{"woord " * 180_000}"}}\n',
        encoding="utf-8",
    )  # fmt: skip
    assert go(tmp_path / "in.jsonl", tmp_path / "out.jsonl", engine).done == 6
    lines = read_lines(tmp_path / "out.jsonl")
    assert [line["id"] for line in lines] == ["nul\0", "🌊", "7", "half", "\ud800", "long"]
    assert lines[-1]["trimmed"] is True
    assert go(tmp_path / "in.jsonl", tmp_path / "out.jsonl", engine, resume=True).skipped == 6


def test_a_file_of_something_else_is_not_appended_to(source: Path, engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "out.jsonl").write_text('{"id": "r0", "answer": {}}\nnotes of mine\n', encoding="utf-8")
    with pytest.raises(OutputError, match=r"out\.jsonl:2: .*no result"):
        go(source, tmp_path / "out.jsonl", engine, resume=True)
    assert (tmp_path / "out.jsonl").read_text(encoding="utf-8").endswith("notes of mine\n")


def test_what_cannot_be_written_to_is_refused_beforehand(source: Path, tmp_path: Path) -> None:
    (tmp_path / "folder.jsonl").mkdir()
    os.link(source, tmp_path / "linked.jsonl")
    (tmp_path / "there.jsonl").touch()
    shutil.copy(source, tmp_path / "x.jsonl.rejects.jsonl")
    for output, why in {
        tmp_path / "folder.jsonl": "OUTPUT is a folder",
        source: "the same file",
        tmp_path / "linked.jsonl": "the same file",
        tmp_path / "out.csv": r"written as JSON lines, not \.csv files",
        tmp_path / "out": "without a suffix",
        tmp_path / "there.jsonl": "results already",
        tmp_path / "x.jsonl": "results already",
    }.items():
        with pytest.raises(OutputError, match=why) as found:
            refuse(source, output, resume=False)
        assert found.value.hint
    refuse(source, tmp_path / "there.jsonl", resume=True)
    with pytest.raises(OutputError, match="the same file"):
        refuse(tmp_path / "x.jsonl.rejects.jsonl", tmp_path / "x.jsonl", resume=True)


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 8 KiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8k", "tmpfs", disk], capture_output=True, check=False).returncode:
        pytest.skip("a disk can be mounted by root alone")
    yield disk
    subprocess.run(["umount", disk], check=True)


def test_a_full_disk_stops_the_job_and_loses_nothing(
    source: Path, undisturbed: Path, engine: Engine, full_disk: Path, tmp_path: Path
) -> None:
    (full_disk / "ballast").write_bytes(bytes(4096 + 1))  # of two pages, none is left; then one is
    with pytest.raises(DoesNotFit, match="the disk is full"):
        go(source, full_disk / "out.jsonl", engine)
    (full_disk / "ballast").unlink()
    go(source, full_disk / "out.jsonl", engine, resume=True)
    assert (full_disk / "out.jsonl").read_bytes() == undisturbed.read_bytes()


@pytest.mark.filterwarnings("error")
def test_a_disk_that_fills_up_midway_keeps_what_was_done(
    source: Path, undisturbed: Path, engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job, "SYNC_SECONDS", 0.0)
    left = iter([None] * 9)

    def fsync(_: int) -> None:
        if next(left, "full"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch, pytest.raises(DoesNotFit, match=r"out\.jsonl.*the disk is full"):
        patch.setattr(job.os, "fsync", fsync)
        go(source, tmp_path / "out.jsonl", engine)
    assert 5 <= len(read_lines(tmp_path / "out.jsonl")) <= 10
    go(source, tmp_path / "out.jsonl", engine, resume=True)
    assert (tmp_path / "out.jsonl").read_bytes() == undisturbed.read_bytes()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_is_refused_with_its_name(source: Path, engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "shut").mkdir(mode=0o500)
    with pytest.raises(OutputError, match=r"shut.*no permission"):
        go(source, tmp_path / "shut" / "out.jsonl", engine)


def test_an_output_in_use_is_refused(tmp_path: Path) -> None:
    with exclusive(tmp_path / "out.jsonl"):
        with pytest.raises(OutputError, match="in use by process"), exclusive(tmp_path / "out.jsonl"):
            pass
