"""A tiny run, and texts for it to answer, bad ones among them: what jobs are tried on that run for long, or are killed.

Tests and the scripts `torture_inference.py` and `soak_inference.py` share them. The run is trained by the real command, in a process of its
own: who measures a child's memory had better be small.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from mlx_distill.recipe.load import load
from mlx_distill.recipe.schema import TaskSpec
from tests.checkpoints import make_checkpoint
from tests.students import recipe, write_lines

COMMAND = Path(sys.executable).with_name("mlx-distill")
TASK: dict[str, Any] = {
    "instructions": "How high is the water, and what does it do?",
    "input": "{text}",
    "fields": {
        "height": {"type": "score", "weight": 1.0},
        "flood": {"type": "flag"},
        "kind": {"type": "choice", "choices": ["river", "sea", "rain"]},
    },
    "tiers": {"high": 5.0, "low": 0.0},
}
CYCLE = 199
"""Texts after which the lengths come again: a job over more of them meets no longer ones."""


def tiny_run(folder: Path, *, answer: str = "json", **config: Any) -> Path:
    """A run of one layer, trained for an epoch; its recipe lies beside it, its base in `folder/cache`."""
    make_checkpoint(folder / "checkpoint", num_hidden_layers=1, **config)
    write_lines(folder / "rows.jsonl", ({"text": text(i), "height": i % 11, "flood": i % 2 == 0, "kind": "sea"} for i in range(20)))
    recipe(folder / "recipe.yaml", task=TASK, base={"model": "checkpoint"}, train={"epochs": 1, "max_tokens": 160}, answer=answer)
    done = subprocess.run(
        [COMMAND, "train", folder / "recipe.yaml", "--out", folder / "run"],
        env=environment(folder),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"no run to try it on:\n{done.stderr}")
    return folder / "run"


def task_of(run: Path) -> TaskSpec:
    loaded = load(run.parent / "recipe.yaml").recipe
    assert loaded is not None
    return loaded.task


def environment(folder: Path) -> dict[str, str]:
    """For a command over the run in this folder."""
    return {**os.environ, "MLX_DISTILL_CACHE": str(folder / "cache"), "HF_HUB_OFFLINE": "1"}


def text(i: int) -> str:
    return f"Post {i}: the water " + "rose above the bridge " * ((i * i) % CYCLE % 23)


def row(i: int) -> bytes:
    """A line of JSON. Every 13th is none, every 17th lacks its column, every 19th is not UTF-8, every 23rd has an id that was there."""
    if i % 13 == 12:
        return b'{"id": "cut in the mid\n'
    if i % 19 == 18:
        return b'{"id": "r%d", "text": "caf\xe9"}\n' % i
    name = i - 20 if i % 23 == 22 else i
    return json.dumps({"id": f"r{name}", "txt" if i % 17 == 16 else "text": text(i)}).encode() + b"\n"
