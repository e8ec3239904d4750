"""Each tracker through its own library, and what stands there read back with that library. Where one is not installed, it is skipped.

wandb is offline, MLflow keeps its files in a folder.
"""

from __future__ import annotations

import io
import json
import struct
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mlx_distill.errors import DistillError
from mlx_distill.observe.events import Event
from mlx_distill.observe.progress import Progress
from mlx_distill.observe.reporting import reporting
from mlx_distill.observe.trackers import Card

RECIPE = {"name": "floods", "train": {"epochs": 2}, "task": {"instructions": "x" * 9000, "fields": {"a b:c": {"type": "flag"}}}}
Curves = dict[str, list[tuple[int, float]]]


def from_tensorboard(folder: Path) -> Curves:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    held = EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0})
    held.Reload()
    return {name: [(event.step, event.value) for event in held.Scalars(name)] for name in held.Tags()["scalars"]}


def from_mlflow(folder: Path) -> Curves:
    from mlflow import MlflowClient

    client, run = MlflowClient(), json.loads((folder / "trackers.json").read_text())["mlflow"]
    names = client.get_run(run).data.metrics
    return {name: [(metric.step, metric.value) for metric in client.get_metric_history(run, name)] for name in names}


def from_wandb(folder: Path) -> Curves:
    import wandb

    wandb.teardown()  # as at the process's end: until its service is gone, the last lines may not be in the file
    found: Curves = {}
    for path in sorted(folder.glob("wandb/offline-run-*/*.wandb"), key=lambda path: path.stat().st_mtime_ns):
        for record in records(path):
            if record.WhichOneof("record_type") == "history":
                row = {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
                for name in row.keys() - {"_step", "_runtime", "_timestamp"}:
                    found.setdefault(name, []).append((row["_step"], row[name]))
    return found


def records(path: Path) -> Iterator[Any]:
    """wandb's file is a log of LevelDB's: after 7 bytes, pieces (checksum, length, kind) in blocks of 32 KiB; 1 and 4 end a record."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, at, whole = path.read_bytes(), 7, b""
    while at + 7 <= len(data):
        if (left := -at % 32768) and left < 7:
            at += left
            continue
        _, length, kind = struct.unpack_from("<IHB", data, at)
        whole += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):
            yield Record.FromString(whole)
            whole = b""


READERS: dict[str, Callable[[Path], Curves]] = {"tensorboard": from_tensorboard, "mlflow": from_mlflow, "wandb": from_wandb}


@pytest.fixture(params=READERS)
def tracker(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    pytest.importorskip(request.param)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlruns").as_uri())
    return str(request.param)


def events(first: int, last: int) -> list[Event]:
    """Steps, with a validation every fourth."""
    found: list[Event] = []
    for step in range(first, last + 1):
        own = {"step": step, "time": f"2026-01-02T03:04:{step:02}Z"}
        found.append({"name": "step", **own, "loss": 1 / step, "tokens": 9 * step})
        if step % 4 == 0:
            found.append(
                {"name": "validated", **own, "valid_loss": 2 / step, "train_loss": 1 / step, "best": True, "metrics": {"mae": 0.5}}
            )
    return found


def session(tracker: str, folder: Path, told: list[Event], history: list[Event], *, killed: bool = False, **recipe: Any) -> str:
    """One training session; what it said."""
    said = io.StringIO()
    card = Card("floods run", folder, {**RECIPE, **recipe}, {})
    try:
        with reporting([tracker], card, history, Progress(stream=said)) as report:
            for event in told:
                report(event)
            print("a line of ours", file=sys.stderr)
            if killed:
                raise SystemExit
    except SystemExit:
        pass
    return said.getvalue()


def test_a_resumed_training_goes_on_in_the_same_curves_with_each_step_once(tracker: str, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    session(tracker, run, events(1, 6), [], killed=True)
    before = (run / "trackers.json").read_text()
    # the checkpoint was that of step 4: 5 and 6 are computed again
    said = session(tracker, run, events(5, 9), events(1, 6), train={"epochs": 3})
    assert (run / "trackers.json").read_text() == before
    curves = READERS[tracker](run)
    assert curves["train/loss"] == [(step, pytest.approx(1 / step)) for step in range(1, 10)]
    assert curves["valid/loss"] == [(4, 0.5), (8, 0.25)]
    assert set(curves) == {"train/loss", "train/tokens", "valid/loss", "valid/train_loss", "valid/mae"}
    assert f"\nreporting to {tracker}: " in said
    assert "warning" not in said


def test_a_tracker_that_comes_later_is_told_what_it_missed(tracker: str, tmp_path: Path) -> None:
    session(tracker, tmp_path, events(5, 6), events(1, 4))
    assert [step for step, _ in READERS[tracker](tmp_path)["train/loss"]] == [1, 2, 3, 4, 5, 6]


def test_mlflow_gets_the_recipe_as_parameters_and_a_later_change_as_a_tag(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mlflow")
    from mlflow import MlflowClient

    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlruns").as_uri())
    session("mlflow", tmp_path, events(1, 2), [], killed=True)
    run = json.loads((tmp_path / "trackers.json").read_text())["mlflow"]
    assert MlflowClient().get_run(run).info.status == "FAILED"
    session("mlflow", tmp_path, [*events(3, 3), {"name": "interrupted", "step": 3, "time": ""}], events(1, 2), train={"epochs": 3})
    found = MlflowClient().get_run(run)
    assert (found.info.run_name, found.info.status) == ("floods run", "KILLED")
    assert found.data.params["train.epochs"] == "2"
    assert found.data.tags["recipe.train.epochs"] == "3"
    assert found.data.params["task.fields.a b_c.type"] == "flag"


def test_wandb_gets_the_recipe_and_nothing_that_is_printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    session("wandb", tmp_path, events(1, 2), [])
    wandb.teardown()
    (path,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    kinds = {record.WhichOneof("record_type"): record for record in records(path)}
    run = kinds["run"].run
    config = {item.key: json.loads(item.value_json) for item in run.config.update}
    assert (run.display_name, run.project, config["train"]) == ("floods run", "mlx-distill", {"epochs": 2})
    assert kinds["exit"].exit.exit_code == 0
    assert kinds.keys().isdisjoint({"output", "output_raw"})


def test_tensorboard_shows_the_recipe_as_text_once(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for first in (1, 3):
        session("tensorboard", tmp_path, events(first, first + 1), events(1, first - 1))
    held = EventAccumulator(str(tmp_path / "tensorboard"))
    held.Reload()
    (text,) = held.Tensors("recipe")
    assert b'"epochs": 2' in text.tensor_proto.string_val[0]


def test_a_store_that_is_lost_in_the_middle_stops_no_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlruns").as_uri())
    said = io.StringIO()
    with reporting(["mlflow"], Card("x", tmp_path, RECIPE, {}), [], Progress(stream=said, quiet=True)) as report:
        (tmp_path / "mlruns").rename(tmp_path / "gone")
        for event in events(1, 9):
            report(event)
    assert said.getvalue().count("warning: no more is reported to mlflow: ") == 1


def test_a_tracker_that_cannot_be_opened_is_the_users_to_mend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "nonsense://x")
    with pytest.raises(DistillError, match="mlflow cannot be opened") as raised:
        session("mlflow", tmp_path, [], [])
    assert "MLFLOW_TRACKING_URI" in str(raised.value.hint)
