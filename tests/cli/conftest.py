"""A tiny checkpoint, a recipe over it, and a run of it that is done: made once, copied where a test changes it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.checkpoints import make_checkpoint
from tests.students import Called, call, recipe, water, write_lines


@dataclass(frozen=True)
class Place:
    """recipe.yaml, rows.jsonl, checkpoint/ and run/ in one folder; `made` is what `run` said."""

    folder: Path
    made: Called

    @property
    def recipe(self) -> Path:
        return self.folder / "recipe.yaml"

    @property
    def run(self) -> Path:
        return self.folder / "run"


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLX_DISTILL_CACHE", str(folder))
        patch.setenv("HF_HUB_OFFLINE", "1")
        yield folder


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("checkpoint") / "tiny")


@pytest.fixture
def fresh(tmp_path: Path, checkpoint: Path) -> Path:
    """A recipe that nobody ran yet."""
    write_lines(tmp_path / "rows.jsonl", water())
    return recipe(tmp_path / "recipe.yaml", base={"model": str(checkpoint)})


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, checkpoint: Path) -> Place:
    """Not to be changed."""
    folder = tmp_path_factory.mktemp("finished")
    write_lines(folder / "rows.jsonl", water())
    path = recipe(folder / "recipe.yaml", base={"model": str(checkpoint)}, targets={"accuracy": 0.0})
    return Place(folder, call("run", path, "--out", folder / "run", "--json"))


@pytest.fixture
def done(finished: Place) -> Iterator[Place]:
    """The finished run, to be changed at will: what a test does to it is undone."""
    kept = finished.folder.with_name(finished.folder.name + ".kept")
    shutil.copytree(finished.folder, kept)
    yield finished
    shutil.rmtree(finished.folder)
    kept.rename(finished.folder)
