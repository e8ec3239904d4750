"""Several processes that torchrun starts train as one would: the same step on each, one run on the disk, and one voice."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from subprocess import DEVNULL, PIPE
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from mlx_distill.backends.torch.ranks import join
from mlx_distill.errors import BackendError
from tests import runs
from tests.backends import plain
from tests.backends.torch.training_together import learned
from tests.checkpoints import make_checkpoint
from tests.conftest import MakeBase
from tests.students import call, recipe, water, write_lines
from tests.test_ranks import batches, ended, losses

HOME = Path(__file__).parents[3]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
WITHOUT = "import sys; sys.modules['mlx'] = None  # as where it is not installed\n"
WORK = WITHOUT + "from tests.backends.torch.training_together import work; work(*sys.argv[1:])"
MAIN = WITHOUT + "from mlx_distill.cli.main import main; main()"
FALLS = (
    WITHOUT
    + """
import os, signal
from mlx_distill.backends.torch import student
from mlx_distill.cli.main import main

update, left = student.TorchStudent.update, int(sys.argv.pop(1))

def killed(*arguments, **named):
    global left
    left -= 1
    if not left and os.environ["RANK"] == "1":
        os.kill(os.getpid(), signal.SIGKILL)
    return update(*arguments, **named)

student.TorchStudent.update = killed
main()
"""
)
"""The command line, of which the second process kills itself in an update."""


def launched(code: str, arguments: Sequence[object], folder: Path) -> subprocess.CompletedProcess[str]:
    """Two processes of torchrun."""
    (folder / "code.py").write_text(code)
    known = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(HOME)}
    command = [*TORCHRUN, folder / "code.py", *arguments]
    return subprocess.run([*map(str, command)], capture_output=True, text=True, stdin=DEVNULL, timeout=100, cwd=HOME, env=known)


def started(arguments: Sequence[object], folder: Path) -> list[subprocess.Popen[str]]:
    """Two processes, told what torchrun tells them; it ends the others itself where one ends, and this shows what they do."""
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        port = place.getsockname()[1]
    known = {**os.environ, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    command = [sys.executable, *map(str, arguments)]
    return [
        subprocess.Popen(
            command, env={**known, "RANK": rank, "LOCAL_RANK": rank}, cwd=HOME, stdin=DEVNULL, stdout=PIPE, stderr=PIPE, text=True
        )
        for rank in "01"
    ]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A recipe, its rows, its checkpoint, and a folder for what is temporary; `one` is its run by one process."""
    folder = tmp_path_factory.mktemp("ranks")
    checkpoint = make_checkpoint(folder / "checkpoint")
    write_lines(folder / "rows.jsonl", water())
    recipe(folder / "recipe.yaml", base={"model": str(checkpoint), "dtype": "float32"}, lora={"dropout": 0.0})
    (folder / "temporary").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLX_DISTILL_CACHE", str(folder / "cache"))
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setenv("TMPDIR", str(folder / "temporary"))
        assert call("train", folder / "recipe.yaml", "--out", folder / "one", "--backend", "torch").code == 0
        yield folder


def test_alone_there_are_no_ranks_and_nothing_waits() -> None:
    assert join({}) is None
    assert join({"RANK": "3"}) is None, "other launchers number processes too"
    assert join({"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}) is None
    assert join({"RANK": "", "WORLD_SIZE": "x"}) is None


@pytest.mark.parametrize("name", ["LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"])
def test_a_process_that_cannot_meet_the_others_does_not_train_alone(name: str) -> None:
    known = {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    for told in ({key: value for key, value in known.items() if key != name}, {**known, name: ""}):
        with pytest.raises(BackendError, match=f"this is process 1 of 2, and the environment lacks {name}:") as caught:
            join(told)
        assert "unset RANK and WORLD_SIZE" in str(caught.value.hint)
    with pytest.raises(BackendError, match="lacks LOCAL_RANK, MASTER_ADDR, MASTER_PORT"):
        join({"RANK": "1", "WORLD_SIZE": "2"})


def test_two_processes_with_a_share_each_are_one(base: MakeBase, tmp_path: Path) -> None:
    folder = base(num_hidden_layers=2)
    every = [*batches()]
    (tmp_path / "batches").write_bytes(pickle.dumps(every))
    assert ended(started(["-c", WORK, folder, tmp_path / "batches", tmp_path], tmp_path)) == [(0, "", "")] * 2
    first, second = (json.loads((tmp_path / rank / "said.json").read_text()) for rank in "01")
    assert json.dumps(first) == json.dumps(second), "every rank returns the same, to the last bit"
    _has_the_bits_of_one(folder, every, first, tmp_path)
    assert first["told"] == ["\x00\xffgo on", "", "x" * 100_000]
    assert first["any"] == [True, False, True]
    numbers = [np.random.default_rng(rank) for rank in (0, 1)]
    sizes = [(3, 5), (7,), ((1 << 24) + 5,), (2, 2)]
    wanted = [sum(float(each.normal(0, 1, size).astype(np.float32).astype(float).sum()) for each in numbers) for size in sizes]
    assert first["sums"] == pytest.approx(wanted, abs=1e-2)
    assert [tuple(shape) for shape in first["shapes"]] == sizes
    assert first["computed"] == 21
    gone = (tmp_path / "0" / "gone.txt").read_text()
    assert "a process that trains with this one is gone" in gone and "--resume" in gone


def _has_the_bits_of_one(folder: Path, every: list[Any], said: dict[str, Any], out: Path) -> None:
    """The same losses, norms and weights as one process comes to."""
    alone = json.loads(json.dumps(learned(folder, every, None, out / "alone")))
    weights, wanted = (load_file(out / name / "adapter_model.safetensors") for name in ("0", "alone"))
    assert (out / "0" / "adapter_model.safetensors").read_bytes() == (out / "1" / "adapter_model.safetensors").read_bytes()
    assert plain.distance(weights, wanted) <= 1e-5
    applied = [True, True, True, True, False, True]
    assert [step["applied"] for step in said["steps"]] == [step["applied"] for step in alone["steps"]] == applied
    for ours, theirs in zip([*said["steps"], said], [*alone["steps"], alone], strict=True):
        mine, other = (each.get("row_losses") or each["losses"] for each in (ours, theirs))
        assert list(mine) == list(other), "in the order of the rows"
        for name in mine:
            assert mine[name]["tokens"] == other[name]["tokens"]
            assert mine[name]["nats"] == pytest.approx(other[name]["nats"], rel=1e-5, nan_ok=True)
        if ours.get("applied"):
            assert ours["grad_norm"] == pytest.approx(theirs["grad_norm"], rel=1e-5)


def test_two_commands_train_what_one_does_and_the_first_alone_writes_and_speaks(place: Path) -> None:
    done = launched(MAIN, ["train", place / "recipe.yaml", "--out", place / "two", "--json"], place)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["stopped"] == "done" and done.stdout.count("\n") == 1
    assert done.stderr == ""
    assert runs.faults(place / "two") == []
    assert list((place / "temporary").glob("mlx-distill-*")) == []
    assert losses(place / "two") == pytest.approx(losses(place / "one"), rel=1e-5)
    ours, theirs = (load_file(place / run / "adapter" / runs.WEIGHTS) for run in ("two", "one"))
    assert plain.distance(ours, theirs) <= 1e-5
    assert [event["name"] for event in runs.story(place / "two")] == [event["name"] for event in runs.story(place / "one")]


def test_a_process_that_dies_ends_the_others_with_an_error_and_what_was_saved_is_whole(place: Path, tmp_path: Path) -> None:
    command = ["-c", FALLS, 8, "train", place / "recipe.yaml", "--out", tmp_path / "run"]
    (code, out, err), (killed, *_) = ended(started(command, tmp_path))
    shutil.rmtree(place / "temporary")  # who is killed cannot clear up
    (place / "temporary").mkdir()
    assert (code, out, killed) == (2, "", -signal.SIGKILL)
    assert err.count("error: a process that trains with this one is gone") == 1 and "--resume" in err
    assert "Traceback" not in err
    assert runs.faults(tmp_path / "run") == []
    alone = call("train", place / "recipe.yaml", "--out", tmp_path / "run", "--resume")
    assert alone.code == 0 and "going on at step 6" in alone.err
    assert losses(tmp_path / "run") == pytest.approx(losses(place / "one"), rel=1e-4)
