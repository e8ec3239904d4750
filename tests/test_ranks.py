"""Several processes that mlx.launch starts train as one would: the same step on each, one run on the disk, and one voice."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from subprocess import DEVNULL, PIPE
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from safetensors.numpy import load_file

from mlx_distill.backends.base import LoraShape
from mlx_distill.backends.mlx.ranks import MlxRanks, join
from mlx_distill.backends.shares import share
from mlx_distill.records import Group
from tests import runs
from tests.backends import plain
from tests.checkpoints import make_checkpoint
from tests.conftest import MakeBase
from tests.students import call, recipe, water, write_lines

pytestmark = pytest.mark.skipif(not mx.distributed.is_available("ring"), reason="this MLX has no ring")

SHAPE = LoraShape(4, 8, 0.0, ("q_proj", "v_proj", "down_proj"))
HOME = Path(__file__).parents[1]
LIGHT = "import sys; sys.modules['torch'] = None  # as where it is not installed: transformers takes seconds to import it\n"
WORK = LIGHT + "from tests.test_ranks import work; work(*sys.argv[1:])"
MAIN = LIGHT + "from mlx_distill.cli.main import main; main()"
FALLS = (
    LIGHT
    + """
import os
from mlx_distill.backends.choose import choose
choose("mlx")  # brings its BLAS before MLX comes
from mlx_distill.backends.mlx import student
from mlx_distill.cli.main import main

update, (rank, left, number) = student.MlxStudent.update, map(int, sys.argv.pop(1).split(","))

def signalled(*arguments, **named):
    global left
    left -= 1
    if not left and os.environ["MLX_RANK"] == str(rank):
        os.kill(os.getpid(), number)
    return update(*arguments, **named)

student.MlxStudent.update = signalled
main()
"""
)
"""The command line, of which a rank sends itself a signal in an update."""


def batches() -> Iterator[list[Group]]:
    """Uneven rows; a batch with one row, so that a rank has none; one whose loss is no number, by a row of one rank."""
    generator = np.random.default_rng(5)
    for lengths in ([[4, 11, 2], [7], [3, 5]], [[30, 2, 2, 2, 2]], [[6]], [[1, 2], [3, 4]]):
        yield [plain.random_group(generator, 9, lengths), plain.random_group(generator, 0, [[12, 6], [8]])][: 1 + (len(lengths) > 1)]
    whole = plain.random_group(generator, 5, [[4, 3, 6]])
    row = whole.micro_batches[0][0]
    yield [replace(whole, micro_batches=[[replace(row, weight=row.weight * np.inf), *whole.micro_batches[0][1:]]])]
    yield [plain.random_group(generator, 20, [[5, 5], [5, 5]], closed=True)]


def learned(base: Path, ranks: MlxRanks | None, adapter: Path) -> dict[str, Any]:
    """What a student says of each batch, and of the last one's rows in the end; and its adapter."""
    student = plain.open_student(base)
    student.prepare(SHAPE, optimizer="adamw", weight_decay=0.01, initial=plain.random_adapter(base, SHAPE), seed=0, ranks=ranks)
    steps = [
        student.update(batch, learning_rate=1e-3 * (1 + step), clip_norm=0.5, step=step) for step, batch in enumerate([*batches()] * 2)
    ]
    losses = student.loss(next(batches()))
    student.save_adapter(adapter)
    return {
        "steps": [asdict(step) for step in steps],
        "losses": {name: asdict(loss) for name, loss in losses.items()},
        "told": ranks.told(b"\x00\xffgo on" if ranks.rank == 0 else None).decode("latin-1") if ranks else None,
        "any": [ranks.any(ranks.rank == 1), ranks.any(False)] if ranks else None,
    }


def work(base: str, out: str) -> None:
    """What each of the processes does."""
    ranks = join(os.environ)
    assert ranks is not None
    place = Path(out) / str(ranks.rank)
    place.mkdir()
    (place / "said.json").write_text(json.dumps(learned(Path(base), ranks, place)))


def started(arguments: Sequence[object], folder: Path) -> list[subprocess.Popen[str]]:
    """Two processes, as mlx.launch starts them (which hides how they end)."""
    with socket.socket() as one, socket.socket() as other:
        for place in (one, other):
            place.bind(("127.0.0.1", 0))
        hosts = [[f"127.0.0.1:{place.getsockname()[1]}"] for place in (one, other)]
    (folder / "hosts.json").write_text(json.dumps(hosts))
    known = {**os.environ, "MLX_HOSTFILE": str(folder / "hosts.json")}
    command = [sys.executable, *map(str, arguments)]

    def start(rank: int) -> subprocess.Popen[str]:
        environment = {**known, "MLX_RANK": str(rank)}
        return subprocess.Popen(command, env=environment, cwd=HOME, stdin=DEVNULL, stdout=PIPE, stderr=PIPE, text=True)

    return [start(rank) for rank in range(2)]


def ended(processes: Sequence[subprocess.Popen[str]]) -> list[tuple[int, str, str]]:
    """Exit code, standard output, standard error of each."""
    try:
        said = [process.communicate(timeout=100) for process in processes]
    finally:
        for process in processes:
            process.kill()  # of one that waits for ever
    return [(process.returncode, out, err) for process, (out, err) in zip(processes, said, strict=True)]


def ours(text: str) -> str:
    """Standard error without what MLX itself says of a lost connection."""
    return "".join(line for line in text.splitlines(keepends=True) if not line.startswith("[ring]"))


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
        assert call("train", folder / "recipe.yaml", "--out", folder / "one", "--backend", "mlx").code == 0
        yield folder


@pytest.fixture(scope="module")
def two(place: Path) -> tuple[Path, list[tuple[int, str, str]]]:
    """The run of two processes that nobody disturbs, and how they ended."""
    command = ["-c", MAIN, "train", place / "recipe.yaml", "--out", place / "two", "--json"]
    return place / "two", ended(started(command, place))


def free_ports() -> int:
    """The first of two that are free, one after the other."""
    while True:
        with socket.socket() as one, socket.socket() as other:
            one.bind(("127.0.0.1", 0))
            first: int = one.getsockname()[1]
            try:
                other.bind(("127.0.0.1", first + 1))
                return first
            except (OSError, OverflowError):
                continue


def losses(run: Path) -> list[float]:
    return [event["loss"] for event in runs.story(run) if event["name"] == "step"]


# Shares


def test_every_row_is_somebody_s_and_nobody_has_much_more_to_do() -> None:
    generator = np.random.default_rng(0)
    for size in (1, 2, 3, 5):
        for prefix in (0, 3, 200):
            lengths = [generator.integers(1, 60, generator.integers(1, 9)).tolist() for _ in range(generator.integers(1, 5))]
            groups = [plain.random_group(generator, prefix, lengths), plain.random_group(generator, 0, [[9, 4]])]
            shares = share(groups, size)
            assert len(shares) == size
            ids = [row.id for part in shares for group in part for row in group.rows]
            assert sorted(ids) == sorted(row.id for group in groups for row in group.rows)
            assert all(
                len(batch) <= max(map(len, lengths)) for part in shares for group in part for batch in group.micro_batches if group.rows
            )
            assert all(group.micro_batches and all(group.micro_batches) for part in shares for group in part)
            tokens = [sum(len(group.prefix) + sum(len(row.tokens) for row in group.rows) for group in part) for part in shares]
            assert max(tokens) - min(tokens) <= prefix + 60, "the longest row, and a prefix"
    assert share(groups, 1)[0][0].rows == sorted(share(groups, 1)[0][0].rows, key=groups[0].rows.index), "in the batch's order"
    assert share([], 2) == [[], []]


def test_shares_are_even_in_tokens_not_in_rows() -> None:
    generator = np.random.default_rng(0)
    lengths = [[sorted(len(row.tokens) for row in group.rows) for group in part] for part in share([group_of(generator, 0)], 2)]
    assert lengths == [[[30]], [[5, 5, 5, 5, 10]]]
    behind = share([group_of(generator, 40), plain.random_group(generator, 0, [[3]]), plain.random_group(generator, 100, [[2]])], 2)
    assert [[len(group.prefix) for group in part] for part in behind] == [[40, 0], [40, 100]], "40 + 30 + 3, and 40 + 30 + 102"


def group_of(generator: np.random.Generator, prefix: int) -> Group:
    return plain.random_group(generator, prefix, [[30, 5, 5], [5, 5, 10]])


def test_alone_there_are_no_ranks_and_nothing_waits(tmp_path: Path) -> None:
    (tmp_path / "hosts").write_text("\n")
    assert join({}) is None
    assert join({"MLX_RANK": "0", "MLX_HOSTFILE": str(tmp_path / "hosts")}) is None, "mlx.launch -n 1"


# Two processes


def test_two_processes_of_mlx_launch_with_a_share_each_are_one(base: MakeBase, tmp_path: Path) -> None:
    folder = base(num_hidden_layers=2)
    launcher = [Path(sys.executable).with_name("mlx.launch"), "-n", "2", "--backend", "ring", "--starting-port", free_ports()]
    command = [str(part) for part in (*launcher, "--", sys.executable, "-c", WORK, folder, tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, stdin=DEVNULL, timeout=100, check=True, cwd=HOME)
    assert (done.stdout, done.stderr) == ("", "")
    first, second = (json.loads((tmp_path / rank / "said.json").read_text()) for rank in "01")
    alone = json.loads(json.dumps(learned(folder, None, tmp_path / "alone")))
    assert json.dumps(first) == json.dumps(second), "every rank returns the same, to the last bit"
    adapters = [(tmp_path / name / "adapter_model.safetensors").read_bytes() for name in "01"]
    assert adapters[0] == adapters[1]
    assert (first["told"], first["any"]) == ("\x00\xffgo on", [True, False])
    weights, wanted = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("0", "alone"))
    assert plain.distance(weights, wanted) <= 1e-5
    assert (
        [step["applied"] for step in first["steps"]]
        == [step["applied"] for step in alone["steps"]]
        == [True, True, True, True, False, True] * 2
    )
    for ours, theirs in zip([*first["steps"], first], [*alone["steps"], alone], strict=True):
        mine, other = (said.get("row_losses") or said["losses"] for said in (ours, theirs))
        assert list(mine) == list(other), "in the order of the rows"
        for name in mine:
            assert mine[name]["tokens"] == other[name]["tokens"]
            assert mine[name]["nats"] == pytest.approx(other[name]["nats"], rel=1e-5, nan_ok=True)
        if ours.get("applied"):
            assert ours["grad_norm"] == pytest.approx(theirs["grad_norm"], rel=1e-5)
            assert ours["loss"]["tokens"] == pytest.approx(theirs["loss"]["tokens"], rel=1e-12)
    assert sum(step["computed"] for step in first["steps"]) > sum(step["computed"] for step in alone["steps"]), "a prefix on each"


def test_two_commands_train_what_one_does_and_the_first_alone_writes_and_speaks(
    place: Path, two: tuple[Path, list[tuple[int, str, str]]]
) -> None:
    run, [(code, out, err), follower] = two
    assert (code, err, follower) == (0, "", (0, "", ""))
    assert json.loads(out)["stopped"] == "done" and out.count("\n") == 1
    assert runs.faults(run) == []
    assert list((place / "temporary").glob("mlx-distill-*")) == []
    assert [name for name in runs.leftovers(run) if name.startswith(run.name)] == []
    assert losses(run) == pytest.approx(losses(place / "one"), rel=1e-5)
    ours, theirs = (load_file(path / "adapter" / runs.WEIGHTS) for path in (run, place / "one"))
    assert plain.distance(ours, theirs) <= 1e-5
    assert [event["name"] for event in runs.story(run)] == [event["name"] for event in runs.story(place / "one")]


def test_ctrl_c_for_one_stops_all_after_the_same_step_and_all_go_on_to_the_same_end(
    place: Path, two: tuple[Path, list[tuple[int, str, str]]], tmp_path: Path
) -> None:
    command = ["-c", FALLS, f"1,5,{signal.SIGINT:d}", "train", place / "recipe.yaml", "--out", tmp_path / "run"]
    (code, out, err), follower = ended(started(command, tmp_path))
    assert (code, out, follower) == (130, "", (130, "", ""))
    assert "stopped after step 5; it is saved (--resume goes on)" in err
    assert runs.faults(tmp_path / "run") == []
    command = ["-c", MAIN, "train", place / "recipe.yaml", "--out", tmp_path / "run", "--resume"]
    (code, _, err), follower = ended(started(command, tmp_path))
    assert (code, follower) == (0, (0, "", "")), err
    assert "going on at step 5" in err
    assert runs.differences(tmp_path / "run", two[0]) == []
    assert list((place / "temporary").glob("mlx-distill-*")) == []


def test_a_process_that_dies_ends_the_others_with_an_error_and_what_was_saved_is_whole(place: Path, tmp_path: Path) -> None:
    command = ["-c", FALLS, f"1,8,{signal.SIGKILL:d}", "train", place / "recipe.yaml", "--out", tmp_path / "run"]
    (code, out, err), (killed, *_) = ended(started(command, tmp_path))
    shutil.rmtree(place / "temporary")  # who is killed cannot clear up
    (place / "temporary").mkdir()
    assert (code, out, killed) == (2, "", -signal.SIGKILL)
    assert ours(err).count("error: a process that trains with this one is gone") == 1 and "--resume" in err
    assert "Traceback" not in err
    assert runs.faults(tmp_path / "run") == []
    alone = call("train", place / "recipe.yaml", "--out", tmp_path / "run", "--resume")
    assert alone.code == 0 and "going on at step 6" in alone.err
    assert losses(tmp_path / "run") == pytest.approx(losses(place / "one"), rel=1e-4)


def test_a_mistake_is_told_once_and_ends_all(place: Path, tmp_path: Path) -> None:
    command = ["-c", MAIN, "train", place / "recipe.yaml", "--out", tmp_path / "run", "--set", "train.epochs=0"]
    (code, _, err), follower = ended(started(command, tmp_path))
    assert (code, follower) == (2, (2, "", ""))
    assert "train.epochs" in err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("rank", ["0", "1"])
def test_what_is_the_work_of_one_process_is_refused_and_told_once(monkeypatch: pytest.MonkeyPatch, place: Path, rank: str) -> None:
    monkeypatch.setenv("MLX_RANK", rank)
    said = call("infer", place / "one", place / "rows.jsonl", place / "answers.jsonl")
    assert said.code == 2
    assert ("start it without mlx.launch" in said.err) == (rank == "0")
    assert not (place / "answers.jsonl").exists()
