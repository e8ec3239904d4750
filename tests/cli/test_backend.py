"""--backend: what computes, what a run that is gone on with keeps, and that a run moves from one backend to the other."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from mlx_distill.backends.choose import PACKAGES, missing
from mlx_distill.cli.main import COMMANDS
from mlx_distill.recipe.lock import read_lock
from tests.cli.conftest import Place
from tests.students import Called, call

BOTH = pytest.mark.skipif(any(missing(name) for name in PACKAGES), reason="two backends are needed")


def said(called: Called) -> list[str]:
    assert called.code == 0, called.err
    return [line for line in called.err.splitlines() if line.startswith("backend:")]


@pytest.mark.parametrize("name", ["run", "train", "convert", "evaluate", "infer", "bundle"])
def test_whatever_opens_a_base_or_a_student_takes_a_backend(name: str) -> None:
    assert name in COMMANDS
    assert "--backend [auto|mlx|torch]" in call(name, "--help").out


def test_an_unknown_one_is_refused_with_those_there_are(fresh: Path, tmp_path: Path) -> None:
    called = call("train", fresh, "--out", tmp_path / "run", "--backend", "jax")
    assert called.code == 2
    assert all(name in called.err for name in ("'jax'", "'auto'", "'mlx'", "'torch'"))


@BOTH
def test_a_training_keeps_its_backend_until_it_is_told_another(finished: Place, tmp_path: Path) -> None:
    """Begun on one, gone on with on the other, and from then on with that."""
    run = Path(shutil.copytree(finished.run, tmp_path / "run"))
    first = read_lock(run / "recipe.lock.yaml")[1]["backend"]
    other = next(name for name in PACKAGES if name != first)

    def more(epochs: int, *words: str) -> Called:
        return call("train", finished.recipe, "--out", run, "--resume", "--set", f"train.epochs={epochs}", *words)

    [line] = said(more(3))
    assert line.startswith(f"backend: {first} on ") and line.endswith("(the run was begun with it)")
    [line] = said(more(4, "--backend", other))
    assert line.startswith(f"backend: {other} on ") and not line.endswith(")")
    facts = read_lock(run / "recipe.lock.yaml")[1]
    assert facts["backend"] == other and facts["base"] == read_lock(finished.run / "recipe.lock.yaml")[1]["base"]
    moved = more(5)
    [line] = said(moved)
    assert line.startswith(f"backend: {other} on ") and "going on at step" in moved.err
    for name in PACKAGES:
        [line] = said(call("evaluate", run, "--backend", name))
        assert line.startswith(f"backend: {name} on ")
