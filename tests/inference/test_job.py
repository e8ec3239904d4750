"""A job answers every row once however often it was stopped; a bad row stops nothing; a full disk loses nothing."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mlx_distill.backends.choose import choose
from mlx_distill.data.examples import Reader
from mlx_distill.data.read import by_name, read
from mlx_distill.errors import DataError, DoesNotFit, OutputError
from mlx_distill.files import exclusive
from mlx_distill.inference import engine as engines
from mlx_distill.inference import journal
from mlx_distill.inference.engine import Engine
from mlx_distill.inference.job import Asked, Done, Wanted, run
from mlx_distill.inference.journal import Journal
from mlx_distill.inference.output import Places, refuse
from mlx_distill.inference.tally import Tally
from mlx_distill.observe.progress import Progress
from mlx_distill.recipe.schema import FieldSpec, TaskSpec
from mlx_distill.task.prompt import load_tokenizer
from tests.answers import rejects_of
from tests.students import read_lines, tiny_base, write_lines

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
    monkeypatch.setattr(engines, "WINDOW", 7)


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


def go(source: Path, output: Path, *engines: Engine, tally: Tally | None = None, **wanted: Any) -> Done:
    asked = [
        Asked(f"student {i}", engine, TASK.fields, Reader(TASK, None, empty=False).examples(read(by_name(source), source)))
        for i, engine in enumerate(engines)
    ]
    with Progress(quiet=True).step("infer") as bar:
        return run(asked, Places(output), tally or Tally({it.name: list(TASK.tiers) for it in asked}, None), bar, Wanted(**wanted))


def same(one: Path, other: Path) -> bool:
    """The same answers and rejects, in any order; confidences to what company may change in their last digits."""
    mine, theirs = (sorted(read_lines(path), key=lambda line: str(line["id"])) for path in (one, other))
    plain = [[{key: value for key, value in line.items() if key != "confidence"} for line in lines] for lines in (mine, theirs)]
    close = all(a["confidence"] == pytest.approx(b["confidence"], abs=2e-4) for a, b in zip(mine, theirs, strict=True))
    rejects = [sorted(read_lines(rejects_of(path)), key=lambda line: int(line["line"])) for path in (one, other)]
    return plain[0] == plain[1] and close and rejects[0] == rejects[1]


@pytest.fixture
def undisturbed(source: Path, engine: Engine, tmp_path: Path) -> Path:
    go(source, tmp_path / "undisturbed.jsonl", engine)
    return tmp_path / "undisturbed.jsonl"


def test_every_row_has_a_result_or_a_reject_with_line_and_reason(source: Path, undisturbed: Path) -> None:
    results, rejects = read_lines(undisturbed), read_lines(rejects_of(undisturbed))
    assert sorted(line["id"] for line in results) == sorted(f"r{i}" for i in range(27) if i % 7 != 3 and i % 11 != 5)
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


def test_a_job_cut_at_any_byte_goes_on_and_loses_and_doubles_nothing(
    source: Path, undisturbed: Path, engine: Engine, tmp_path: Path
) -> None:
    whole, rejects = undisturbed.read_bytes(), rejects_of(undisturbed).read_bytes()
    ends = [i + 1 for i, byte in enumerate(whole) if byte == ord("\n")]
    output = tmp_path / "cut.jsonl"
    for cut in positions(len(whole), ends):
        output.write_bytes(whole[:cut])
        rejects_of(output).write_bytes(rejects[: len(rejects) * cut // len(whole)])
        done = go(source, output, engine)
        assert same(output, undisturbed), f"cut at {cut}"
        assert output.read_bytes().startswith(whole[: whole.rfind(b"\n", 0, cut) + 1]), "what was there is left as it is"
        assert (done.rows, done.done + done.rejected + done.skipped) == (NUMBER, NUMBER)
        assert done.done == whole[cut:].count(b"\n"), "no more and no less than was lost"


@pytest.mark.parametrize("lost", ["answers", "rejects"])
def test_either_file_alone_is_made_whole_again(source: Path, undisturbed: Path, engine: Engine, lost: str) -> None:
    path = undisturbed if lost == "answers" else rejects_of(undisturbed)
    shutil.copy(undisturbed, undisturbed.with_name("before.jsonl"))
    shutil.copy(rejects_of(undisturbed), rejects_of(undisturbed.with_name("before.jsonl")))
    path.unlink()
    go(source, undisturbed, engine)
    assert same(undisturbed, undisturbed.with_name("before.jsonl"))


def test_finished_work_is_not_done_again(source: Path, undisturbed: Path, engine: Engine) -> None:
    before, counted = undisturbed.read_bytes(), engine.counts.prefill
    done = go(source, undisturbed, engine)
    assert (done.done, done.rejected, done.skipped) == (0, 0, NUMBER)
    assert undisturbed.read_bytes() == before
    assert engine.counts.prefill == counted, "no token was forwarded"


def test_rows_that_were_added_since_are_answered(source: Path, undisturbed: Path, engine: Engine) -> None:
    before = undisturbed.read_bytes()
    with source.open("a", encoding="utf-8") as file:
        file.write('{"id": "new", "text": "a late one"}\n')
    assert go(source, undisturbed, engine).done == 1
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
        '{"id": "blank", "text": " \\n"}\n'
        f'{{"id": "long", "text": "{"woord " * 180_000}"}}\n',
        encoding="utf-8",
    )  # fmt: skip
    assert go(tmp_path / "in.jsonl", tmp_path / "out.jsonl", engine).done == 5
    lines = read_lines(tmp_path / "out.jsonl")
    assert {line["id"]: line.get("trimmed", False) for line in lines} == {
        "nul\0": False, "🌊": False, "7": False, "half": False, "long": True
    }  # fmt: skip
    empty = "empty: there is nothing to read in text"
    assert [(line["id"], line["reason"]) for line in read_lines(tmp_path / "out.jsonl.rejects.jsonl")] == [
        ("\ud800", empty),
        ("blank", empty),
    ]
    assert go(tmp_path / "in.jsonl", tmp_path / "out.jsonl", engine).skipped == 7


def test_a_file_of_something_else_is_not_appended_to(source: Path, engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "out.jsonl").write_text('{"id": "r0", "answer": {}}\nnotes of mine\n', encoding="utf-8")
    with pytest.raises(OutputError, match=r"out\.jsonl:2: .*no result"):
        go(source, tmp_path / "out.jsonl", engine)
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
        tmp_path / "out.csv": r"written as JSON lines or Parquet, not \.csv files",
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
    go(source, full_disk / "out.jsonl", engine)
    assert same(full_disk / "out.jsonl", undisturbed)


@pytest.mark.filterwarnings("error")
def test_a_disk_that_fills_up_midway_keeps_what_was_done(
    source: Path, undisturbed: Path, engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "SYNC_SECONDS", 0.0)
    output = tmp_path / "out.jsonl"

    def fsync(file: int) -> None:
        if output.exists() and os.path.sameopenfile(file, open_output) and output.read_bytes().count(b"\n") > 4:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    open_output = os.open(output, os.O_CREAT | os.O_RDONLY)
    with monkeypatch.context() as patch, pytest.raises(DoesNotFit, match=r"out\.jsonl.*the disk is full"):
        patch.setattr(journal.os, "fsync", fsync)
        go(source, tmp_path / "out.jsonl", engine)
    os.close(open_output)
    assert len(read_lines(output)) > 4
    go(source, tmp_path / "out.jsonl", engine)
    assert same(tmp_path / "out.jsonl", undisturbed)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_is_refused_with_its_name(source: Path, engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "shut").mkdir(mode=0o500)
    with pytest.raises(OutputError, match=r"shut.*no permission"):
        go(source, tmp_path / "shut" / "out.jsonl", engine)


def test_an_output_in_use_is_refused(tmp_path: Path) -> None:
    with exclusive(tmp_path / "out.jsonl"):
        with pytest.raises(OutputError, match="in use by process"), exclusive(tmp_path / "out.jsonl"):
            pass


def test_more_rejects_than_allowed_stop_the_job_and_without_the_limit_it_goes_on(
    source: Path, undisturbed: Path, engine: Engine, tmp_path: Path
) -> None:
    output = tmp_path / "out.jsonl"
    with pytest.raises(DataError, match=r"4 rows were rejected, more than --max-rejects 3.*line 17: no column 'text'") as found:
        go(source, output, engine, max_rejects=3)
    assert (found.value.exit_code, found.value.file, found.value.line) == (2, str(source), 17)
    engine.forget()
    assert len(read_lines(rejects_of(output))) == 4, "what was done is kept"
    with pytest.raises(DataError, match="5 rows were rejected"):
        go(source, output, engine, max_rejects=4)
    engine.forget()
    go(source, output, engine, max_rejects=9)
    assert same(output, undisturbed)


def test_several_students_answer_in_turns_as_each_would_alone(
    source: Path, undisturbed: Path, engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mlx_distill.inference.job.TURN", 4)
    done = go(source, tmp_path / "both.jsonl", engine, engine)
    assert (done.rows, done.done, done.rejected) == (NUMBER, 2 * 21, 2 * 9)
    results, rejects = read_lines(tmp_path / "both.jsonl"), read_lines(rejects_of(tmp_path / "both.jsonl"))
    alone = {line["id"]: line["answer"] for line in read_lines(undisturbed)}
    for name in ("student 0", "student 1"):
        assert {line["id"]: line["answer"] for line in results if line["task"] == name} == alone
        assert [reject["line"] for reject in rejects if reject["task"] == name] == [4, 6, 11, 17, 18, 25, 28, 29, 30]
    tasks = [line["task"] for line in results]
    assert tasks != sorted(tasks), "they take turns: no row of the input is kept for long"
    lines = (tmp_path / "both.jsonl").read_text("utf-8").splitlines(keepends=True)
    (tmp_path / "both.jsonl").write_text("".join(lines[:9] + lines[14:]), "utf-8")
    assert go(source, tmp_path / "both.jsonl", engine, engine).done == 5
    assert sorted(map(str, read_lines(tmp_path / "both.jsonl"))) == pytest.approx(sorted(map(str, results))), "by task and id"


def test_a_row_that_several_students_reject_is_one_row(source: Path, engine: Engine, tmp_path: Path) -> None:
    output = tmp_path / "both.jsonl"
    with pytest.raises(DataError, match="4 rows were rejected, more than --max-rejects 3"):
        go(source, output, engine, engine, max_rejects=3)
    engine.forget()
    tally = Tally({"student 0": [], "student 1": []}, NUMBER)
    done = go(source, output, engine, engine, tally=tally, max_rejects=9)
    assert done.rejected + done.rejected_before == len(read_lines(rejects_of(output))) == 2 * 9, "the file has one line of each student"
    assert done.rejected_rows == tally.reasons.total == 9 - 4
    assert sum(count for count, _ in tally.reasons.found.values()) == 9 - 4


def test_the_bar_of_several_students_counts_rows(source: Path, engine: Engine, tmp_path: Path) -> None:
    rows = [Reader(TASK, None, empty=False).examples(read(by_name(source), source)) for _ in range(2)]
    asked = [Asked(f"student {i}", engine, TASK.fields, own) for i, own in enumerate(rows)]
    with Progress(quiet=True).step("infer") as bar:
        run(asked, Places(tmp_path / "both.jsonl"), Tally({it.name: [] for it in asked}, NUMBER), bar, Wanted())
        assert bar.count == NUMBER


def test_of_what_was_done_before_rejected_rows_are_told_apart(source: Path, undisturbed: Path, engine: Engine) -> None:
    again = go(source, undisturbed, engine)
    assert (again.skipped, again.answered_before, again.rejected_before) == (NUMBER, 21, 9)
    assert again.rows_per_hour is None, "nothing was answered"


def test_an_output_within_the_input_folder_is_refused_whatever_the_way_to_it(tmp_path: Path) -> None:
    (tmp_path / "in" / "below").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "in")
    for folder in ("in", "link", "in/below/.."):
        with pytest.raises(OutputError, match="OUTPUT lies in the folder that is INPUT") as found:
            refuse(tmp_path / "in", tmp_path / folder / "out.jsonl", resume=True)
        assert str(tmp_path / "out.jsonl") in str(found.value.hint)
    refuse(tmp_path / "in", tmp_path / "in" / "below" / "out.jsonl", resume=False)


def test_of_a_folder_a_reject_names_its_file_within_it(engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name in ("a", "b"):
        rows = [{"id": name, "text": "wet"}, {"id": f"x{name}"}, {"id": "a", "text": "dry"}]
        write_lines(tmp_path / "in" / f"{name}.jsonl", rows)
    go(tmp_path / "in", tmp_path / "out.jsonl", engine, folder=tmp_path / "in")
    rejects = read_lines(tmp_path / "out.jsonl.rejects.jsonl")
    assert [(line["file"], line["line"], line["id"]) for line in rejects] == [
        ("a.jsonl", 2, "xa"), ("a.jsonl", 3, "a"), ("b.jsonl", 2, "xb"), ("b.jsonl", 3, "a")
    ]  # fmt: skip
    moved = (tmp_path / "in").rename(tmp_path / "elsewhere")
    assert go(moved, tmp_path / "out.jsonl", engine, folder=moved).skipped == 6


def test_a_line_reaches_the_disk_by_itself_while_nothing_else_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "SYNC_SECONDS", 0.0)
    synced = threading.Event()
    with monkeypatch.context() as patch, Journal(tmp_path / "lines.jsonl") as lines:
        patch.setattr(journal.os, "fsync", lambda _: synced.set())
        lines.write({"id": "a"})
        assert synced.wait(20), "though the next line has not come yet"
        assert (tmp_path / "lines.jsonl").read_text() == '{"id": "a"}\n'


def test_a_results_distributions_are_by_value_and_a_score_s_average_is_beside_them(source: Path, engine: Engine, tmp_path: Path) -> None:
    go(source, tmp_path / "out.jsonl", engine, distributions=True)
    for line in read_lines(tmp_path / "out.jsonl"):
        shares = line["distributions"]
        assert [list(shares[name]) for name in ("score", "flag", "kind")] == [[str(i) for i in range(11)], ["false", "true"], ["a", "ab"]]
        assert all(sum(values.values()) == pytest.approx(1, abs=1e-4) for values in shares.values())
        assert line["expected"] == {"score": pytest.approx(sum(int(value) * p for value, p in shares["score"].items()), abs=1e-3)}
        assert shares["flag"][json.dumps(line["answer"]["flag"])] == pytest.approx(line["confidence"]["flag"], abs=1e-3)
