"""What is written is there whole, or not at all; only the dead's leftovers are swept away; places in use are refused."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mlx_distill.errors import DistillError, DoesNotFit, OutputError
from mlx_distill.files import (
    atomic_file,
    atomic_folder,
    drop_torn_line,
    exclusive,
    output_error,
    remove_folder,
    sweep,
    write_bytes,
    write_json,
    write_text,
    writing,
)

HOLDER = """
import sys
from pathlib import Path
from mlx_distill.files import exclusive
with exclusive(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_write_replaces_the_whole_file_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "a.txt"
    write_text(path, "long " * 1000)
    write_text(path, "é🙂")
    assert path.read_text("utf-8") == "é🙂"
    assert names(path.parent) == ["a.txt"]


def test_who_reads_the_old_file_reads_it_to_its_end(tmp_path: Path) -> None:
    write_text(tmp_path / "a", "old")
    with (tmp_path / "a").open() as file:
        write_text(tmp_path / "a", "new")
        assert file.read() == "old"


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DoesNotFit, match=r"a\.txt: cannot be written: the disk is full"):
        write_text(path, "new")
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_an_interrupted_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")

    def interrupted(descriptor: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_text(path, "new")
    assert (path.read_text(), names(tmp_path)) == ("old", ["a.txt"])


def test_a_written_file_has_the_permissions_of_any_new_file(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    write_bytes(tmp_path / "ours", b"")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").write_text("old")
    (tmp_path / "link").symlink_to("real")
    write_text(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_text() == "new"


def test_json_is_readable_and_takes_any_text(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"text": "é\ud800\0", "n": 1.5})
    assert json.loads((tmp_path / "a.json").read_text("utf-8")) == {"text": "é\ud800\0", "n": 1.5}
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "a.json", {"n": float("nan")})


def test_places_of_the_wrong_kind_are_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="it is a folder, not a file"):
        write_text(tmp_path, "")
    with pytest.raises(OutputError, match="a file stands where a folder is needed"):
        write_text(tmp_path / "file" / "x", "")
    with pytest.raises(OutputError, match="the name is too long"):
        write_text(tmp_path / ("x" * 300), "")
    with pytest.raises(OutputError, match="not a regular file"):
        write_text(Path("/dev/null"), "")
    with pytest.raises(OutputError, match="a file stands there already"), atomic_folder(tmp_path / "file"):
        pass
    with pytest.raises(OutputError, match="the folder is not empty"), atomic_folder(tmp_path):
        pass


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(OutputError, match="no permission"):
        write_text(tmp_path / "a", "")


@pytest.mark.parametrize(
    ("number", "kind", "word"),
    [
        (errno.ENOSPC, DoesNotFit, "full"),
        (errno.EDQUOT, DoesNotFit, "full"),
        (errno.EROFS, OutputError, "read-only"),
        (errno.EACCES, OutputError, "permission"),
        (errno.EIO, OutputError, os.strerror(errno.EIO)),
    ],
)
def test_what_the_system_says_becomes_an_error_with_the_path(number: int, kind: type[DistillError], word: str) -> None:
    error = output_error(Path("some/file"), OSError(number, os.strerror(number)))
    assert type(error) is kind
    assert word in error.message
    assert error.file == "some/file"
    with pytest.raises(kind), writing(Path("x")):
        raise OSError(number, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_stream_to_a_full_disk_says_so() -> None:
    path = Path("/dev/full")
    with pytest.raises(DoesNotFit), writing(path), path.open("w") as file:
        file.write("x")


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "out"
    with pytest.raises(RuntimeError), atomic_folder(path) as folder:
        (folder / "a").write_text("half")
        raise RuntimeError
    assert names(path.parent) == []
    with atomic_folder(path) as folder:
        (folder / "sub").mkdir()
        (folder / "sub" / "a").write_text("whole")
        assert not path.exists()
    assert (path / "sub" / "a").read_text() == "whole"
    assert names(path.parent) == ["out"]


@pytest.mark.parametrize("what", ["atomic_file", "atomic_folder"])
def test_what_a_killed_process_left_is_swept_away_by_the_next_writer_beside_it(tmp_path: Path, what: str) -> None:
    script = f"import os, sys; from pathlib import Path; from mlx_distill.files import {what}\n"
    script += f"with {what}(Path(sys.argv[1])): os.kill(os.getpid(), 9)"
    (tmp_path / ".other").mkdir()
    for name in ("first", "second"):  # the second process dies too, but not before it has swept
        died = subprocess.run([sys.executable, "-c", script, str(tmp_path / name)], check=False)
        assert died.returncode == -signal.SIGKILL
        (left,) = set(names(tmp_path)) - {".other"}
        assert left.startswith(".mlx-distill.")
    with atomic_folder(tmp_path / "out") as folder:
        assert set(names(tmp_path)) == {folder.name, ".other"}
    write_text(tmp_path / "text", "")
    assert names(tmp_path) == [".other", "out", "text"]


def test_what_a_living_process_writes_is_not_swept_away(tmp_path: Path) -> None:
    with atomic_folder(tmp_path / "slow") as slow, atomic_file(tmp_path / "file") as file:
        (slow / "a").write_text("slow")
        file.write(b"text")
        with atomic_folder(tmp_path / "fast") as fast:
            (fast / "a").write_text("fast")
    assert {name: (tmp_path / name / "a").read_text() for name in ("slow", "fast")} == {"slow": "slow", "fast": "fast"}
    assert names(tmp_path) == ["fast", "file", "slow"]


def test_a_place_that_was_taken_meanwhile_stays_as_it_is(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="another process"), atomic_folder(tmp_path / "out") as folder:
        (folder / "a").write_text("slower")
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "a").write_text("faster")
    assert (tmp_path / "out" / "a").read_text() == "faster"
    assert names(tmp_path) == ["out"]


def test_a_disk_without_locks_is_written_to_and_never_swept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".mlx-distill.left").touch()

    def flock(descriptor: int, operation: int) -> None:
        raise OSError(errno.EBADF, "Bad file descriptor")  # NFS, of a file that is open for reading

    monkeypatch.setattr(fcntl, "flock", flock)
    write_text(tmp_path / "a", "text")
    assert names(tmp_path) == [".mlx-distill.left", "a"]


def test_all_of_a_folder_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fsync, rename = os.fsync, os.rename
    synced: set[int] = set()
    missing: list[str] = []

    def watched_fsync(descriptor: int) -> None:
        synced.add(os.fstat(descriptor).st_ino)
        fsync(descriptor)

    def watched_rename(old: Path, new: Path) -> None:
        missing.extend(path.name for path in [old, *old.rglob("*")] if path.stat().st_ino not in synced)
        rename(old, new)

    monkeypatch.setattr(os, "fsync", watched_fsync)
    monkeypatch.setattr(os, "rename", watched_rename)
    with atomic_folder(tmp_path / "out") as folder:
        (folder / "sub").mkdir()
        (folder / "sub" / "a").write_text("written by whoever")
    assert missing == []
    assert tmp_path.stat().st_ino in synced, "the name itself"


def test_a_folder_that_is_removed_is_gone_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with atomic_folder(tmp_path / "out") as folder:
        (folder / "a").touch()

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", killed)
        with pytest.raises(KeyboardInterrupt):
            remove_folder(tmp_path / "out")
    (left,) = names(tmp_path)
    assert left.startswith(".mlx-distill.")
    sweep(tmp_path)
    assert names(tmp_path) == []


def test_what_killed_processes_left_is_swept_from_a_whole_tree_but_nothing_in_use(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "a", tmp_path / "a" / "b", tmp_path / "a" / ".mlx-distill.left"):
        folder.mkdir(exist_ok=True)
        (folder / ".mlx-distill.x").touch()
    with atomic_file(tmp_path / "a" / "text") as file:
        (tmp_path / "a" / ".kept").touch()
        sweep(tmp_path)
        file.write(b"in use")
    assert [path.relative_to(tmp_path).as_posix() for path in sorted(tmp_path.rglob("*"))] == ["a", "a/.kept", "a/b", "a/text"]
    assert (tmp_path / "a" / "text").read_bytes() == b"in use"


def test_an_empty_folder_may_be_filled(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with atomic_folder(tmp_path / "out") as folder:
        (folder / "a").touch()
    assert names(tmp_path / "out") == ["a"]


def test_a_place_in_use_by_another_process_is_refused_until_that_dies(tmp_path: Path) -> None:
    path = tmp_path / "run"
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(OutputError, match=f"run: is in use by process {holder.pid}"), exclusive(path):
            pass
        holder.kill()
        holder.wait()
    with exclusive(path):
        pass
    assert names(tmp_path) == []


def test_a_place_is_held_once_even_within_a_process(tmp_path: Path) -> None:
    with exclusive(tmp_path / "run"):
        with pytest.raises(OutputError, match="in use"), exclusive(tmp_path / "run"):
            pass
        with pytest.raises(OutputError, match="in use"), exclusive(tmp_path / "run"):
            pass
        with exclusive(tmp_path / "other"), atomic_folder(tmp_path / "run"):
            pass


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b"", b""),
        (b"a\n", b"a\n"),
        (b"a\nb", b"a\n"),
        (b"torn", b""),
        (b"a\n" + b"x" * 200_000, b"a\n"),
        (b"x" * 200_000 + b"\ny", b"x" * 200_000 + b"\n"),
    ],
)
def test_a_torn_last_line_is_cut_off(tmp_path: Path, before: bytes, after: bytes) -> None:
    path = tmp_path / "lines"
    path.write_bytes(before)
    assert drop_torn_line(path) == len(before) - len(after)
    assert path.read_bytes() == after
    assert drop_torn_line(tmp_path / "none") == 0
