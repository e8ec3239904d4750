"""What a run's folder must be at every moment, whoever was killed in it, and when two runs have ended in the same.

Tests and `scripts/torture_training.py` share it. Everything is read by the formats' own readers (json, safetensors, YAML), not by ours.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from safetensors import safe_open

KNOWN = {"recipe.lock.yaml", "split.json", "events.jsonl", "adapter", "checkpoints"}
ADAPTER, WEIGHTS = {"adapter_config.json", "adapter_model.safetensors"}, "adapter_model.safetensors"
CHECKPOINT = ADAPTER | {"optimizer.safetensors", "position.json"}
CLOCKS = ("time", "seconds", "memory", "compilations")
"""Figures of an event that no two runs share."""


def faults(run: Path) -> list[str]:
    """What is wrong with a folder in which a training was killed, or ended. Hidden files, which are not whole yet, are passed over."""
    return list(_faults(run)) if run.is_dir() else []


def leftovers(run: Path) -> list[str]:
    """Hidden files: of them nothing may be left by who ended by himself."""
    return [str(path.relative_to(run.parent)) for path in sorted(run.parent.rglob(".*"))]


def _faults(run: Path) -> Iterator[str]:
    yield from (f"{path.name} does not belong there" for path in _visible(run) if path.name not in KNOWN)
    if (run / "recipe.lock.yaml").exists():
        lock = yaml.safe_load((run / "recipe.lock.yaml").read_text("utf-8"))
        if not {"recipe", "locked"} <= set(lock):
            yield "the lock is not whole"
        if not (run / "split.json").exists():
            yield "there is a lock and no split"
    if (run / "split.json").exists() and set(json.loads((run / "split.json").read_text("utf-8"))) != {"train", "valid", "test"}:
        yield "the split is not whole"
    yield from _faults_of_events(run / "events.jsonl")
    if not {path.name for path in _visible(run / "adapter")} <= ADAPTER:
        yield f"adapter/ has {[path.name for path in _visible(run / 'adapter')]}"
    if (run / "adapter" / WEIGHTS).exists():
        tensors(run / "adapter" / WEIGHTS)
    for path in _visible(run / "checkpoints"):
        yield from (f"{path.name}: {fault}" for fault in _faults_of_checkpoint(path))
    yield from _faults_of_best(run)


def _faults_of_events(path: Path) -> Iterator[str]:
    lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    for number, line in enumerate(lines, start=1):
        if line.endswith(b"\n"):
            json.loads(line)
        elif number < len(lines):
            yield f"events.jsonl:{number} is torn, and not the last"


def _faults_of_checkpoint(path: Path) -> Iterator[str]:
    if (there := {file.name for file in _visible(path)}) != CHECKPOINT:
        yield f"has {sorted(there)}"
        return
    position = json.loads((path / "position.json").read_text("utf-8"))
    if f"step-{position['step']:06d}" != path.name:
        yield f"says that it is of step {position['step']}"
    for name, digest in position["files"].items():
        if hashlib.sha256((path / name).read_bytes()).hexdigest() != digest:
            yield f"{name} is not what was written"
    weights, state = tensors(path / WEIGHTS), tensors(path / "optimizer.safetensors")
    if {f"{name}.{moment}" for name in weights for moment in "mv"} | {"step"} != set(state):
        yield "the optimizer's state is not that of the weights"


def _faults_of_best(run: Path) -> Iterator[str]:
    """What the last checkpoint calls the best is there whole, beside it."""
    if found := newest(run):
        best = json.loads((found / "position.json").read_text("utf-8"))["stopping"].get("step", -1)
        if best > 0 and not (run / "checkpoints" / f"step-{best:06d}").is_dir():
            yield f"{found.name} says that step {best} is the best, and that has no checkpoint"
        if best > 0 and not (run / "adapter" / WEIGHTS).is_file():
            yield f"{found.name} says that step {best} is the best, and there is no adapter"


def newest(run: Path) -> Path | None:
    return max(_visible(run / "checkpoints"), default=None)


def tensors(path: Path) -> list[str]:
    """Names of a file's tensors; every one of them is read."""
    with safe_open(path, "np") as file:  # type: ignore[no-untyped-call]
        for name in (names := list(file.keys())):
            file.get_tensor(name)
    return names


def _visible(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.iterdir()) if not path.name.startswith(".")] if folder.is_dir() else []


def end(run: Path) -> dict[str, Any]:
    """What two runs that ended in the same have in common: every byte but clocks."""
    files = {str(path.relative_to(run)): path.read_bytes() for path in sorted(run.rglob("*")) if path.is_file()}
    named: dict[str, Any] = {name: data for name, data in files.items() if not name.endswith(("position.json", "events.jsonl"))}
    for name in files:
        if name.endswith("position.json"):
            named[name] = {key: value for key, value in json.loads(files[name]).items() if key not in ("seconds", "sha256")}
    return named | {"events": story(run)}


def story(run: Path) -> list[dict[str, Any]]:
    """Its events without clocks, and without those of how it was stopped and gone on with (`trained`, where that was an interruption)."""
    events = [json.loads(line) for line in (run / "events.jsonl").read_text("utf-8").splitlines()]
    told = ("step", "skipped", "validated", "samples", "trained")
    kept = [event for event in events if event["name"] in told and event.get("stopped") != "interrupted"]
    return [{key: value for key, value in event.items() if key not in CLOCKS} for event in kept]


def differences(one: Path, other: Path) -> list[str]:
    """Names of what is not the same in two runs that ended."""
    ours, theirs = end(one), end(other)
    return [name for name in sorted(ours.keys() | theirs.keys()) if ours.get(name) != theirs.get(name)]
