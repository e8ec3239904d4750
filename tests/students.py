"""Small recipes over a tiny base, and the command line called in this very process: what tests of commands and workflows share."""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import signal
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from mlx_distill.backends.choose import choose, decide
from mlx_distill.cli.main import main
from mlx_distill.convert import cached_base
from tests.checkpoints import make_checkpoint


@dataclass(frozen=True)
class Called:
    code: int
    out: str
    err: str

    @property
    def document(self) -> dict[str, Any]:
        """What `--json` printed: one line, one document."""
        assert self.out.count("\n") == 1, (self.out, self.err)
        found: dict[str, Any] = json.loads(self.out)
        return found


def call(*arguments: object) -> Called:
    """`mlx-distill ARGUMENTS` in this process: its own `main`, with standard output and error caught."""
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True) for _ in range(2))
    argv, handlers = sys.argv, {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    sys.argv = ["mlx-distill", *map(str, arguments)]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            main()
        raise AssertionError("main always exits")
    except SystemExit as end:
        code = end.code
    finally:
        sys.argv = argv
        for number, handler in handlers.items():
            signal.signal(number, handler)
    assert isinstance(code, int)
    return Called(code, *(stream.buffer.getvalue().decode() for stream in (out, err)))  # type: ignore[attr-defined]


def class_of(thing: str) -> type:
    """The class by which the backend that auto takes here does a "Student", "Session" or "Backend": to break in upon."""
    name = decide().name
    found: type = getattr(importlib.import_module(f"mlx_distill.backends.{name}.{thing.lower()}"), f"{name.capitalize()}{thing}")
    return found


def tiny_base(folder: Path, **config: Any) -> Path:
    """A checkpoint of random weights, converted to a base in float32."""
    source = make_checkpoint(folder / "checkpoint", **config)
    settings: dict[str, Any] = {"bits": None, "group_size": 64, "dtype": "float32", "origin": None, "revision": None}
    return cached_base(source, backend=choose("mlx"), cache=folder / "cache", **settings)[0]


def write_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def recipe(path: Path, **sections: Any) -> Path:
    """A recipe's file. Sections are laid over a whole one: `data` is merged key by key, and so on."""
    whole: dict[str, Any] = {
        "name": "floods",
        "task": {"instructions": "How high is the water?", "input": "{text}", "fields": {"high": {"type": "flag"}}},
        "data": {"source": {"kind": "jsonl", "path": "rows.jsonl"}, "split": {"train": 0.6, "valid": 0.2, "test": 0.2}},
        "base": {"model": "checkpoint", "bits": "none"},
        "lora": {"rank": 4, "alpha": 8},
        "train": {"epochs": 2, "batch_size": 4, "accumulate": 1, "learning_rate": 1e-2, "max_tokens": 256},
        "evaluate": {"bootstrap": 100},
    }
    merged = {
        key: {**value, **sections.get(key, {})} if isinstance(value, dict) else sections.get(key, value) for key, value in whole.items()
    }
    path.write_text(yaml.safe_dump({**sections, **merged}, sort_keys=False, allow_unicode=True), encoding="utf-8")
    return path


def water(number: int = 40) -> list[dict[str, Any]]:
    """Rows that the recipe above reads."""
    return [
        {"id": f"w{i:02}", "text": f"The river {'rose above the bridge' if i % 3 else 'is low'} at post {i}.", "high": bool(i % 3)}
        for i in range(number)
    ]
