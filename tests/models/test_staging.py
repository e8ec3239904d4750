"""A staged folder is there whole or not at all, and only the dead's leftovers are swept away."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mlx_distill.errors import OutputError
from mlx_distill.models.staging import staged, write_file


def test_a_folder_appears_when_the_block_ends(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "out"
    with staged(out) as folder:
        write_file(folder / "a", b"text")
        assert not out.exists() and folder.parent == out.parent and folder.name.startswith(".")
    assert (out / "a").read_bytes() == b"text"
    assert list(out.parent.iterdir()) == [out]


def test_a_block_that_fails_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyError), staged(tmp_path / "out") as folder:
        write_file(folder / "a", b"text")
        raise KeyError
    assert list(tmp_path.iterdir()) == []


def test_a_living_writers_folder_is_not_swept_away(tmp_path: Path) -> None:
    with staged(tmp_path / "slow") as slow:
        write_file(slow / "a", b"slow")
        with staged(tmp_path / "fast") as fast:
            write_file(fast / "a", b"fast")
    assert {path.name: (path / "a").read_bytes() for path in tmp_path.iterdir()} == {"slow": b"slow", "fast": b"fast"}


def test_what_a_killed_process_left_is_swept_away_by_the_next(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys; from pathlib import Path; from mlx_distill.models.staging import staged, write_file\n"
        "with staged(Path(sys.argv[1])) as folder:\n"
        "    write_file(folder / 'a', b'text'); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    died = subprocess.run([sys.executable, "-c", code, str(tmp_path / "out")], check=False)
    assert died.returncode == -signal.SIGKILL
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(".mlx-distill.") and (left / "a").exists()
    (tmp_path / ".other").mkdir()
    with staged(tmp_path / "next"):
        assert not left.exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == [".other", "next"]


def test_a_place_that_was_taken_meanwhile_stays_as_it_is(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="another process"), staged(tmp_path / "out") as folder:
        write_file(folder / "a", b"slower")
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "a").write_bytes(b"faster")
    assert (tmp_path / "out" / "a").read_bytes() == b"faster"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is read-only to root")
def test_a_read_only_parent_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(OutputError, match="Permission denied"), staged(tmp_path / "out"):
        pass
    tmp_path.chmod(0o700)
